//! Rule 36: a request that says when it was first sent. The contract has the edges, over every store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::join_all;
use idem_core::store::{Claimed, Intent, Lease, LeaseTerms};
use idem_core::{Fingerprint, FirstSent, Identity, Kind, Request, Then};
use idem_sqlx::{Distance, Locks, SqliteLease, Sweep};
use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;

use crate::client::{Call, eventually};
use crate::proxy::{Fault, Proxy};
use crate::support::{Database, Postgres, Sqlite, locks};

/// The `ttl`. A finished record refuses retries for another hour, and what is left of an unfinished run does not.
const KEPT: u64 = 60 * 60;

const OURS: &str = "idempotency-first-sent";
const OASIS: &str = "repeatability-first-sent";

fn call() -> Call {
    Call::to("/in-time", "insert")
}

/// So many seconds before the database's time, as a header has it.
async fn date<D: Database>(db: &D, ago: u64) -> Vec<u8> {
    httpdate::fmt_http_date(db.clock().await - Duration::from_secs(ago)).into_bytes()
}

/// A UUID of version 7 that was made so many seconds before the database's time. `number` tells it from others.
async fn uuid<D: Database>(db: &D, ago: u64, number: u64) -> String {
    let since = (db.clock().await - Duration::from_secs(ago)).duration_since(UNIX_EPOCH).expect("after 1970");
    let hex = format!("{:012x}", since.as_millis());
    format!("{}-{}-7000-8000-{number:012x}", &hex[..8], &hex[8..])
}

