//! Postgres that is distributed: what no statement may need, and a store without advisory locks.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem_core::store::{Attempt, Claimed, Intent, Lease, LeaseTerms, RELEASE_PATIENCE, Transaction};
use idem_core::{Fingerprint, Identity, Kind, Request, Start};
use idem_sqlx::{Isolation, Locks, PgLease, PgStore, PgStoreBuilder, PgTx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::app::Gauge;
use crate::client::{Answer, Call, eventually};
use crate::pay::{paid, postgres_steps};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};

/// How many updates of records there were, and how many of them touched no index.
async fn updates(db: &Postgres, store: &PgStore) -> (i64, i64) {
    // The only connection, which knows of updates that it has not reported.
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(store.pool()).await.expect("a report");
    let count = |column: &str| format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = 'idem_records'");
    (db.number(&count("n_tup_upd")).await, db.number(&count("n_tup_hot_upd")).await)
}

/// The completion writes the expiry anew, and the same to the bit. Otherwise each request would write the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_postgres_the_completion_of_a_short_run_keeps_the_expiry_and_touches_no_index() {
    let db = Postgres::create().await;
    let store = db.store(1).await;
    let (app, _) = db.app_over(store.clone());
    for round in 1..=20 {
        Call::act("insert").key(&format!("k{round}")).send(&app).await.expect_fresh(201);
    }
    eventually("the updates are counted", async || updates(&db, &store).await.0 == 20).await;
    assert_eq!(updates(&db, &store).await, (20, 20));
    let moved = "SELECT count(*) FROM idem_records WHERE expires_at <> created_at + interval '1 hour'";
    assert_eq!(db.number(moved).await, 0);

    // In place of an expired record, too.
    db.expire().await;
    for round in 1..=20 {
        Call::act("insert").key(&format!("k{round}")).send(&app).await.expect_fresh(201);
    }
    assert_eq!(db.number(moved).await, 0);
}

async fn without_locks(db: &Postgres, connections: u32) -> PgStoreBuilder {
    db.builder(connections).await.locks(Locks::None)
}

/// Two processes without advisory locks.
async fn two(db: &Postgres) -> [(axum::Router, Gauge); 2] {
    let store = async || without_locks(db, 4).await.build();
    [db.app_over(store().await), db.app_over(store().await)]
}

fn start(call: &Call, app: &axum::Router) -> JoinHandle<Answer> {
    let (call, app) = (call.clone(), app.clone());
    tokio::spawn(async move { call.send(&app).await })
}

/// How many transactions wait for another one.
async fn waiting(db: &Postgres) -> i64 {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    db.number(waiting).await
}

