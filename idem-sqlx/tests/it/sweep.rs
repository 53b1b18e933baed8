//! Rule 32: expiry and the sweep.

use std::time::Duration;

use idem_sqlx::Sweep;

use crate::client::{Call, eventually};
use crate::script::Script;
use crate::support::{Database, Postgres, Time};

both! {
    async fn r32_an_expired_record_is_absent_whether_swept_or_not(db) {
        let store = db.store(4).await;
        let (app, gauge) = db.app_over(store.clone());
        let first = Call::act("insert").send(&app).await;
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        db.expire().await;
        let second = Call::act("insert").send(&app).await;
        second.expect_fresh(201);
        Call::act("insert").send(&app).await.expect_replay_of(&second);
        db.expire().await;
        // Another body is no reuse of a key that has expired.
        Call::act("empty").send(&app).await.expect_fresh(204);
        db.expire().await;
        assert_eq!(store.sweep(&Sweep::default()).await.expect("a sweep"), 1);
        Call::act("insert").send(&app).await.expect_fresh(201);
        assert_eq!((gauge.entered(), db.records().await), (4, 1));
    }

    async fn r32_a_record_expires_at_any_time_that_an_operator_writes(db) {
        let store = db.store(4).await;
        for (row, (time, meaning)) in D::TIMES.iter().enumerate() {
            // In the process that ran it, and in another one: the two look differently.
            for other in [false, true] {
                // A replay may hold the locks of its key for a moment longer, until it is rolled back.
                let call = Call::act("insert").key(&format!("{row}-{other}"));
                let (app, gauge) = db.app_over(store.clone());
                call.send(&app).await.expect_fresh(201);
                db.execute(&format!("UPDATE idem_records SET expires_at = {time}")).await;
                let (app, gauge) = if other { db.app().await } else { (app, gauge) };
                let entered = gauge.entered();
                let again = call.send(&app).await;
                match meaning {
                    Time::Never => assert!(again.status == 201 && again.replayed(), "{time}: {again:?}"),
                    Time::Past => again.expect_fresh(201),
                    Time::Unreadable => again.expect(500, "record_unreadable"),
                }
                let runs = usize::from(*meaning == Time::Past);
                assert_eq!(gauge.entered(), entered + runs, "{time}");
                db.execute(&format!("UPDATE idem_records SET expires_at = {time}")).await;
                let swept = store.sweep(&Sweep::default()).await.expect(time);
                assert_eq!(swept, u64::from(*meaning == Time::Past), "{time}");
                db.execute("DELETE FROM idem_records").await;
            }
        }
    }

    async fn r25_a_leased_record_lives_until_any_time_that_an_operator_writes(db) {
        let store = db.store(4).await;
        for (time, meaning) in D::TIMES {
            let script = Script::default();
            steps::pay(&store, "u1", "k", "order", &script).await.expect("paid");
            db.execute(&format!("UPDATE idem_records SET expires_at = {time}")).await;
            let again = steps::pay(&store, "u1", "k", "order", &script).await;
            assert_eq!(again.is_ok(), *meaning != Time::Unreadable, "{time}: {again:?}");
            assert_eq!(script.times("charge"), 1 + usize::from(*meaning == Time::Past), "{time}");
            db.execute("DELETE FROM idem_records").await;
        }
    }

    async fn r32_the_ttl_counts_from_the_completion(db) {
        let (app, gauge) = db.app().await;
        // A run that took no part of its hour leaves what the claim wrote.
        Call::act("insert").send(&app).await.expect_fresh(201);
        let ttl = db.seconds_to_live().await;
        assert!((3590.0..=3601.0).contains(&ttl), "{ttl}");
        db.execute("DELETE FROM idem_records").await;
        // One that took 0.3 of its 2 seconds lives for 2 seconds from its end.
        Call::to("/short", "slow").send(&app).await.expect_fresh(201);
        let ttl = db.seconds_from_completion().await;
        assert!((1.95..=2.05).contains(&ttl), "{ttl}");
        assert_eq!(gauge.entered(), 2);
    }

    async fn r32_the_sweep_removes_what_expired_and_nothing_else(db) {
        let store = db.store(4).await;
        let (app, _) = db.app_over(store.clone());
        for key in 0..25 {
            Call::act("insert").user(&format!("u{}", key % 3)).key(&key.to_string()).send(&app).await.expect_fresh(201);
        }
        db.expire().await;
        let live = Call::act("insert").key("live").send(&app).await;
        assert_eq!(store.sweep(&Sweep::default().batch(4)).await.expect("a sweep"), 25);
        assert_eq!(db.records().await, 1);
        Call::act("insert").key("live").send(&app).await.expect_replay_of(&live);
        assert_eq!(store.sweep(&Sweep::default()).await.expect("a sweep"), 0);
    }

    async fn r32_the_sweep_can_move_records_to_an_archive(db) {
        let store = db.store(4).await;
        let (app, _) = db.app_over(store.clone());
        for key in 0..7 {
            Call::act("insert").key(&key.to_string()).send(&app).await.expect_fresh(201);
        }
        db.expire().await;
        let before = db.stored().await;
        let sweep = Sweep::default().batch(2).archive("old \"records\"");
        let missing = store.sweep(&sweep).await.expect_err("no archive");
        assert_eq!(missing.code(), "deployment_broken");
        assert!(!missing.detail().contains("migrate()"), "the archive is the application's: {missing}");
        assert_eq!(db.records().await, 7);
        db.execute("CREATE TABLE \"old \"\"records\"\"\" AS SELECT * FROM idem_records WHERE false").await;
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 7);
        assert_eq!((db.records().await, db.number("SELECT count(*) FROM \"old \"\"records\"\"\"").await), (0, 7));
        db.execute("INSERT INTO idem_records SELECT * FROM \"old \"\"records\"\"\"").await;
        assert_eq!(db.stored().await.len(), before.len());
    }

    async fn r32_sweepers_run_beside_each_other_and_beside_requests(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        for key in 0..60 {
            Call::act("insert").key(&key.to_string()).send(&app).await.expect_fresh(201);
        }
        db.expire().await;
        let sweepers: Vec<_> = (0..3).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.sweep(&Sweep::default().batch(5)).await.expect("a sweep") })
        }).collect();
        let requests: Vec<_> = (0..60).map(|key| {
            let (call, app) = (Call::to("/wait", "insert").key(&key.to_string()), app.clone());
            tokio::spawn(async move { call.send(&app).await })
        }).collect();
        for request in requests {
            request.await.expect("no panic").expect_fresh(201);
        }
        let mut swept = 0;
        for sweeper in sweepers {
            swept += sweeper.await.expect("no panic");
        }
        swept += store.sweep(&Sweep::default()).await.expect("a sweep");
        assert_eq!((gauge.entered(), swept, db.records().await), (120, 60, 60));
    }

    async fn r32_the_background_sweep_stops_with_its_handle(db) {
        let store = db.store(4).await;
        let (app, _) = db.app_over(store.clone());
        let sweeper = store.sweeper(Sweep::default().every(Duration::from_millis(1)));
        for key in ["a", "b"] {
            Call::act("insert").key(key).send(&app).await.expect_fresh(201);
            db.expire().await;
            eventually("it is swept", async || db.records().await == 0).await;
        }
        sweeper.stop().await;
        Call::act("insert").key("c").send(&app).await.expect_fresh(201);
        db.expire().await;
        // Dropped before its first look, it never looks; kept a little, it looks once more.
        drop(store.sweeper(Sweep::default().every(Duration::from_secs(3600))));
        let sweeper = store.sweeper(Sweep::default());
        eventually("it is swept again", async || db.records().await == 0).await;
        sweeper.stop().await;
    }
}