both! {
    async fn r36_a_request_says_when_it_was_first_sent_by_a_header_or_by_its_key(db) {
        let (app, gauge) = db.app().await;
        // A minute on this side of the end, and on the other.
        for name in [OURS, OASIS] {
            let old = call().key(name).header(name, &date(&db, KEPT).await);
            let answer = old.send(&app).await;
            answer.expect(412, "first_sent_too_old");
            assert!(!answer.headers.contains_key("retry-after"), "it is final");
            let young = call().key(name).header(name, &date(&db, KEPT - 60).await);
            young.send(&app).await.expect_fresh(201);
            // It has a record now.
            assert!(old.send(&app).await.replayed());
        }
        let by_key = |key: String| call().header("idempotency-key", key.as_bytes());
        by_key(uuid(&db, KEPT, 1).await).send(&app).await.expect(412, "first_sent_too_old");
        by_key(uuid(&db, KEPT - 60, 2).await).send(&app).await.expect_fresh(201);
        // No header makes it younger.
        let both = by_key(uuid(&db, KEPT, 3).await).header(OURS, &date(&db, 0).await);
        both.send(&app).await.expect(412, "first_sent_too_old");
        assert_eq!((gauge.entered(), db.effects().await), (3, 3));
    }

    async fn r36_a_time_that_is_in_the_future_or_no_time_is_refused(db) {
        let (app, gauge) = db.app().await;
        let future = httpdate::fmt_http_date(db.clock().await + Duration::from_secs(6 * 60));
        for date in [future.as_str(), "yesterday", ""] {
            call().header(OURS, date.as_bytes()).send(&app).await.expect(400, "first_sent_invalid");
        }
        let soon = httpdate::fmt_http_date(db.clock().await + Duration::from_secs(4 * 60));
        call().header(OURS, soon.as_bytes()).send(&app).await.expect_fresh(201);
        // What cannot be read is refused before anything is looked up.
        call().header(OURS, b"yesterday").send(&app).await.expect(400, "first_sent_invalid");
        assert!(call().header(OURS, future.as_bytes()).send(&app).await.replayed());
        // Another handler does not look at it.
        Call::act("insert").header(OURS, b"yesterday").send(&app).await.expect_fresh(201);
        Call::act("insert").key("old").header(OASIS, &date(&db, 2 * KEPT).await).send(&app).await.expect_fresh(201);
        assert_eq!((gauge.entered(), db.effects().await), (3, 3));
    }

    async fn r36_of_64_late_retries_that_say_when_they_were_first_sent_beside_the_sweep_none_runs(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        for round in 1..=6 {
            let call = call().key(&format!("k{round}"));
            call.clone().header(OURS, &date(&db, 0).await).send(&app).await.expect_fresh(201);
            // The sweep takes its reply off, and later removes it.
            db.expire().await;
            if round % 2 == 0 {
                store.sweep(&Sweep::default()).await.expect("a sweep");
                db.expire().await;
            } else {
                db.execute("UPDATE idem_records SET kept_until = expires_at").await;
            }
            let late = call.header(OURS, &date(&db, KEPT + 60).await);
            let is_over = Arc::new(AtomicBool::new(false));
            let sweepers: Vec<_> = (0..2).map(|_| {
                let (store, is_over) = (store.clone(), Arc::clone(&is_over));
                tokio::spawn(async move {
                    let mut removed = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        removed += store.sweep(&Sweep::default().batch(1)).await.expect("a sweep");
                    }
                    removed
                })
            }).collect();
            let retries = (0..64).map(|_| {
                let (late, app) = (late.clone(), app.clone());
                tokio::spawn(async move { late.send(&app).await })
            });
            for answer in join_all(retries).await {
                answer.expect("no panic").expect(412, "first_sent_too_old");
            }
            is_over.store(true, Ordering::SeqCst);
            let mut removed = store.sweep(&Sweep::default()).await.expect("a sweep");
            for sweeper in sweepers {
                removed += sweeper.await.expect("no panic");
            }
            assert_eq!((removed, db.records().await), (1, 0));
            let runs = (gauge.entered(), db.effects().await);
            assert_eq!(runs, (round, i64::try_from(round).expect("small")));
        }
    }

    async fn r36_a_late_retry_is_answered_by_its_record_as_long_as_that_lives(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        call().send(&app).await.expect_fresh(201);
        let old = call().header(OURS, &date(&db, 2 * KEPT).await);
        let other = Call::to("/in-time", "empty").header(OURS, &date(&db, 2 * KEPT).await);
        assert!(old.send(&app).await.replayed());
        other.send(&app).await.expect(422, "key_reused");
        db.expire().await;
        for _ in 0..2 {
            old.send(&app).await.expect(410, "retry_too_late");
            other.send(&app).await.expect(422, "key_reused");
            store.sweep(&Sweep::default()).await.expect("a sweep");
        }
        db.expire().await;
        for _ in 0..2 {
            old.send(&app).await.expect(412, "first_sent_too_old");
            other.send(&app).await.expect(412, "first_sent_too_old");
            store.sweep(&Sweep::default()).await.expect("a sweep");
        }
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
        // A request that says nothing runs.
        call().send(&app).await.expect_fresh(201);
    }

    async fn r36_a_handler_that_ends_its_transaction_when_its_time_is_over_never_runs_again(db) {
        // Its claim is undone. The record that poisons its key is a new one, and comes after its time.
        let (app, gauge) = db.app().await;
        let over = db.clock().await + Duration::from_secs(2);
        let sent = httpdate::fmt_http_date(over - Duration::from_secs(KEPT));
        let silent = Call::to("/in-time", "wait_and_raw_rollback");
        let call = silent.clone().header(OURS, sent.as_bytes());
        let run = tokio::spawn({
            let (call, app) = (call.clone(), app.clone());
            async move { call.send(&app).await }
        });
        eventually("it runs", async || gauge.waited() == 1).await;
        eventually("its time is over", async || db.clock().await > over).await;
        gauge.open(1);
        run.await.expect("no panic").expect(500, "transaction_ended");
        for retry in [&call, &silent] {
            retry.send(&app).await.expect(500, "transaction_ended");
        }
        assert_eq!((gauge.entered(), db.records().await), (1, 1));
        db.expire().await;
        call.send(&app).await.expect(412, "first_sent_too_old");
    }

    async fn r36_what_is_gone_of_an_unfinished_run_is_not_begun_again(db) {
        type L = <D as Database>::Lease;
        let store = db.store(4).await;
        let hour = Duration::from_secs(60 * 60);
        let identity = Identity::new("u1", "pay", "k").expect("an identity");
        let request = Request::new(identity, Fingerprint::none(), hour).expect("a request");
        let request = request.then(Then::Refuse(30 * hour)).expect("a request");
        let claim = async |request| L::claim(&store, &request, &LeaseTerms::DEFAULT, Intent::Run).await.expect("an answer");
        // Its process dies after a call.
        let first = claim(request.clone()).await;
        assert!(matches!(first, Claimed::Run(_)));
        drop(first);
        let sent = db.clock().await - hour - Duration::from_secs(60);
        let late = request.with_first_sent(Some(FirstSent::at(sent)));
        db.expire().await;
        for _ in 0..2 {
            let claimed = claim(late.clone()).await;
            assert!(matches!(claimed, Claimed::Refuse(Kind::FirstSentTooOld)), "it may have called already");
            store.sweep(&Sweep::default()).await.expect("a sweep");
        }
        assert_eq!(db.records().await, 0);
    }
}

