//! Rules 16 to 18: what a COMMIT is worth.

use std::sync::Arc;
use std::time::Duration;

use idem_core::{Fingerprint, Identity, Kind, Request, Start};
use idem_sqlx::{Isolation, PgStore, SqliteStore};
use sqlx::Connection;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::oneshot;

use crate::client::{Call, eventually};
use crate::orders::{Refused, postgres_orders};
use crate::pay::postgres_steps;
use crate::proxy::{Fault, Proxy};
use crate::script::Script;
use crate::support::{Database, Postgres, Sqlite, on_server};

both! {
    async fn r16_a_handler_that_ends_its_transaction_is_found_out_and_never_runs_again(db) {
        // One connection: what a run leaves behind on it, the next one meets.
        let (app, gauge) = db.app_over(db.store(1).await);
        for (act, kept) in [
            ("raw_commit", 1),
            ("raw_commit_and_fail", 1),
            ("raw_commit_and_panic", 1),
            ("raw_commit_and_begin", 1),
            ("raw_rollback", 0),
            ("raw_rollback_and_write", 1),
            ("raw_rollback_and_fail", 1),
            ("raw_rollback_and_break", 1),
            ("raw_rollback_break_and_fail", 1),
            ("raw_rollback_and_reject", 0),
            ("raw_commit_and_forget", 1),
            ("failed_begin_and_write", 1),
        ] {
            let (entered, effects) = (gauge.entered(), db.effects().await);
            let call = Call::act(act).key(act);
            call.send(&app).await.expect(500, "transaction_ended");
            for _ in 0..3 {
                call.send(&app).await.expect(500, "transaction_ended");
            }
            Call::act("insert").key(act).send(&app).await.expect(422, "key_reused");
            assert_eq!((gauge.entered() - entered, db.effects().await - effects), (1, kept), "{act}");
            Call::act("insert").key(&format!("after-{act}")).send(&app).await.expect_fresh(201);
        }
        // The same where the key had a record that expired: the rollback brings that one back.
        db.expire().await;
        for act in ["raw_commit", "raw_rollback_and_write", "raw_rollback_and_fail"] {
            let entered = gauge.entered();
            Call::act(act).key(act).send(&app).await.expect(500, "transaction_ended");
            Call::act(act).key(act).send(&app).await.expect(500, "transaction_ended");
            assert_eq!(gauge.entered() - entered, 1, "{act}");
        }
        // It is refused until it expires, as every record counts until then.
        db.expire().await;
        Call::act("insert").key("raw_commit").send(&app).await.expect_fresh(201);
    }

    async fn r16_an_unrecorded_handler_that_ends_its_transaction_is_found_out(db) {
        let (app, _) = db.app_over(db.store(1).await);
        for act in ["raw_commit", "raw_rollback"] {
            let call = Call::to("/optional", act).without("idempotency-key");
            call.send(&app).await.expect(500, "transaction_ended");
            Call::to("/optional", "insert").without("idempotency-key").send(&app).await.expect_fresh(201);
        }
    }

    async fn r14_a_handler_can_reject_after_a_failed_statement(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        let first = Call::act("swallow_and_reject").send(&app).await;
        first.expect_fresh(402);
        Call::act("swallow_and_reject").send(&app).await.expect_replay_of(&first);
        assert_eq!((gauge.entered(), db.effects().await), (1, 0));
    }

    async fn r16_a_savepoint_is_the_handlers_own(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        let first = Call::act("savepoint").send(&app).await;
        first.expect_fresh(201);
        Call::act("savepoint").send(&app).await.expect_replay_of(&first);
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
    }

    async fn r16_a_savepoint_left_open_keeps_nothing(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        for run in 1..=2 {
            Call::act("forgotten_savepoint").send(&app).await.expect(500, "transaction_aborted");
            assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
        }
        Call::act("insert").send(&app).await.expect_fresh(201);
    }

    async fn r16_a_commit_that_the_database_refuses_keeps_nothing(db) {
        db.refuse_commits("23503", "no such thing").await;
        let (app, gauge) = db.app_over(db.store(1).await);
        for run in 1..=2 {
            Call::act("insert").send(&app).await.expect(422, "data_refused");
            assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
        }
        Call::act("reject").key("other").send(&app).await.expect_fresh(402);
    }

    async fn r18_an_errors_words_decide_nothing(db) {
        // The words of a serialization failure, of a lost connection and of a busy file, under another code.
        for (at, words) in ["could not serialize access", "connection refused", "database is locked"].into_iter().enumerate() {
            db.refuse_completions(words).await;
            let (app, _) = db.app_over(db.store(1).await);
            let call = Call::act("insert").key(&format!("k{at}"));
            // SQLite has no code for an exception but that of a constraint. The store's tables have no constraint.
            call.send(&app).await.expect(500, D::EXCEPTION);
            assert_eq!((db.effects().await, db.records().await), (0, 0));
        }
    }
}

