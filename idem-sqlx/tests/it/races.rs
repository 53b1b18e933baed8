//! Rules 10, 11 and 32 with many tasks and many rounds.

use futures_util::future::join_all;
use idem_core::Kind;
use idem_sqlx::{Isolation, PgStore};
use sqlx::Row;

use crate::app::{self, Gauge};
use crate::client::{Answer, Call, eventually};
use crate::plain::{Event, Failed};
use crate::support::{Database, Postgres};

/// Sends the call this often at once.
async fn at_once(call: &Call, app: &axum::Router, times: usize) -> Vec<Answer> {
    at_once_to(call, &[app], times).await
}

/// Sends the call this often at once, to these applications in turn.
async fn at_once_to(call: &Call, apps: &[&axum::Router], times: usize) -> Vec<Answer> {
    let sent = apps.iter().cycle().take(times).map(|app| {
        let (call, app) = (call.clone(), (*app).clone());
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

    async fn r10_of_64_duplicates_one_is_rejected_in_each_of_60_rounds(db) {
        let (app, gauge) = db.app().await;
        for round in 1..=60 {
            // With a failed statement in front, and without.
            let act = if round % 2 == 0 { "reject" } else { "swallow_and_reject" };
            let call = Call::act(act).key(&format!("k{round}"));
            let answers = at_once(&call, &app, 64).await;
            assert_eq!((gauge.entered(), db.effects().await), (round, 0), "{act}");
            let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 402 && !answer.replayed()).collect();
            assert_eq!(fresh.len(), 1, "round {round}");
            for answer in &answers {
                match answer.status.as_u16() {
                    402 if answer.replayed() => answer.expect_replay_of(fresh[0]),
                    402 => {}
                    _ => answer.expect(409, "key_in_flight"),
                }
            }
            call.send(&app).await.expect_replay_of(fresh[0]);
            assert_eq!(gauge.entered(), round);
        }
        assert_eq!(db.records().await, 60);
    }

    async fn r10_of_64_duplicates_one_is_rejected_by_a_plain_function(db) {
        let (store, gauge) = (db.store(8).await, Gauge::new());
        for round in 1..=40 {
            let event = Event::of(&round.to_string(), "final");
            let results = join_all((0..64).map(|_| functions::reject(&gauge, &store, &event))).await;
            assert_eq!((gauge.entered(), db.effects().await), (round, 0));
            for result in results.into_iter().chain([functions::reject(&gauge, &store, &event).await]) {
                assert!(
                    matches!(result, Err(Failed::Final { entered }) if entered == round)
                        || matches!(result, Err(Failed::Idem(Kind::KeyInFlight))),
                    "round {round}: {result:?}"
                );
            }
        }
        assert_eq!(gauge.entered(), 40);
    }

    async fn r10_a_failed_statement_lets_nobody_else_in(db) {
        let (app, gauge) = db.app().await;
        for (round, act) in ["break_wait_and_reject", "break_wait_and_fail"].into_iter().cycle().take(6).enumerate() {
            let call = Call::act(act).key(&format!("k{round}"));
            let first = tokio::spawn({ let (call, app) = (call.clone(), app.clone()); async move { call.send(&app).await } });
            eventually("the statement has failed", async || gauge.waited() == round + 1).await;
            for answer in at_once(&call, &app, 16).await {
                answer.expect(409, "key_in_flight");
            }
            Call::act("empty").key(&format!("k{round}")).send(&app).await.expect(422, "key_reused");
            gauge.open(1);
            let first = first.await.expect("no panic");
            assert_eq!((gauge.entered(), db.effects().await), (round + 1, 0), "{act}");
            if first.status == 402 {
                call.send(&app).await.expect_replay_of(&first);
            }
        }
        assert_eq!((gauge.entered(), db.records().await), (6, 3));
    }

    async fn r10_a_failed_statement_of_a_plain_function_lets_nobody_else_in(db) {
        let (store, gauge) = (db.store(8).await, Gauge::new());
        for round in 1..=5 {
            let event = Event::of(&round.to_string(), "broken");
            let of_run = (store.clone(), gauge.clone(), event.clone());
            let first = tokio::spawn(async move { functions::reject(&of_run.1, &of_run.0, &of_run.2).await });
            eventually("the statement has failed", async || gauge.waited() == round).await;
            for result in join_all((0..16).map(|_| functions::reject(&gauge, &store, &event))).await {
                assert!(matches!(result, Err(Failed::Idem(Kind::KeyInFlight))), "{result:?}");
            }
            gauge.open(1);
            for result in [first.await.expect("no panic"), functions::reject(&gauge, &store, &event).await] {
                assert!(matches!(result, Err(Failed::Final { entered }) if entered == round), "{result:?}");
            }
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (5, 0, 5));
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

/// Sends 32 duplicates at once, many times over, and half of the keys a second time when they have expired. They go to
/// two stores, as to two processes: what a store knows of its own runs spares duplicates the database.
async fn one_runs_in_each_round(db: &Postgres, store: impl Fn() -> PgStore) {
    let ((app, gauge), (elsewhere, other)) = (db.app_over(store()), db.app_over(store()));
    let mut ran = 0;
    for round in 0..30 {
        let call = Call::act("insert").key(&format!("k{}", round % 15));
        if round == 15 {
            db.expire().await;
        }
        let answers = at_once_to(&call, &[&app, &elsewhere], 32).await;
        ran += 1;
        let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 201 && !answer.replayed()).collect();
        assert_eq!((fresh.len(), gauge.entered() + other.entered()), (1, ran), "round {round}");
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

/// With these defaults of the database and this isolation level, as the application chose it.
async fn one_runs_under(isolation: Option<Isolation>, defaults: &[&str]) {
    let db = Postgres::create().await;
    for setting in defaults {
        db.by_default(setting).await;
    }
    let pool = db.pool_of(8).await;
    let store = || {
        let builder = Postgres::builder_over(pool.clone()).reply_limit(app::REPLY_LIMIT);
        isolation.into_iter().fold(builder, |builder, isolation| builder.isolation(isolation)).build()
    };
    one_runs_in_each_round(&db, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_two_processes() {
    one_runs_under(None, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_repeatable_read() {
    one_runs_under(Some(Isolation::RepeatableRead), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_serializable() {
    one_runs_under(Some(Isolation::Serializable), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_where_serializable_is_the_default() {
    one_runs_under(None, &["default_transaction_isolation = 'serializable'"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_postgres_with_statements_that_have_no_names() {
    let db = Postgres::create().await;
    let pool = db.pool_of(8).await;
    one_runs_in_each_round(&db, || Postgres::builder_over(pool.clone()).unnamed_statements(true).build()).await;
    let mut named = 0;
    for _ in 0..8 {
        let mut connection = pool.acquire().await.expect("a connection");
        let ours = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%idem_records%'";
        let ours = sqlx::raw_sql(ours).fetch_one(&mut *connection).await.expect("a count");
        named += ours.get::<i64, _>(0);
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
    db.by_default("search_path = pretended, pg_catalog, public").await;
    let pool = db.pool_of(8).await;
    one_runs_in_each_round(&db, || Postgres::builder_over(pool.clone()).schema("public").build()).await;
}