/// A run begins in time and is not over when its time is. Its duplicates are not told that nothing is known of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_postgres_a_duplicate_of_a_run_that_began_in_time_is_told_that_it_runs() {
    let db = Postgres::create().await;
    let ((app, gauge), (elsewhere, _)) = (db.app().await, db.app().await);
    let over = db.clock().await + Duration::from_secs(2);
    let sent = httpdate::fmt_http_date(over - Duration::from_secs(KEPT));
    let call = Call::to("/in-time", "wait").header(OURS, sent.as_bytes());
    let run = tokio::spawn({
        let (call, app) = (call.clone(), app.clone());
        async move { call.send(&app).await }
    });
    eventually("it runs", async || gauge.waited() == 1).await;
    eventually("its time is over", async || db.clock().await > over).await;
    call.send(&app).await.expect(409, "key_in_flight");
    // Without locks a process does not see a run of another one that is not committed.
    match locks() {
        Locks::Advisory => call.send(&elsewhere).await.expect(409, "key_in_flight"),
        Locks::None => call.send(&elsewhere).await.expect(412, "first_sent_too_old"),
    }
    gauge.open(1);
    run.await.expect("no panic").expect_fresh(201);
    assert!(call.send(&elsewhere).await.replayed());
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

/// The transaction of a claim begins in time, and the claim reaches the server when its time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_postgres_the_time_of_the_claim_counts_and_not_that_of_its_transaction() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let through = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(1).connect_with(through).await.expect("a pool");
    // From far away the claim is in the message of BEGIN.
    let store = Postgres::builder_over(pool).distance(Distance::Near).build();
    let (app, gauge) = db.app_over(store);
    // The connection is open, and the process knows the database.
    call().key("first").header(OURS, &date(&db, 0).await).send(&app).await.expect_fresh(201);
    let over = db.clock().await + Duration::from_secs(2);
    let sent = httpdate::fmt_http_date(over - Duration::from_secs(KEPT));
    // After the ping and BEGIN.
    proxy.at_message(2, Fault::Hold);
    let late = tokio::spawn({
        let (late, app) = (call().header(OURS, sent.as_bytes()), app.clone());
        async move { late.send(&app).await }
    });
    eventually("its claim is held", async || proxy.struck() == 1).await;
    eventually("its time is over", async || db.clock().await > over).await;
    proxy.let_through();
    late.await.expect("no panic").expect(412, "first_sent_too_old");
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

/// A lease looks for its record without the write lock, and then waits for the lock. Its time may be over by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_sqlite_a_lease_that_has_waited_past_its_time_does_not_begin() {
    let db = Sqlite::create().await;
    let store = db.store(4).await;
    let identity = Identity::new("u1", "pay", "k").expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
    let mut writer = db.pool.acquire().await.expect("a connection");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.expect("the write lock");
    let over = db.clock().await + Duration::from_secs(1);
    let request = request.with_first_sent(Some(FirstSent::at(over - Duration::from_secs(60))));
    let claim = tokio::spawn(async move {
        let claimed = SqliteLease::claim(&store, &request, &LeaseTerms::DEFAULT, Intent::Run).await;
        match claimed.expect("an answer") {
            Claimed::Refuse(kind) => kind,
            _ => panic!("it runs"),
        }
    });
    while db.clock().await <= over {
        sleep(Duration::from_millis(10)).await;
    }
    sqlx::query("ROLLBACK").execute(&mut *writer).await.expect("no lock");
    assert_eq!(claim.await.expect("no panic"), Kind::FirstSentTooOld);
    assert_eq!(db.records().await, 0);
}