/// No page more than the file has now: what needs one fails as on a full disk.
async fn fill_the_disk(store: &SqliteStore, is_full: bool) {
    let mut connection = store.pool().acquire().await.expect("the connection");
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *connection).await.expect("a number");
    let most = if is_full { pages } else { 1_000_000 };
    let limit = format!("PRAGMA max_page_count = {most}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut *connection).await.expect("a limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_sqlite_a_completion_that_fails_on_a_full_disk_bars_nothing() {
    let db = Sqlite::create().await;
    let store = db.store(1).await;
    let (app, gauge) = db.app_over(store.clone());
    fill_the_disk(&store, true).await;
    for run in 1..=2 {
        // Its reply takes more than a page.
        Call::act("at_limit").send(&app).await.expect(503, "store_unavailable");
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
    }
    fill_the_disk(&store, false).await;
    assert_eq!(Call::act("at_limit").send(&app).await.status, 200);
    assert_eq!((gauge.entered(), db.effects().await), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_sqlite_a_completion_that_fails_on_its_own_bars_nothing() {
    let db = Sqlite::create().await;
    let (app, gauge) = db.app_over(db.store(1).await);
    // The code is that of a missing savepoint.
    db.execute("CREATE TRIGGER broken BEFORE UPDATE ON idem_records BEGIN SELECT json('{'); END").await;
    for run in 1..=2 {
        Call::act("insert").send(&app).await.expect(500, "deployment_broken");
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
    }
    // A handler that did end its transaction is still detected.
    Call::act("raw_rollback").key("ended").send(&app).await.expect(500, "transaction_ended");
    Call::act("raw_rollback").key("ended").send(&app).await.expect(500, "transaction_ended");
    assert_eq!(gauge.entered(), 3);
    db.execute("DROP TRIGGER broken").await;
    Call::act("insert").send(&app).await.expect_fresh(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_a_doubtful_commit_is_confirmed_by_the_commit_of_the_look_up() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let (app, gauge) = db.app_over(behind(&proxy, &db, Duration::from_secs(20)).await);
    proxy.at_next_commits(&[Fault::CutAfter, Fault::Hold]);
    let first = tokio::spawn({
        let app = app.clone();
        async move { Call::act("insert").send(&app).await }
    });
    eventually("the look-up commits", async || proxy.struck() == 2).await;
    // With a transaction id, which it has from FOR UPDATE, and something in the log: otherwise its COMMIT would wait for no
    // standby. The server shows the first 1,024 bytes of the statement.
    let look_up = "SELECT count(backend_xid) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%SELECT%'";
    assert_eq!(db.number(look_up).await, 1);
    assert!(!first.is_finished(), "kept is said after that COMMIT");
    proxy.let_through();
    first.await.expect("no panic").expect_fresh(201);
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_a_look_up_whose_commit_has_no_answer_confirms_nothing() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let (app, gauge) = db.app_over(behind(&proxy, &db, Duration::from_secs(1)).await);
    proxy.at_next_commits(&[Fault::CutAfter, Fault::Hang]);
    Call::act("insert").send(&app).await.expect(500, "outcome_unknown");
    let again = Call::act("insert").send(&app).await;
    assert!(again.replayed() && again.status == 201, "{again:?}");
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

/// Has the server wait for a standby that there is none of, until it is dropped. Other tests' commits do not wait:
/// `synchronous_commit` is `local` in their databases. A waiting commit delays every DROP DATABASE, so it must be short.
struct StandbyGone;

impl StandbyGone {
    async fn set() -> Self {
        on_server("ALTER SYSTEM SET synchronous_standby_names = 'nobody'".to_owned()).await;
        let gone = Self;
        on_server("SELECT pg_reload_conf()".to_owned()).await;
        gone
    }
}

impl Drop for StandbyGone {
    fn drop(&mut self) {
        let reset = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                on_server("ALTER SYSTEM RESET synchronous_standby_names".to_owned()).await;
                on_server("SELECT pg_reload_conf()".to_owned()).await;
            });
        });
        reset.join().expect("the setting of the server is reset");
    }
}

/// After a crash a server shows commits that no standby has. Here the standby is lost between a commit and its look-up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_what_no_standby_has_is_not_said_to_be_kept() {
    let db = Postgres::create().await;
    if db.number("SELECT count(*) FROM pg_settings WHERE name = 'fsync' AND setting = 'off'").await == 0 {
        eprintln!("left out: it changes a setting of the whole server, and this server is not made for tests only");
        return;
    }
    let waiting = db.options().options([("synchronous_commit", "on")]);
    let proxy = Proxy::before(&db.options()).await;
    let through = waiting.clone().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(2).connect_with(through).await.expect("a pool");
    let (app, gauge) = db.app_over(Postgres::builder_over(pool).commit_deadline(Duration::from_millis(500)).build());
    proxy.at_next_commit(Fault::CutLater);
    let first = tokio::spawn({
        let app = app.clone();
        async move { Call::act("insert").send(&app).await }
    });
    eventually("it is committed", async || db.records().await == 1).await;
    let gone = StandbyGone::set().await;
    let direct = PgPoolOptions::new().max_connections(2).connect_with(waiting).await.expect("a pool");
    db.execute("CREATE TABLE waits (n int)").await;
    eventually("commits wait for the standby", async || {
        let commit = sqlx::raw_sql("INSERT INTO waits VALUES (1)").execute(&direct);
        tokio::time::timeout(Duration::from_millis(200), commit).await.is_err()
    })
    .await;
    let begun = std::time::Instant::now();
    proxy.let_through();
    first.await.expect("no panic").expect(500, "outcome_unknown");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(gone);
    let replayed = async || Call::act("insert").send(&app).await.replayed();
    eventually("with a standby, or without the need of one, it is replayed", replayed).await;
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

#[tokio::test]
async fn r16_postgres_a_swallowed_failure_is_no_success() {
    let db = Postgres::create().await;
    let (app, gauge) = db.app_over(db.store(1).await);
    for run in 1..=2 {
        Call::act("swallow").send(&app).await.expect(500, "transaction_aborted");
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
    }
    // Without a record it is none either.
    Call::to("/optional", "swallow").without("idempotency-key").send(&app).await.expect(500, "transaction_aborted");
    assert_eq!(db.effects().await, 0);
}

#[tokio::test]
async fn r16_sqlite_a_swallowed_failure_undid_only_itself() {
    let db = Sqlite::create().await;
    let (app, gauge) = db.app().await;
    let first = Call::act("swallow").send(&app).await;
    first.expect_fresh(201);
    Call::act("swallow").send(&app).await.expect_replay_of(&first);
    assert_eq!((gauge.entered(), db.effects().await), (1, 1));
}

/// A store whose connections pass a proxy.
async fn behind(proxy: &Proxy, db: &Postgres, deadline: Duration) -> PgStore {
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.expect("a pool");
    Postgres::builder_over(pool).commit_deadline(deadline).build()
}

#[tokio::test]
async fn r16_postgres_a_lost_answer_to_commit_is_found_out() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let (app, gauge) = db.app_over(behind(&proxy, &db, Duration::from_secs(20)).await);
    for round in 1..=10 {
        for act in ["insert", "reject"] {
            // Cut in place of the answer: the caller gets the reply all the same.
            let call = Call::act(act).key(&format!("after-{act}-{round}"));
            proxy.at_next_commit(Fault::CutAfter);
            let first = call.send(&app).await;
            first.expect_fresh(if act == "insert" { 201 } else { 402 });
            let entered = gauge.entered();
            call.send(&app).await.expect_replay_of(&first);
            assert_eq!(gauge.entered(), entered);

            // Cut before the server saw it: nothing was kept, and the retry runs.
            let call = Call::act(act).key(&format!("before-{act}-{round}"));
            proxy.at_next_commit(Fault::CutBefore);
            call.send(&app).await.expect(503, "store_unavailable");
            call.send(&app).await.expect_fresh(if act == "insert" { 201 } else { 402 });
        }
        assert_eq!((proxy.struck(), db.effects().await), (round * 4, 2 * i64::try_from(round).expect("small")));
    }
}

