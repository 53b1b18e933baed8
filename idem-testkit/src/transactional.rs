//! Runs in one transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use idem_core::store::{Claimed, Context, Format, Lease, Outcome, Rejected, Reply, Store, Transaction};
use idem_core::{Disposition, Fingerprint, Identity, Kind, Request, Start, Then, begin};

use crate::contracts;
use crate::support::{
    HOUR, MINUTE, SECOND, asking, claimed, eventually, in_a_second, leased, outcome, refused, replayed, reply, request,
    sent_ago, transaction,
};

contracts! { $ transactional_contract in transactional for Subject:
    /// Of any number of duplicates exactly one runs, and the others get its reply, or are told to wait.
    async fn r10_of_many_duplicates_exactly_one_runs(subject) {
        let subject = Arc::new(subject);
        for round in 0..10 {
            let request = request(&format!("key {round}"));
            let tasks = (0..16).map(|_| {
                let (subject, request) = (Arc::clone(&subject), request.clone());
                tokio::spawn(async move {
                    match S::Tx::claim(subject.store(), &request).await.expect("an answer") {
                        Claimed::Run(mut tx) => {
                            S::write(&mut tx).await;
                            tx.complete(&outcome("done")).await.expect("kept");
                        }
                        Claimed::Replay(stored, _) => assert_eq!(stored, reply("done")),
                        Claimed::Refuse(kind) => assert_eq!(kind, Kind::KeyInFlight),
                        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
                    }
                })
            });
            for ended in join_all(tasks).await {
                ended.expect("no panic");
            }
            assert_eq!(subject.written().await, round + 1);
            assert_eq!(replayed(&*subject, &request).await, reply("done"));
        }
    }

    /// Scope, operation and key are compared one by one.
    async fn r02_no_joining_of_strings_makes_two_identities_one(subject) {
        let ttl = HOUR;
        for (scope, operation, key) in [("a", "b", "c"), ("ab", "c", "c"), ("a", "bc", "c"), ("a", "b", "cc"), ("A", "b", "c")] {
            let identity = Identity::new(scope, operation, key).expect("an identity");
            let request = Request::new(identity, Fingerprint::none(), ttl).expect("a request");
            let tx = claimed(&subject, &request).await;
            tx.complete(&outcome("done")).await.expect("kept");
        }
    }

    /// Another fingerprint is refused while the first runs, and afterwards. The record does not change.
    async fn r07_another_fingerprint_is_refused(subject) {
        let tx = claimed(&subject, &request("k")).await;
        assert_eq!(refused(&subject, &asking("k", "that")).await, Kind::KeyReused);
        assert_eq!(refused(&subject, &request("k")).await, Kind::KeyInFlight);
        tx.complete(&outcome("done")).await.expect("kept");
        assert_eq!(refused(&subject, &asking("k", "that")).await, Kind::KeyReused);
        assert_eq!(replayed(&subject, &request("k")).await, reply("done"));
    }

    /// A `ttl` that was set by hand is refused like one that is given, and nothing overflows.
    async fn r32_a_ttl_out_of_its_range_is_refused(subject) {
        for ttl in [Duration::ZERO, Duration::from_millis(999), Request::MAX_TTL + Duration::from_secs(1), Duration::MAX] {
            let mut request = request("k");
            request.ttl = ttl;
            let refused = S::Tx::claim(subject.store(), &request).await.map(|_| ()).expect_err("no such ttl");
            assert_eq!(refused.kind(), Kind::TtlInvalid, "{ttl:?}");
        }
        for (key, ttl) in [("shortest", Request::MIN_TTL), ("longest", Request::MAX_TTL)] {
            let mut request = request(key);
            request.ttl = ttl;
            claimed(&subject, &request).await.complete(&outcome("done")).await.expect("kept");
        }
        assert_eq!(replayed(&subject, &request("longest")).await, reply("done"));
    }

    /// A completion keeps the writes and the reply, a rejection the reply alone, a release and a drop neither.
    async fn r14_what_is_kept_is_what_the_ending_says(subject) {
        let mut tx = claimed(&subject, &request("completed")).await;
        S::write(&mut tx).await;
        tx.complete(&outcome("done")).await.expect("kept");
        assert_eq!(subject.written().await, 1);

        let mut tx = claimed(&subject, &request("rejected")).await;
        S::write(&mut tx).await;
        assert!(matches!(tx.reject(&outcome("declined")).await.expect("kept"), Rejected::Stored));
        assert_eq!((subject.written().await, replayed(&subject, &request("rejected")).await), (1, reply("declined")));

        for is_dropped in [false, true] {
            let mut tx = claimed(&subject, &request("neither")).await;
            S::write(&mut tx).await;
            if is_dropped {
                drop(tx);
            } else {
                tx.release().await.expect("released");
            }
            eventually("the key is free", async || {
                match S::Tx::claim(subject.store(), &request("neither")).await.expect("an answer") {
                    Claimed::Run(tx) => tx.release().await.is_ok(),
                    Claimed::Refuse(Kind::KeyInFlight) => false,
                    other => panic!("{:?}", other_than_run(&other)),
                }
            })
            .await;
            assert_eq!(subject.written().await, 1);
        }
    }

    /// A reply comes back byte for byte, whatever it is.
    async fn r19_a_reply_comes_back_as_it_was(subject) {
        let replies = [
            Reply { format: Format::HTTP, status: Some(201), headers: Bytes::from_static(b"\0\x01\xff"), body: Bytes::new() },
            Reply { format: Format::HTTP, status: Some(599), headers: Bytes::new(), body: Bytes::from_static(&[0, 255, 10, 13]) },
            Reply { format: Format::VALUE, status: None, headers: Bytes::from_static(b"u8"), body: Bytes::from_static(b"null") },
            Reply { format: Format::ERROR, status: None, headers: Bytes::new(), body: Bytes::from(vec![7; 100_000]) },
        ];
        for (number, reply) in replies.into_iter().enumerate() {
            let request = request(&format!("key {number}"));
            let tx = claimed(&subject, &request).await;
            tx.complete(&Outcome::Reply(reply.clone())).await.expect("kept");
            for _ in 0..2 {
                assert_eq!(replayed(&subject, &request).await, reply);
            }
        }
    }

    /// A reply over the limit leaves a tombstone, and its request does not run again.
    async fn r21_a_tombstone_is_no_reply_and_no_second_run(subject) {
        let mut tx = claimed(&subject, &request("k")).await;
        S::write(&mut tx).await;
        tx.complete(&Outcome::Oversized).await.expect("kept");
        assert_eq!(refused(&subject, &request("k")).await, Kind::ReplyTooLarge);
        assert_eq!(subject.written().await, 1);
    }

    /// An expired record is absent, swept or not: for another fingerprint, too. One that has not expired counts.
    async fn r32_an_expired_record_is_as_good_as_none(subject) {
        for is_swept in [false, true] {
            let tx = claimed(&subject, &request("k")).await;
            tx.complete(&outcome("first")).await.expect("kept");
            subject.pass(HOUR - MINUTE).await;
            assert_eq!(replayed(&subject, &request("k")).await, reply("first"));
            assert_eq!(subject.sweep().await, 0);
            subject.pass(2 * MINUTE).await;
            if is_swept {
                assert_eq!(subject.sweep().await, 1);
            }
            let tx = claimed(&subject, &asking("k", "that")).await;
            tx.complete(&outcome("second")).await.expect("kept");
            assert_eq!(replayed(&subject, &asking("k", "that")).await, reply("second"));
            subject.pass(2 * HOUR).await;
        }
    }

    /// With `then = refuse`, a retry after the `ttl` does not run, swept or not. Then the record expires like any other.
    async fn r36_a_late_retry_is_refused_whether_swept_or_not(subject) {
        for (round, is_swept) in [false, true].into_iter().enumerate() {
            for ending in ["completed", "rejected", "oversized"] {
                let key = format!("{ending} {round}");
                let [this, that] = ["this", "that"].map(|what| asking(&key, what).then(Then::Refuse(HOUR)).expect("an hour"));
                let mut tx = claimed(&subject, &this).await;
                S::write(&mut tx).await;
                match ending {
                    "completed" => tx.complete(&outcome("done")).await.expect("kept"),
                    "rejected" => assert!(matches!(tx.reject(&outcome("done")).await.expect("kept"), Rejected::Stored)),
                    _ => tx.complete(&Outcome::Oversized).await.expect("kept"),
                }
                subject.pass(HOUR - MINUTE).await;
                if ending == "oversized" {
                    assert_eq!(refused(&subject, &this).await, Kind::ReplyTooLarge);
                } else {
                    assert_eq!(replayed(&subject, &this).await, reply("done"));
                }
                for minutes in [2, 57] {
                    subject.pass(minutes * MINUTE).await;
                    if is_swept {
                        assert_eq!(subject.sweep().await, 0, "it is not removed");
                    }
                    assert_eq!(refused(&subject, &this).await, Kind::RetryTooLate, "{ending}");
                    assert_eq!(refused(&subject, &that).await, Kind::KeyReused, "{ending}");
                    // What the retry asks for does not count: the record says for how long it is kept.
                    assert_eq!(refused(&subject, &asking(&key, "this")).await, Kind::RetryTooLate, "{ending}");
                }
                subject.pass(3 * MINUTE).await;
                if is_swept {
                    assert_eq!(subject.sweep().await, 1);
                }
                let tx = claimed(&subject, &that).await;
                tx.complete(&outcome("second")).await.expect("kept");
                assert_eq!(replayed(&subject, &that).await, reply("second"));
                subject.pass(3 * HOUR).await;
                assert_eq!(subject.sweep().await, 1);
            }
        }
    }

    /// A record that was kept leaves nothing to the one that takes its place.
    async fn r36_the_next_record_is_kept_as_its_own_request_says(subject) {
        let kept = request("k").then(Then::Refuse(HOUR)).expect("an hour");
        claimed(&subject, &kept).await.complete(&outcome("first")).await.expect("kept");
        subject.pass(2 * HOUR + MINUTE).await;
        claimed(&subject, &request("k")).await.complete(&outcome("second")).await.expect("kept");
        subject.pass(HOUR + MINUTE).await;
        claimed(&subject, &request("k")).await.complete(&outcome("third")).await.expect("kept");
        assert_eq!(replayed(&subject, &kept).await, reply("third"));
    }

    /// The time of `refuse` has the limits of a `ttl`.
    async fn r36_a_time_out_of_its_range_is_refused(subject) {
        for time in [Duration::ZERO, Duration::from_millis(999), Request::MAX_TTL + Duration::from_secs(1), Duration::MAX] {
            let mut request = request("k");
            request.then = Then::Refuse(time);
            let refused = S::Tx::claim(subject.store(), &request).await.map(|_| ()).expect_err("no such time");
            assert_eq!(refused.kind(), Kind::TtlInvalid, "{time:?}");
        }
        for (key, time) in [("shortest", Request::MIN_TTL), ("longest", Request::MAX_TTL)] {
            let mut request = request(key).then(Then::Refuse(time)).expect("a time");
            request.ttl = time;
            claimed(&subject, &request).await.complete(&outcome("done")).await.expect("kept");
            assert_eq!(replayed(&subject, &request).await, reply("done"));
        }
    }

    /// Without a record, a request that was first sent longer ago than its `ttl` does not run, nor does one from the
    /// future. The time is the store's.
    async fn r36_a_request_that_was_first_sent_too_long_ago_does_not_begin(subject) {
        let (hour, too_old, invalid) = (3600, Some(Kind::FirstSentTooOld), Some(Kind::FirstSentInvalid));
        // Only a finished record refuses retries for longer.
        for then in [Then::Run, Then::Refuse(2 * HOUR)] {
            for (ago, expected) in [
                (0, None), (hour - 1, None), (hour, too_old), (9 * hour, too_old), (-299, None), (-301, invalid), (-hour, invalid),
            ] {
                let request = request(&format!("{then:?} {ago}")).then(then).expect("hours");
                let answer = in_a_second(async || {
                    let request = sent_ago(&subject, &request, ago).await;
                    match S::Tx::claim(subject.store(), &request).await.expect("an answer") {
                        // The next try must not find it.
                        Claimed::Run(tx) => tx.release().await.map(|()| None).expect("released"),
                        Claimed::Refuse(kind) => Some(kind),
                        Claimed::Replay(..) | Claimed::TooSoon(_) => panic!("nothing is recorded"),
                    }
                });
                assert_eq!(answer.await, expected, "{then:?} {ago}");
            }
        }
        assert_eq!(subject.written().await, 0);
    }

    /// A request with a record is answered by the record, whenever it was first sent. An expired record is none.
    async fn r36_a_record_answers_a_request_that_was_first_sent_too_long_ago(subject) {
        for (round, is_swept) in [false, true].into_iter().enumerate() {
            let key = format!("k{round}");
            let [this, that] = ["this", "that"].map(|what| asking(&key, what).then(Then::Refuse(HOUR)).expect("an hour"));
            claimed(&subject, &this).await.complete(&outcome("done")).await.expect("kept");
            for ago in [-7200, 7200, 72_000] {
                let [this, that] = [sent_ago(&subject, &this, ago).await, sent_ago(&subject, &that, ago).await];
                assert_eq!(replayed(&subject, &this).await, reply("done"));
                assert_eq!(refused(&subject, &that).await, Kind::KeyReused);
            }
            subject.pass(HOUR + MINUTE).await;
            let late = sent_ago(&subject, &this, 7200).await;
            assert_eq!(refused(&subject, &late).await, Kind::RetryTooLate);
            subject.pass(HOUR).await;
            if is_swept {
                assert_eq!(subject.sweep().await, 1);
            }
            for (ago, kind) in [(7200, Kind::FirstSentTooOld), (7260, Kind::FirstSentTooOld), (-7200, Kind::FirstSentInvalid)] {
                for asked in [&this, &that] {
                    assert_eq!(refused(&subject, &sent_ago(&subject, asked, ago).await).await, kind, "{ago}");
                }
            }
            // A request that says nothing runs, as it does without the check.
            claimed(&subject, &that).await.complete(&outcome("second")).await.expect("kept");
            assert_eq!(replayed(&subject, &sent_ago(&subject, &that, 7200).await).await, reply("second"));
            subject.pass(3 * HOUR).await;
            assert_eq!(subject.sweep().await, 1);
        }
    }

    /// A run that has begun in time is recorded, however long it takes, and its duplicates are told that it runs.
    async fn r36_a_run_that_began_in_time_is_recorded_after_it(subject) {
        let minute = |key: &str| {
            let mut request = request(key);
            request.ttl = MINUTE;
            request
        };
        for (round, is_rejected) in [false, true].into_iter().enumerate() {
            // It begins in the last second of its time. On a busy machine that takes several tries.
            let mut tries = 0;
            let (request, tx) = loop {
                tries += 1;
                assert!(tries < 100, "the machine is too slow for this test");
                let request = sent_ago(&subject, &minute(&format!("{round} {tries}")), 59).await;
                match S::Tx::claim(subject.store(), &request).await.expect("an answer") {
                    Claimed::Run(tx) => break (request, tx),
                    Claimed::Refuse(kind) => assert_eq!(kind, Kind::FirstSentTooOld),
                    Claimed::Replay(..) | Claimed::TooSoon(_) => panic!("nothing is recorded"),
                }
            };
            let began = subject.now().await;
            eventually("the time is over", async || subject.now().await > began + SECOND).await;
            // Without locks a store cannot see a run that is not committed.
            let told = refused(&subject, &request).await;
            assert!(matches!(told, Kind::KeyInFlight | Kind::FirstSentTooOld), "{told:?}");
            if is_rejected {
                assert!(matches!(tx.reject(&outcome("done")).await.expect("an answer"), Rejected::Stored));
            } else {
                tx.complete(&outcome("done")).await.expect("kept");
            }
            assert_eq!(replayed(&subject, &request).await, reply("done"));
        }
    }

    /// Of many late retries at once none runs, in whatever moment the sweep removes the record.
    async fn r36_of_64_late_retries_that_were_first_sent_too_long_ago_none_runs(subject) {
        let subject = Arc::new(subject);
        for round in 0..4 {
            let key = format!("k{round}");
            claimed(&*subject, &request(&key)).await.complete(&outcome("done")).await.expect("kept");
            subject.pass(2 * HOUR).await;
            let late = sent_ago(&*subject, &request(&key), 7200).await;
            let tasks = (0..64).map(|at| {
                let (subject, late) = (Arc::clone(&subject), late.clone());
                tokio::spawn(async move {
                    if at == 20 {
                        assert_eq!(subject.sweep().await, 1);
                    }
                    refused(&*subject, &late).await
                })
            });
            for ended in join_all(tasks).await {
                assert_eq!(ended.expect("no panic"), Kind::FirstSentTooOld);
            }
        }
    }

    /// Of many callers on an expired key exactly one runs.
    async fn r32_of_many_callers_on_an_expired_key_exactly_one_runs(subject) {
        let subject = Arc::new(subject);
        for round in 1..=5 {
            let tx = claimed(&*subject, &request("k")).await;
            tx.complete(&outcome("before")).await.expect("kept");
            subject.pass(2 * HOUR).await;
            let tasks = (0..16).map(|_| {
                let subject = Arc::clone(&subject);
                tokio::spawn(async move {
                    if let Claimed::Run(mut tx) = S::Tx::claim(subject.store(), &request("k")).await.expect("an answer") {
                        S::write(&mut tx).await;
                        tx.complete(&outcome("after")).await.expect("kept");
                    }
                })
            });
            for ended in join_all(tasks).await {
                ended.expect("no panic");
            }
            assert_eq!((subject.written().await, replayed(&*subject, &request("k")).await), (round, reply("after")));
            subject.pass(2 * HOUR).await;
        }
    }

    /// A transaction without a record keeps its writes, or does not.
    async fn r09_a_transaction_without_a_record(subject) {
        for (disposition, written) in [(Disposition::Commit, 1), (Disposition::Release, 1), (Disposition::Reject, 1), (Disposition::Commit, 2)] {
            let mut tx = S::Tx::begin_unrecorded(subject.store()).await.expect("a transaction");
            S::write(&mut tx).await;
            tx.finish_unrecorded(disposition).await.expect("ended");
            assert_eq!(subject.written().await, written, "{disposition:?}");
        }
        let mut tx = <S::Tx as Transaction>::begin(subject.store()).await.expect("a transaction");
        S::write(&mut tx).await;
        drop(tx);
        let tx = <S::Tx as Transaction>::begin(subject.store()).await.expect("a transaction");
        tx.end(Disposition::Commit).await.expect("ended");
        assert_eq!(subject.written().await, 2, "a drop rolls back");
    }

    /// A transaction does not take over what was begun in steps.
    async fn r28_a_transaction_takes_over_no_leased_run(subject) {
        let attempt = leased(&subject, &request("k")).await;
        assert_eq!(refused(&subject, &request("k")).await, Kind::KeyInFlight);
        subject.pass(2 * MINUTE).await;
        assert_eq!(refused(&subject, &request("k")).await, Kind::StepMismatch);
        drop(attempt);
    }

    /// A transaction that takes the place of an expired leased run ends the lease: a stalled attempt changes nothing.
    async fn r26_a_transaction_in_the_place_of_an_expired_run_ends_its_lease(subject) {
        let stalled = leased(&subject, &request("k")).await;
        subject.pass(2 * HOUR).await;
        let tx = claimed(&subject, &request("k")).await;
        tx.complete(&outcome("done")).await.expect("kept");
        let lost = |ended: Result<(), idem_core::Error>| assert_eq!(ended.expect_err("lost").kind(), Kind::LeaseLost);
        lost(stalled.lease.renew().await);
        lost(stalled.lease.record(None, &transaction(0, "stale")).await);
        lost(stalled.lease.complete(None, &outcome("stale")).await);
        assert_eq!(replayed(&subject, &request("k")).await, reply("done"));
    }

    /// Runs are counted until they are over, for a shutdown that waits.
    async fn runs_are_counted_until_they_are_over(subject) {
        let Start::Run(run) = begin::<S::Tx>(subject.store(), &request("k")).await.expect("a claim") else { panic!("a new key") };
        assert_eq!(subject.store().runs().count(), 1);
        run.complete(&17).await.expect("kept");
        subject.store().runs().drained().await;
        let Start::Stored(stored) = begin::<S::Tx>(subject.store(), &request("k")).await.expect("a reply") else { panic!("it ran") };
        assert!(matches!(stored, idem_core::Stored::Completed(value) if value.read::<i32>().expect("a number") == 17));
    }
}

fn other_than_run<T>(claimed: &Claimed<T>) -> String {
    match claimed {
        Claimed::Run(_) => "a run".to_owned(),
        Claimed::Replay(reply, _) => format!("{reply:?}"),
        Claimed::Refuse(kind) => format!("{kind:?}"),
        Claimed::TooSoon(rest) => format!("too soon by {rest:?}"),
    }
}
