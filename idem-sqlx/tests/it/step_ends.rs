//! Rules 16 and 26: a step that ends the transaction it was lent, and a lease that is lost while the step runs.

use std::time::Duration;

use idem_core::store::{Claimed, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Error, Fingerprint, Identity, Kind, Request};

use crate::support::{Database, Postgres};

/// Each is a way to end a transaction.
const ENDS: &[&[&str]] = &[
    &["COMMIT"],
    &["ROLLBACK"],
    &["COMMIT", "BEGIN"],
    &["ROLLBACK", "BEGIN"],
    &["SAVEPOINT own", "COMMIT"],
    &["SAVEPOINT own", "ROLLBACK", "BEGIN"],
];

/// After it, another transaction of the step's own has failed.
const BROKEN: &str = "INSERT INTO effects VALUES (NULL, NULL)";

/// These are Postgres' own.
const CHAINS: &[&[&str]] = &[&["COMMIT AND CHAIN"], &["ROLLBACK AND CHAIN"]];

fn request(key: &str) -> Request {
    let identity = Identity::new("test", "steps.end", key).expect("an identity");
    Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request")
}

fn reply() -> Reply {
    Reply { format: Format::VALUE, status: None, headers: Default::default(), body: b"1".as_slice().into() }
}

async fn attempt<L: Lease>(store: &L::Store, request: &Request) -> L {
    match L::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await.expect("an answer") {
        Claimed::Run(attempt) => attempt.lease,
        _ => panic!("it runs"),
    }
}

async fn refused<L: Lease>(store: &L::Store, request: &Request) -> Kind {
    match L::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await.expect("an answer") {
        Claimed::Refuse(kind) => kind,
        _ => panic!("it is refused"),
    }
}

/// The last statement of a step, or that of the whole run.
async fn written<L: Lease>(lease: &L, tx: L::Tx, completes: bool) -> Result<(), Error> {
    if completes {
        lease.complete(Some(tx), &Outcome::Reply(reply())).await
    } else {
        lease.record(Some(tx), &Entry::new(0, EntryKind::TRANSACTION, "step").with_reply(reply())).await
    }
}

both! {
    async fn r16_a_step_that_ends_its_transaction_is_detected_and_its_key_is_poisoned(db) {
        let store = db.store(2).await;
        let is_postgres = D::EXCEPTION == Postgres::EXCEPTION;
        let ends = ENDS.iter().chain(if is_postgres { CHAINS } else { &[] });
        for (number, end) in ends.enumerate() {
            for completes in [false, true] {
                let request = request(&format!("k{number}{completes}"));
                let lease = attempt::<<D as Database>::Lease>(&store, &request).await;
                let mut tx = lease.begin().await.expect("a transaction");
                D::effect(&mut tx, "before").await;
                for statement in *end {
                    sqlx::raw_sql(*statement).execute(&mut *tx).await.expect(statement);
                }
                D::effect(&mut tx, "after").await;
                let ended = written(&lease, tx, completes).await.map_err(|error| error.kind());
                assert_eq!(ended, Err(Kind::TransactionEnded), "{end:?}");
                drop(lease);
                assert_eq!(refused::<<D as Database>::Lease>(&store, &request).await, Kind::TransactionEnded, "{end:?}");
            }
        }
        assert_eq!(db.number("SELECT count(*) FROM idem_journal").await, 0, "no step counts as finished");
    }

    async fn r16_a_step_that_ends_its_transaction_and_fails_is_detected(db) {
        let store = db.store(2).await;
        for (number, end) in ENDS.iter().chain(ENDS).enumerate() {
            let request = request(&format!("k{number}"));
            let lease = attempt::<<D as Database>::Lease>(&store, &request).await;
            let mut tx = lease.begin().await.expect("a transaction");
            for statement in *end {
                sqlx::raw_sql(*statement).execute(&mut *tx).await.expect(statement);
            }
            if number >= ENDS.len() {
                sqlx::raw_sql(BROKEN).execute(&mut *tx).await.expect_err("it fails");
            }
            let ended = lease.roll_back(tx).await.map_err(|error| error.kind());
            assert_eq!(ended, Err(Kind::TransactionEnded), "{end:?}");
            drop(lease);
            assert_eq!(refused::<<D as Database>::Lease>(&store, &request).await, Kind::TransactionEnded, "{end:?}");
        }
    }

    async fn r16_a_savepoint_of_a_step_is_its_own(db) {
        let store = db.store(2).await;
        for completes in [false, true] {
            let request = request(&format!("k{completes}"));
            let lease = attempt::<<D as Database>::Lease>(&store, &request).await;
            let mut tx = lease.begin().await.expect("a transaction");
            for statement in ["SAVEPOINT own", "SAVEPOINT other", "ROLLBACK TO SAVEPOINT own"] {
                sqlx::raw_sql(statement).execute(&mut *tx).await.expect(statement);
            }
            D::effect(&mut tx, "kept").await;
            written(&lease, tx, completes).await.expect("kept");
        }
        assert_eq!(db.effects().await, 2);
    }

    async fn r26_a_lease_that_is_lost_in_a_step_keeps_nothing(db) {
        let store = db.store(4).await;
        let lease = attempt::<<D as Database>::Lease>(&store, &request("k")).await;
        for completes in [false, true] {
            // Another process takes over as soon as the lease has ended. On SQLite it does so before the step begins.
            db.execute("UPDATE idem_records SET claim = fingerprint").await;
            let lost = match lease.begin().await {
                Ok(mut tx) => {
                    D::effect(&mut tx, "stale").await;
                    written(&lease, tx, completes).await
                }
                Err(error) => Err(error),
            };
            assert_eq!(lost.map_err(|error| error.kind()), Err(Kind::LeaseLost));
        }
        let entries = db.number("SELECT count(*) FROM idem_journal").await;
        assert_eq!((db.effects().await, entries), (0, 0));
    }
}

/// On Postgres the lease can be lost after the step's transaction has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r26_postgres_a_lease_that_is_lost_after_a_step_began_keeps_nothing() {
    let db = Postgres::create().await;
    let store = db.store(4).await;
    for completes in [false, true] {
        let lease = attempt::<idem_sqlx::PgLease>(&store, &request(&format!("k{completes}"))).await;
        let mut tx = lease.begin().await.expect("a transaction");
        Postgres::effect(&mut tx, "stale").await;
        db.execute("UPDATE idem_records SET claim = fingerprint").await;
        let lost = written(&lease, tx, completes).await.map_err(|error| error.kind());
        assert_eq!(lost, Err(Kind::LeaseLost));
    }
    assert_eq!(db.effects().await, 0);
}
