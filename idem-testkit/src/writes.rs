//! Runs in recorded steps that write: for a store with transactions.

use std::time::Instant;

use idem_core::Kind;
use idem_core::store::{Claimed, Context, Intent, Lease};

use crate::contracts;
use crate::leased::after_pause;
use crate::support::{
    HOUR, MINUTE, SECOND, TERMS, claimed, lease, leased, outcome, replayed, reply, request, transaction,
};

contracts! { $ writes_contract in writes for Subject:
    /// A step's writes and its entry are one commit. So are the last writes and the outcome.
    async fn r27_writes_and_entry_are_one_commit(subject) {
        let attempt = leased(&subject, &request("k")).await;
        let mut tx = attempt.lease.begin().await.expect("held");
        S::write(&mut tx).await;
        attempt.lease.record(Some(tx), &transaction(0, "reserve")).await.expect("kept");
        assert_eq!(subject.written().await, 1);

        let mut tx = attempt.lease.begin().await.expect("held");
        S::write(&mut tx).await;
        attempt.lease.roll_back(tx).await.expect("rolled back");
        assert_eq!(subject.written().await, 1);

        let mut tx = attempt.lease.begin().await.expect("held");
        S::write(&mut tx).await;
        attempt.lease.complete(Some(tx), &outcome("done")).await.expect("kept");
        assert_eq!((subject.written().await, replayed(&subject, &request("k")).await), (2, reply("done")));
    }

    /// The transaction of a claim that was taken over keeps nothing, and neither does one that was rolled back.
    async fn r26_a_stale_claim_writes_nothing(subject) {
        let stale = leased(&subject, &request("k")).await;
        let mut open = stale.lease.begin().await.expect("held");
        S::write(&mut open).await;
        stale.lease.roll_back(open).await.expect("rolled back");
        subject.pass(2 * MINUTE).await;
        let current = leased(&subject, &request("k")).await;
        // It may begin.
        for completes in [false, true] {
            let ended = match stale.lease.begin().await {
                Ok(mut tx) => {
                    S::write(&mut tx).await;
                    if completes {
                        stale.lease.complete(Some(tx), &outcome("stale")).await
                    } else {
                        stale.lease.record(Some(tx), &transaction(1, "stale")).await
                    }
                }
                Err(error) => Err(error),
            };
            assert_eq!(ended.expect_err("lost").kind(), Kind::LeaseLost);
        }
        current.lease.renew().await.expect("held");
        assert_eq!(subject.written().await, 0);
    }

    /// A run that begins in the place of an expired one has not been released.
    async fn r25a_a_new_run_is_not_spaced_by_an_old_one(subject) {
        let fail = async || {
            let mut released = Instant::now();
            for pause in [0, 0, 1, 2, 4, 8] {
                let attempt = after_pause(&subject, &TERMS, released, SECOND * pause).await;
                released = Instant::now();
                attempt.lease.release().await.expect("held");
            }
            let next = lease(&subject, &request("k"), &TERMS, Intent::Run).await;
            assert!(matches!(next, Claimed::TooSoon(rest) if rest > SECOND * 8));
            subject.pass(2 * HOUR).await;
        };
        fail().await;
        fail().await;
        // The same if a run in one transaction comes between the two.
        claimed(&subject, &request("k")).await.complete(&outcome("done")).await.expect("kept");
        subject.pass(2 * HOUR).await;
        fail().await;
    }
}