async fn advisory_locks(db: &Postgres) -> i64 {
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    db.number(held).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_without_locks_a_duplicate_in_another_process_waits_for_the_reply() {
    let db = Postgres::create().await;
    let [(app, gauge), (elsewhere, other)] = two(&db).await;
    // On a new key, and in place of a record that has expired.
    for round in 1..=2 {
        let first = start(&Call::act("wait"), &app);
        eventually("it runs", async || gauge.waited() == round).await;
        let duplicate = start(&Call::act("wait"), &elsewhere);
        eventually("the duplicate waits", async || waiting(&db).await == 1).await;
        assert_eq!(advisory_locks(&db).await, 0);
        gauge.open(1);
        let first = first.await.expect("no panic");
        first.expect_fresh(201);
        duplicate.await.expect("no panic").expect_replay_of(&first);
        db.expire().await;
    }
    assert_eq!((gauge.entered(), other.entered(), db.effects().await), (2, 0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_without_locks_a_duplicate_that_waits_in_vain_gets_409_and_gives_its_connection_back() {
    let db = Postgres::create().await;
    let (app, gauge) = db.app_over(without_locks(&db, 4).await.build());
    let (small, other) = db.app_over(without_locks(&db, 1).await.build());
    let hasty = without_locks(&db, 1).await.statement_deadline(Duration::from_millis(100)).build();
    let (hasty, third) = db.app_over(hasty);
    for round in 1..=2 {
        let first = start(&Call::act("wait"), &app);
        eventually("it runs", async || gauge.waited() == round).await;
        for elsewhere in [&small, &hasty] {
            let began = Instant::now();
            let refused = Call::act("wait").send(elsewhere).await;
            refused.expect(409, "key_in_flight");
            assert_eq!(refused.headers["retry-after"], "1");
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            // Nobody waits behind its back, and its only connection serves the next request.
            assert_eq!(waiting(&db).await, 0);
            // Another request is told so once that is known.
            Call::act("empty").send(elsewhere).await.expect(409, "key_in_flight");
            Call::act("insert").key(&format!("other-{round}")).send(elsewhere).await;
        }
        // In the process that runs it, nobody waits.
        Call::act("wait").send(&app).await.expect(409, "key_in_flight");
        Call::act("empty").send(&app).await.expect(422, "key_reused");
        gauge.open(1);
        let first = first.await.expect("no panic");
        first.expect_fresh(201);
        Call::act("wait").send(&small).await.expect_replay_of(&first);
        Call::act("empty").send(&small).await.expect(422, "key_reused");
        db.expire().await;
    }
    assert_eq!((gauge.entered(), other.entered(), third.entered()), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_postgres_without_locks_a_duplicate_runs_when_the_first_has_failed() {
    let db = Postgres::create().await;
    let [(app, gauge), (elsewhere, other)] = two(&db).await;
    other.open(1);
    let first = start(&Call::act("wait_and_fail"), &app);
    eventually("it runs", async || gauge.waited() == 1).await;
    let duplicate = start(&Call::act("wait_and_fail"), &elsewhere);
    eventually("the duplicate waits", async || waiting(&db).await == 1).await;
    assert_eq!(other.entered(), 0);
    gauge.open(1);
    assert_eq!(first.await.expect("no panic").status, 502);
    assert_eq!(duplicate.await.expect("no panic").status, 502);
    assert_eq!((other.entered(), db.effects().await, db.records().await), (1, 0, 0));
}

/// The savepoint comes after the claim: a failed statement and a rejection keep the claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_postgres_without_locks_a_rejection_after_a_failed_statement_lets_nobody_else_in() {
    let db = Postgres::create().await;
    let [(app, gauge), (elsewhere, other)] = two(&db).await;
    let first = start(&Call::act("break_wait_and_reject"), &app);
    eventually("the statement has failed", async || gauge.waited() == 1).await;
    Call::act("break_wait_and_reject").send(&elsewhere).await.expect(409, "key_in_flight");
    gauge.open(1);
    let first = first.await.expect("no panic");
    first.expect_fresh(402);
    Call::act("break_wait_and_reject").send(&elsewhere).await.expect_replay_of(&first);
    assert_eq!((gauge.entered(), other.entered()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_without_locks_of_32_duplicates_in_two_processes_one_runs_in_each_round() {
    let db = Postgres::create().await;
    let [(app, gauge), (elsewhere, other)] = two(&db).await;
    for round in 0..20 {
        if round == 10 {
            db.expire().await;
        }
        let call = Call::act("insert").key(&format!("k{}", round % 10));
        let answers = join_all((0..32).map(|at| start(&call, if at % 2 == 0 { &app } else { &elsewhere }))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("no panic")).collect();
        let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 201 && !answer.replayed()).collect();
        assert_eq!(fresh.len(), 1, "round {round}");
        for answer in &answers {
            match answer.status.as_u16() {
                201 if answer.replayed() => answer.expect_replay_of(fresh[0]),
                201 => {}
                _ => answer.expect(409, "key_in_flight"),
            }
        }
    }
    assert_eq!((gauge.entered() + other.entered(), db.effects().await, db.records().await), (20, 20, 10));
}

fn request(key: &str) -> Request {
    let identity = Identity::new("test", "distributed", key).expect("an identity");
    Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request")
}

async fn lock_timeout(connection: &mut PgConnection) -> String {
    sqlx::query_scalar("SHOW lock_timeout").fetch_one(connection).await.expect("a setting")
}

/// The wait of the claim is limited, and no statement of the handler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_postgres_without_locks_the_handler_waits_for_as_long_as_its_connection_lets_it() {
    let db = Postgres::create().await;
    for (set, expected) in [("SET lock_timeout = '7s'", "7s"), ("RESET lock_timeout", "0")] {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .after_connect(move |connection, _| Box::pin(async move { connection.execute(set).await.map(|_| ()) }));
        let store = PgStore::builder(pool.connect_with(db.options()).await.expect("a pool")).locks(Locks::None).build();
        let Start::Run(mut run) = store.begin(&request(expected)).await.expect("an answer") else { panic!("it runs") };
        assert_eq!(lock_timeout(&mut run).await, expected);
        // The rollback of a failed statement brings no other value back.
        run.execute("SELECT 1 / 0").await.expect_err("a failed statement");
        run.execute("ROLLBACK TO SAVEPOINT idem_claimed").await.expect("the claim");
        assert_eq!(lock_timeout(&mut run).await, expected);
        run.complete(&1).await.expect("completed");
        let mut unrecorded = <PgTx as Transaction>::begin(&store).await.expect("a transaction");
        assert_eq!(lock_timeout(&mut unrecorded).await, expected);
        drop(unrecorded);
        assert_eq!(lock_timeout(&mut store.pool().acquire().await.expect("a connection")).await, expected);
    }
}

/// An insert does not wait for a row that is only locked, and the replacement does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_postgres_without_locks_an_expired_record_that_somebody_holds_is_409_for_a_while() {
    let db = Postgres::create().await;
    let (app, gauge) = db.app_over(without_locks(&db, 1).await.build());
    Call::act("insert").send(&app).await.expect_fresh(201);
    db.expire().await;
    let mut holder = db.pool.begin().await.expect("a transaction");
    holder.execute("SELECT 1 FROM idem_records FOR UPDATE").await.expect("a lock");
    Call::act("insert").send(&app).await.expect(409, "key_in_flight");
    holder.rollback().await.expect("the end of it");
    Call::act("insert").send(&app).await.expect_fresh(201);
    assert_eq!(gauge.entered(), 2);
}

/// Under a stricter level a claim that has waited begins its transaction anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_postgres_without_locks_a_claim_that_has_waited_replaces_an_expired_record_under_every_level() {
    let db = Postgres::create().await;
    for (round, level) in
        [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable].into_iter().enumerate()
    {
        let key = format!("k{round}");
        let store = without_locks(&db, 2).await.isolation(level).build();
        let mut other = db.pool.begin().await.expect("a transaction");
        let insert = "INSERT INTO idem_records (scope, operation, key_hash, fingerprint, state, claim, attempt, format,
                created_at, expires_at)
            VALUES ('test', 'distributed', sha256(convert_to($1, 'UTF8')), '', 1, substr(sha256(''), 1, 16), 1, 0, now(), now())";
        sqlx::query(insert).bind(&key).execute(&mut *other).await.expect("a record");
        let claimed = tokio::spawn({
            let (store, request) = (store.clone(), request(&key));
            async move { store.begin(&request).await }
        });
        eventually("the claim waits", async || waiting(&db).await == 1).await;
        other.commit().await.expect("a record that has expired");
        let Ok(Start::Run(mut run)) = claimed.await.expect("no panic") else { panic!("{level:?}: it runs") };
        assert_eq!(lock_timeout(&mut run).await, "0", "{level:?}");
        run.complete(&1).await.expect("completed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12b_postgres_without_locks_a_statement_that_was_given_up_keeps_the_key_until_it_ends() {
    let db = Postgres::create().await;
    let (store, elsewhere) = (without_locks(&db, 2).await.build(), without_locks(&db, 2).await.build());
    let Start::Run(mut run) = store.begin(&request("k")).await.expect("an answer") else { panic!("it runs") };
    let mut blocker = db.pool.begin().await.expect("a transaction");
    blocker.execute("LOCK TABLE effects").await.expect("a lock");
    let insert = "INSERT INTO effects VALUES ('test', 'given up')";
    timeout(Duration::from_millis(50), run.execute(insert)).await.expect_err("it waits");
    run.release().await.expect("the rollback goes on behind the answer");
    assert_eq!(elsewhere.begin(&request("k")).await.expect_err("it still runs").kind(), Kind::KeyInFlight);
    blocker.rollback().await.expect("the end of it");
    eventually("the key is free", async || elsewhere.begin(&request("k")).await.is_ok()).await;
    assert_eq!(db.effects().await, 0);
}

/// The number of a process means another process on another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12b_postgres_without_locks_no_process_is_cancelled_by_its_number() {
    let db = Postgres::create().await;
    let store = without_locks(&db, 4).await.build();
    let claimed = <PgLease as Lease>::claim(&store, &request("k"), &LeaseTerms::DEFAULT, Intent::Run).await;
    let Ok(Claimed::Run(Attempt { lease, .. })) = claimed else { panic!("a new key") };
    let mut blocker = db.pool.begin().await.expect("a transaction");
    blocker.execute("LOCK TABLE effects").await.expect("a lock");
    let mut step = lease.begin().await.expect("a step");
    let insert = "INSERT INTO effects VALUES ('test', 'given up')";
    timeout(Duration::from_millis(50), step.execute(insert)).await.expect_err("it waits");
    let mut rolled_back = pin!(lease.roll_back(step));
    // By then a statement that can be cancelled is.
    timeout(RELEASE_PATIENCE * 3, &mut rolled_back).await.expect_err("the statement still waits");
    assert_eq!(waiting(&db).await, 1);
    blocker.rollback().await.expect("the end of it");
    rolled_back.await.expect("rolled back");
    assert_eq!(db.effects().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_postgres_without_locks_a_leased_run_takes_no_advisory_lock() {
    let db = Postgres::create().await;
    let (store, elsewhere) = (without_locks(&db, 4).await.build(), without_locks(&db, 4).await.build());
    let script = Script::default();
    script.act("reserve", Act::Wait);
    let run = postgres_steps::pay(&store, "u1", "k", "order", &script);
    let duplicate = async {
        script.until_entered("reserve").await;
        assert_eq!(advisory_locks(&db).await, 0);
        let refused = postgres_steps::pay(&elsewhere, "u1", "k", "order", &script).await;
        assert_eq!(crate::pay::kind(&refused), Some(Kind::KeyInFlight));
        script.open();
    };
    let (result, ()) = tokio::join!(run, duplicate);
    assert_eq!((result.expect("paid"), script.attempts()), (paid(), vec![1]));
}

/// Processes that create the tables at once meet each other in the catalogue, and try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_postgres_without_locks_several_processes_migrate_at_once() {
    let db = Postgres::create().await;
    for schema in ["public", "fresh"] {
        let mut stores = Vec::new();
        for _ in 0..16 {
            stores.push(without_locks(&db, 1).await.schema(schema).build());
        }
        if schema == "public" {
            db.drop_tables().await;
        }
        for migrated in join_all(stores.iter().map(PgStore::migrate)).await {
            migrated.expect("a migration");
        }
        assert_eq!(db.number(&format!("SELECT count(*) FROM {schema}.idem_migrations")).await, 2);
        assert_eq!(advisory_locks(&db).await, 0);
    }
}

/// Without advisory locks nobody reads the value from which they are computed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_without_locks_the_secret_is_not_needed() {
    let db = Postgres::create().await;
    db.execute("DROP TABLE idem_secret").await;
    let (app, _) = db.app_over(without_locks(&db, 2).await.build());
    let first = Call::act("insert").send(&app).await;
    first.expect_fresh(201);
    Call::act("insert").send(&app).await.expect_replay_of(&first);
}
