//! Rules 10, 11 and 32 with many tasks and many rounds.

use futures_util::future::join_all;
use idem_sqlx::{Isolation, PgStore};
use sqlx::postgres::PgPoolOptions;

use crate::app;
use crate::client::{Answer, Call, eventually};
use crate::support::{Database, Postgres};

/// Sends the call this often at once.
async fn at_once(call: &Call, app: &axum::Router, times: usize) -> Vec<Answer> {
    let sent = (0..times).map(|_| {
        let (call, app) = (call.clone(), app.clone());
        tokio::spawn(async move { call.send(&app).await })
    });
    join_all(sent).await.into_iter().map(|answer| answer.expect("no panic")).collect()
}

both! {
    async fn r10_of_64_duplicates_one_runs_in_each_of_100_rounds(db) {
        let (app, gauge) = db.app().await;
        for round in 1..=100 {
            let call = Call::act("insert").key(&format!("round {round}").replace(' ', "-"));
            let answers = at_once(&call, &app, 64).await;
            let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 201 && !answer.replayed()).collect();
            assert_eq!(fresh.len(), 1, "round {round}");
            for answer in answers.iter().filter(|answer| answer.replayed()) {
                answer.expect_replay_of(fresh[0]);
            }
            for answer in answers.iter().filter(|answer| answer.status != 201) {
                answer.expect(409, "key_in_flight");
                assert_eq!(answer.headers["retry-after"], "1");
            }
            assert_eq!((gauge.entered(), db.effects().await), (round, i64::try_from(round).expect("small")));
            call.send(&app).await.expect_replay_of(fresh[0]);
        }
        assert_eq!(db.records().await, 100);
    }

    async fn r10_duplicates_of_a_failing_run_never_overlap_and_one_can_succeed(db) {
        let (app, gauge) = db.app().await;
        for round in 0..20 {
            let key = format!("k{round}");
            let failing = Call::act("wait_and_fail").key(&key);
            let before = gauge.entered();
            let first = tokio::spawn({ let (call, app) = (failing.clone(), app.clone()); async move { call.send(&app).await } });
            eventually("the first runs", async || gauge.entered() == before + 1).await;
            let others = tokio::spawn({ let (call, app) = (failing.clone(), app.clone()); async move { at_once(&call, &app, 16).await } });
            // Each that runs after the first one's release needs its own pass; what is not used is taken back.
            gauge.open(1);
            assert_eq!(first.await.expect("no panic").status, 502);
            while !others.is_finished() {
                gauge.open(1);
                tokio::task::yield_now().await;
            }
            for answer in others.await.expect("no panic") {
                assert!(answer.status == 502 || answer.code() == "key_in_flight", "{answer:?}");
            }
            gauge.close();
            Call::act("insert").key(&key).send(&app).await.expect_fresh(201);
        }
        assert_eq!(db.effects().await, 20);
    }

    async fn r11_a_pool_of_one_serves_a_request_and_its_replay(db) {
        let (app, _) = db.app_over(db.store(1).await);
        for key in ["a", "b", "c"] {
            let first = Call::act("insert").key(key).send(&app).await;
            first.expect_fresh(201);
            Call::act("insert").key(key).send(&app).await.expect_replay_of(&first);
            Call::act("empty").key(key).send(&app).await.expect(422, "key_reused");
            let call = Call::act("reject").key(&format!("{key}{key}"));
            let first = call.send(&app).await;
            call.send(&app).await.expect_replay_of(&first);
        }
    }

    async fn r11_with_a_pool_of_two_32_duplicates_wait_and_are_all_answered(db) {
        let (app, gauge) = db.app_over(db.store(2).await);
        let call = Call::to("/wait", "wait");
        let waiting = tokio::spawn({ let (call, app) = (call.clone(), app.clone()); async move { at_once(&call, &app, 33).await } });
        eventually("one runs", async || gauge.entered() == 1).await;
        gauge.open(1);
        let answers = waiting.await.expect("no panic");
        assert_eq!(answers.iter().filter(|answer| !answer.replayed()).count(), 1);
        assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
    }

    async fn r32_of_64_callers_on_an_expired_key_one_runs(db) {
        let (app, gauge) = db.app().await;
        for round in 1..=20 {
            db.expire().await;
            let answers = at_once(&Call::act("insert"), &app, 64).await;
            let fresh = answers.iter().filter(|answer| answer.status == 201 && !answer.replayed()).count();
            assert_eq!((fresh, gauge.entered()), (1, round));
            for answer in answers.iter().filter(|answer| answer.status != 201) {
                answer.expect(409, "key_in_flight");
            }
        }
        assert_eq!((db.records().await, db.effects().await), (1, 20));
    }
}

/// Sends 32 duplicates at once, many times over, and half of the keys a second time when they have expired.
async fn one_runs_in_each_round(db: &Postgres, store: PgStore) {
    let (app, gauge) = db.app_over(store);
    let mut ran = 0;
    for round in 0..30 {
        let call = Call::act("insert").key(&format!("k{}", round % 15));
        if round == 15 {
            db.expire().await;
        }
        let answers = at_once(&call, &app, 32).await;
        ran += 1;
        let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 201 && !answer.replayed()).collect();
        assert_eq!((fresh.len(), gauge.entered()), (1, ran), "round {round}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            answer.expect(409, "key_in_flight");
        }
        call.send(&app).await.expect_replay_of(fresh[0]);
        Call::act("empty").key(&format!("k{}", round % 15)).send(&app).await.expect(422, "key_reused");
        Call::act("reject").key(&format!("rejected-{round}")).send(&app).await.expect_fresh(402);
        ran += 1;
    }
    assert_eq!(db.effects().await, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_repeatable_read() {
    let db = Postgres::create().await;
    let store = db.builder(8).await.isolation(Isolation::RepeatableRead).build();
    one_runs_in_each_round(&db, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_serializable() {
    let db = Postgres::create().await;
    let store = db.builder(8).await.isolation(Isolation::Serializable).build();
    one_runs_in_each_round(&db, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_where_serializable_is_the_default() {
    let db = Postgres::create().await;
    let options = db.options().options([("default_transaction_isolation", "serializable")]);
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await.expect("a pool");
    one_runs_in_each_round(&db, PgStore::builder(pool).reply_limit(app::REPLY_LIMIT).build()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_with_statements_that_have_no_names() {
    let db = Postgres::create().await;
    let pool = db.pool_of(8).await;
    let store = PgStore::builder(pool.clone()).unnamed_statements(true).build();
    one_runs_in_each_round(&db, store).await;
    let mut named = 0;
    for _ in 0..8 {
        let mut connection = pool.acquire().await.expect("a connection");
        let ours = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%idem_records%'",
        );
        named += ours.persistent(false).fetch_one(&mut *connection).await.expect("a count");
    }
    assert_eq!(named, 0, "a statement has a name that another client's connection does not know");
}

/// Some distributed databases have no advisory locks, or only pretend to: the primary key decides alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_without_advisory_locks() {
    let db = Postgres::create().await;
    db.execute(
        "CREATE SCHEMA pretended;
        CREATE FUNCTION pretended.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION pretended.pg_try_advisory_xact_lock_shared(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    )
    .await;
    let options = db.options().options([("search_path", "pretended,pg_catalog,public")]);
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await.expect("a pool");
    let store = PgStore::builder(pool).schema("public").build();
    one_runs_in_each_round(&db, store).await;
}