/// Records of many scopes, and how many statements have deleted them: a sequence counts what is rolled back, too.
async fn with_scopes(scopes: usize, refuses: &str, code: &str) -> Postgres {
    let db = Postgres::create().await;
    let (app, _) = db.app().await;
    for scope in 0..scopes {
        Call::act("insert").user(&format!("u{scope}")).send(&app).await.expect_fresh(201);
    }
    db.expire().await;
    db.execute(&format!(
        "CREATE SEQUENCE deletes MINVALUE 0 START 0;
        SELECT nextval('deletes');
        CREATE FUNCTION count_deletes() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('deletes');
            IF {refuses} THEN RAISE EXCEPTION 'not on several nodes' USING ERRCODE = '{code}'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER count_deletes BEFORE DELETE ON idem_records FOR EACH STATEMENT EXECUTE FUNCTION count_deletes();
        CREATE TABLE old (LIKE idem_records)"
    ))
    .await;
    db
}

const DELETES: &str = "SELECT last_value FROM deletes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_a_batch_is_one_statement_whatever_the_number_of_scopes_on_postgres() {
    for archive in [false, true] {
        let db = with_scopes(60, "false", "0A000").await;
        let sweep = Sweep::default().batch(20);
        let sweep = if archive { sweep.archive("old") } else { sweep };
        assert_eq!(db.store(2).await.sweep(&sweep).await.expect("a sweep"), 60);
        // Three, and one that finds nothing.
        assert_eq!((db.number(DELETES).await, db.records().await), (4, 0));
        assert_eq!(db.number("SELECT count(*) FROM old").await, if archive { 60 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_a_postgres_that_cannot_mix_scopes_is_swept_scope_by_scope() {
    // As a distributed one: only a statement that names its scope will do. Or there is no column `ctid`, or no such syntax.
    for (archive, code) in [(false, "0A000"), (true, "0A000"), (false, "42703"), (false, "42601")] {
        let db = with_scopes(12, "current_query() NOT LIKE '%scope = $1%'", code).await;
        let sweep = Sweep::default().batch(5);
        let sweep = if archive { sweep.archive("old") } else { sweep };
        let store = db.store(2).await;
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 12);
        // One that was refused, and one for each scope: it is not tried again.
        assert_eq!((db.number(DELETES).await, db.records().await), (13, 0));
        assert_eq!(db.number("SELECT count(*) FROM old").await, if archive { 12 } else { 0 });
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 0);
        assert_eq!(db.number(DELETES).await, 13);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_what_somebody_holds_is_left_for_the_next_pass_on_postgres() {
    let db = with_scopes(12, "false", "0A000").await;
    // The one that expired first is held, as by a request that replaces it.
    db.execute("UPDATE idem_records SET expires_at = now() - interval '1 hour' WHERE scope LIKE 'u7q%'").await;
    let mut holder = db.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SELECT 1 FROM idem_records WHERE scope LIKE 'u7q%' FOR UPDATE")
        .execute(&mut *holder)
        .await
        .expect("held");
    let store = db.store(2).await;
    let sweep = Sweep::default().batch(3);
    let swept = tokio::time::timeout(Duration::from_secs(30), store.sweep(&sweep)).await.expect("no wait for it");
    assert_eq!((swept.expect("a sweep"), db.records().await), (11, 1));
    // Nor does the background task forget it, which remembers how far a pass has come.
    let (app, _) = db.app_over(store.clone());
    for scope in 0..12 {
        Call::act("insert").user(&format!("v{scope}")).send(&app).await.expect_fresh(201);
    }
    db.execute("UPDATE idem_records SET expires_at = now() WHERE scope LIKE 'v%'").await;
    let sweeper = store.sweeper(sweep.every(Duration::from_millis(1)));
    eventually("the others are swept", async || db.records().await == 1).await;
    holder.rollback().await.expect("the end");
    eventually("it is swept, too", async || db.records().await == 0).await;
    sweeper.stop().await;
}