#[tokio::test]
async fn r16_postgres_a_commit_that_does_not_answer_is_found_out() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let (app, gauge) = db.app_over(behind(&proxy, &db, Duration::from_secs(3)).await);
    proxy.at_next_commit(Fault::Hang);
    let first = Call::act("insert").send(&app).await;
    first.expect_fresh(201);
    Call::act("insert").send(&app).await.expect_replay_of(&first);
    assert_eq!((proxy.struck(), gauge.entered(), db.effects().await), (1, 1, 1));

    // The same where the key had an expired record.
    db.expire().await;
    proxy.at_next_commit(Fault::Hang);
    let first = Call::act("insert").send(&app).await;
    first.expect_fresh(201);
    Call::act("insert").send(&app).await.expect_replay_of(&first);
    assert_eq!((proxy.struck(), gauge.entered(), db.effects().await), (2, 2, 2));
}

#[tokio::test]
async fn r16_postgres_each_commit_of_a_leased_run_may_be_lost() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let direct = db.store(4).await;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Hang] {
        for commits in 0.. {
            // The claim, the reservation, that it will charge, what that gave, the end: one after the other is struck.
            let through = behind(&proxy, &db, Duration::from_secs(1)).await;
            let (script, id) = (Script::default(), format!("{fault:?} at {commits}"));
            let (before, struck) = (db.effects().await, proxy.struck());
            proxy.at_commit(commits, fault);
            let first = postgres_steps::pay(&through, "u1", &id, "order", &script).await;
            let retried = async || postgres_steps::pay(&direct, "u1", &id, "order", &script).await.is_ok();
            eventually("the retry ran", retried).await;
            assert_eq!(db.effects().await - before, 2, "{id}: {:?}", script.steps());
            // What answered is recorded, however often that takes.
            assert_eq!(script.times("charge"), 1, "{id}");
            assert!(first.is_ok() || !matches!(commits, 2 | 3), "{id}: {first:?}");
            if proxy.struck() == struck {
                proxy.at_next_commit(Fault::None);
                assert!(first.is_ok(), "{id}: {first:?}");
                assert!(commits >= 5, "{commits}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn r16_postgres_each_commit_of_a_rejection_may_be_lost() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let direct = db.store(4).await;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Hang] {
        for commits in 0.. {
            let through = behind(&proxy, &db, Duration::from_secs(1)).await;
            let (script, id) = (Arc::new(Script::default()), format!("{fault:?} at {commits}"));
            let (before, struck) = (db.effects().await, proxy.struck());
            proxy.at_commit(commits, fault);
            let first = postgres_orders::order(&through, &id, true, &script).await;
            let retried = async || postgres_orders::order(&direct, &id, true, &script).await == Err(Refused::Declined);
            eventually("it is undone", retried).await;
            assert_eq!(db.effects().await - before, 2, "{id}: {:?}", script.steps());
            let undone = db.number("SELECT count(*) FROM effects WHERE what = 'undo reserve'").await;
            assert_eq!(undone, db.effects().await / 2, "{id}: {:?}", script.steps());
            let (charges, keys) = (script.times("charge"), script.keys());
            assert!(keys[..charges].iter().all(|key| *key == keys[0]), "{id}");
            assert!(keys[charges..].iter().all(|key| *key == keys[charges]), "{id}");
            if proxy.struck() == struck {
                proxy.at_next_commit(Fault::None);
                assert_eq!(first, Err(Refused::Declined), "{id}");
                assert!(commits >= 9, "{commits}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn r17_postgres_a_serialization_failure_keeps_nothing_and_asks_to_come_again() {
    let db = Postgres::create().await;
    let store = db.builder(4).await.isolation(Isolation::Serializable).build();
    let (app, gauge) = db.app_over(store);
    let calls = ["a", "b"].map(|key| Call::act("skew").key(key));
    let both = calls.clone().map(|call| {
        let app = app.clone();
        tokio::spawn(async move { call.send(&app).await })
    });
    // Each has counted what the other is writing.
    eventually("both have read", async || gauge.entered() == 4).await;
    gauge.open(2);
    let mut refused = 0;
    for one in both {
        let answer = one.await.expect("no panic");
        if answer.status != 200 {
            answer.expect(503, "retry_later");
            assert_eq!(answer.headers["retry-after"], "1");
            refused += 1;
        }
    }
    assert_eq!((refused, db.effects().await, db.records().await), (1, 1, 1));
    gauge.open(1);
    for call in calls {
        assert_eq!(call.send(&app).await.status, 200);
    }
    assert_eq!(db.effects().await, 2);
}

#[tokio::test]
async fn r17_postgres_what_commit_refuses_as_unordered_may_come_again() {
    let db = Postgres::create().await;
    for (state, key) in [("40001", "a"), ("40P01", "b")] {
        db.refuse_commits(state, "could not").await;
        let (app, _) = db.app_over(db.store(1).await);
        Call::act("insert").key(key).send(&app).await.expect(503, "retry_later");
        db.execute("DROP TRIGGER refuse ON effects").await;
        Call::act("insert").key(key).send(&app).await.expect_fresh(201);
    }
    assert_eq!(db.effects().await, 2);
}

#[tokio::test]
async fn r17_sqlite_busy_keeps_nothing_and_asks_to_come_again() {
    let db = Sqlite::create().await;
    let options = db.options().busy_timeout(Duration::from_millis(20));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("a pool");
    let (app, gauge) = db.app_over(SqliteStore::new(pool));
    let mut other = db.pool.acquire().await.expect("a connection");
    let writing = other.begin_with("BEGIN IMMEDIATE").await.expect("the write lock");
    let answer = Call::act("insert").send(&app).await;
    answer.expect(503, "retry_later");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(gauge.entered(), 0);
    writing.rollback().await.expect("an end");
    Call::act("insert").send(&app).await.expect_fresh(201);
}

#[tokio::test]
async fn r16_postgres_a_connection_lost_before_the_settlement_keeps_nothing() {
    let db = Postgres::create().await;
    let (app, gauge) = db.app_over(db.store(1).await);
    for (act, status, code) in [("wait", 503, "store_unavailable"), ("wait_and_reject", 503, "store_unavailable")] {
        let before = gauge.waited();
        let call = Call::act(act).key(act);
        let lost = tokio::spawn({
            let (call, app) = (call.clone(), app.clone());
            async move { call.send(&app).await }
        });
        eventually("its effect is written", async || gauge.waited() == before + 1).await;
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        .await;
        gauge.open(1);
        lost.await.expect("no panic").expect(status, code);
        assert_eq!((db.effects().await, db.records().await), (0, 0), "{act}");
    }
    Call::act("insert").send(&app).await.expect_fresh(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_key_is_poisoned_although_another_holds_its_row_on_postgres() {
    let db = Postgres::create().await;
    let store = db.store(4).await;
    let identity = Identity::new("u1", "ended", "k").expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
    let begin = async || match store.begin(&request).await {
        Ok(Start::Run(run)) => run,
        other => panic!("it does not run: {:?}", other.map(|_| ())),
    };
    begin().await.complete(&1).await.expect("a record");
    db.expire().await;
    // In the place of the expired record, whose row another transaction waits for.
    let mut run = begin().await;
    let (holds, held) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let pool = db.pool.clone();
    let holder = tokio::spawn(async move {
        let mut holder = pool.begin().await.expect("a transaction");
        sqlx::raw_sql("SELECT 1 FROM idem_records FOR UPDATE").execute(&mut *holder).await.expect("the row");
        holds.send(()).expect("the test waits for it");
        ended.await.expect("the test ends it");
        holder.rollback().await.expect("the end");
    });
    let waiting = "SELECT coalesce(max(extract(epoch FROM xact_start) * 1000000), 0)::bigint FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits for the row", async || db.number(waiting).await > 0).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut *run).await.expect("as raw SQL");
    held.await.expect("the row");
    let completion = tokio::spawn(async move { run.complete(&2).await });
    eventually("the first try waits", async || db.number(waiting).await > 0).await;
    let first = db.number(waiting).await;
    eventually("another try waits", async || db.number(waiting).await > first).await;
    end.send(()).expect("the holder waits for it");
    holder.await.expect("no panic");
    assert_eq!(completion.await.expect("no panic").expect_err("ended").kind(), Kind::TransactionEnded);
    assert_eq!(store.begin(&request).await.map(|_| ()).expect_err("poisoned").kind(), Kind::TransactionEnded);
}
