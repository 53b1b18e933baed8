//! Rules 7, 10 and 12 while the first request runs.

use futures_util::future::join_all;
use idem_core::store::Store;
use tracing::Instrument;

use crate::client::{Answer, Call, eventually};
use crate::support::{Database, Postgres, Sqlite};

/// Sends the call in a task of its own, as a server would.
fn start(call: &Call, app: &axum::Router) -> tokio::task::JoinHandle<Answer> {
    let (call, app) = (call.clone(), app.clone());
    tokio::spawn(async move { call.send(&app).await })
}

/// Another process has another table of running requests: there the locks in the database answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_postgres_another_process_tells_a_duplicate_from_a_reuse() {
    let db = Postgres::create().await;
    let ((app, gauge), (elsewhere, idle)) = (db.app().await, db.app().await);
    for round in 1..=10 {
        let call = Call::act("wait").key(&format!("k{round}"));
        if round % 2 == 0 {
            // The key has an expired record.
            gauge.open(1);
            call.send(&app).await.expect_fresh(201);
            db.expire().await;
        }
        let waited = gauge.waited();
        let first = start(&call, &app);
        eventually("it runs", async || gauge.waited() == waited + 1).await;
        let reuse = Call::act("insert").key(&format!("k{round}"));
        let others =
            join_all((0..16).map(|other| start(if other % 2 == 0 { &reuse } else { &call }, &elsewhere))).await;
        for (other, answer) in others.into_iter().enumerate() {
            let (status, code) = if other % 2 == 0 { (422, "key_reused") } else { (409, "key_in_flight") };
            answer.expect("no panic").expect(status, code);
        }
        gauge.open(1);
        let first = first.await.expect("no panic");
        first.expect_fresh(201);
        call.send(&elsewhere).await.expect_replay_of(&first);
    }
    assert_eq!((idle.entered(), db.records().await), (0, 10));
}

both! {
    async fn r07_another_body_is_refused_while_the_first_runs(db) {
        let (app, gauge) = db.app().await;
        for round in 0..10 {
            let key = format!("k{round}");
            let first = start(&Call::act("wait").key(&key), &app);
            eventually("the first runs", async || gauge.entered() == round + 1).await;
            let others = join_all((0..16).map(|_| start(&Call::act("insert").key(&key), &app))).await;
            for other in others {
                other.expect("no panic").expect(422, "key_reused");
            }
            Call::act("wait").key(&key).send(&app).await.expect(409, "key_in_flight");
            gauge.open(1);
            first.await.expect("no panic").expect_fresh(201);
        }
        assert_eq!(db.effects().await, 10);
    }

    async fn r07_another_body_is_refused_while_an_expired_key_runs_again(db) {
        let (app, gauge) = db.app().await;
        Call::act("insert").send(&app).await.expect_fresh(201);
        db.expire().await;
        let first = start(&Call::act("wait"), &app);
        eventually("it runs again", async || gauge.entered() == 2).await;
        Call::act("insert").send(&app).await.expect(422, "key_reused");
        Call::act("wait").send(&app).await.expect(409, "key_in_flight");
        gauge.open(1);
        first.await.expect("no panic").expect_fresh(201);
    }

    async fn r10_a_duplicate_gets_409_or_202_or_waits(db) {
        let (app, gauge) = db.app().await;
        for (path, status) in [("/act", 409), ("/accepted", 202), ("/impatient", 409)] {
            let before = gauge.entered();
            let call = Call::to(path, "wait");
            let first = start(&call, &app);
            eventually("the first runs", async || gauge.entered() == before + 1).await;
            let duplicate = call.send(&app).await;
            duplicate.expect(status, "key_in_flight");
            assert_eq!(duplicate.headers["retry-after"], "1");
            gauge.open(1);
            let first = first.await.expect("no panic");
            first.expect_fresh(201);
            call.send(&app).await.expect_replay_of(&first);
        }
        let call = Call::to("/wait", "wait");
        let before = gauge.entered();
        let both = [start(&call, &app), start(&call, &app)];
        eventually("one runs", async || gauge.entered() == before + 1).await;
        gauge.open(1);
        let [one, other] = both;
        let (one, other) = (one.await.expect("no panic"), other.await.expect("no panic"));
        assert!(one.replayed() != other.replayed() && one.body == other.body, "{one:?} {other:?}");
    }

    async fn r12_a_run_goes_on_when_the_client_hangs_up(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        let first = start(&Call::act("wait"), &app);
        eventually("it runs", async || gauge.entered() == 1).await;
        first.abort();
        assert!(first.await.expect_err("aborted").is_cancelled());
        Call::act("wait").send(&app).await.expect(409, "key_in_flight");
        assert_eq!(store.runs().count(), 1);
        gauge.open(1);
        store.runs().drained().await;
        assert_eq!((db.effects().await, db.records().await), (1, 1));
        let retry = Call::act("wait").send(&app).await;
        assert!(retry.replayed() && retry.status == 201, "{retry:?}");
        assert_eq!(gauge.entered(), 1);
    }

    async fn r11_a_duplicate_of_a_running_request_needs_no_free_connection_for_long(db) {
        let (app, gauge) = db.app_over(db.store(2).await);
        let first = start(&Call::act("wait"), &app);
        eventually("the first runs", async || gauge.entered() == 1).await;
        let others = join_all((0..32).map(|_| start(&Call::to("/act", "wait"), &app))).await;
        for other in others {
            other.expect("no panic").expect(409, "key_in_flight");
        }
        gauge.open(1);
        first.await.expect("no panic").expect_fresh(201);
    }

    async fn r12_a_drain_waits_for_all_runs(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        // SQLite runs one at a time, so one is in its body and one behind it.
        let runs = [start(&Call::act("wait").key("a"), &app), start(&Call::act("wait").key("b"), &app)];
        eventually("both are counted", async || store.runs().count() == 2 && gauge.entered() > 0).await;
        let draining = store.clone();
        let drained = tokio::spawn(async move { draining.runs().drained().await });
        gauge.open(1);
        eventually("one of them has ended", async || store.runs().count() == 1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!drained.is_finished());
        gauge.open(1);
        drained.await.expect("no panic");
        assert_eq!(db.effects().await, 2);
        for run in runs {
            run.await.expect("no panic").expect_fresh(201);
        }
    }
}

async fn r12_the_span_goes_with_the_run<D: Database>() {
    // One thread, so that the subscriber is everybody's.
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry());
    let db = D::create().await;
    let (app, _) = db.app().await;
    let answer = Call::act("span").send(&app).instrument(tracing::info_span!("of the request")).await;
    assert_eq!(answer.body, b"of the request");
}

#[tokio::test]
async fn r12_the_span_goes_with_the_run_on_postgres() {
    r12_the_span_goes_with_the_run::<Postgres>().await;
}

#[tokio::test]
async fn r12_the_span_goes_with_the_run_on_sqlite() {
    r12_the_span_goes_with_the_run::<Sqlite>().await;
}

/// A request that another process is running is not mistaken for a reuse because a third one has asked in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_sqlite_two_processes_on_one_file() {
    let db = Sqlite::create().await;
    let (elsewhere, gauge) = db.app().await;
    let (app, _) = db.app().await;
    let first = start(&Call::act("wait"), &elsewhere);
    eventually("the first runs", async || gauge.entered() == 1).await;
    let other = start(&Call::act("insert"), &app);
    // Until the other one is in the queue for the write lock, its duplicate would run into the queue, too.
    let retry = Call::act("wait");
    let answers = tokio::spawn({
        let (retry, app) = (retry.clone(), app.clone());
        async move { join_all((0..20).map(|_| start(&retry, &app))).await }
    });
    tokio::task::yield_now().await;
    gauge.open(1);
    let first = first.await.expect("no panic");
    first.expect_fresh(201);
    for answer in answers.await.expect("no panic") {
        let answer = answer.expect("no panic");
        if !answer.replayed() {
            answer.expect(409, "key_in_flight");
        }
    }
    // Where one of the retries was in the queue before it, it is only told to come again.
    let other = other.await.expect("no panic").code();
    assert!(["key_reused", "key_in_flight"].contains(&other.as_str()), "{other}");
    retry.send(&app).await.expect_replay_of(&first);
}

/// A pool of one is all that a database in memory can have.
#[tokio::test]
async fn r10_sqlite_a_pool_of_one_answers_duplicates_while_the_first_runs() {
    let db = Sqlite::create().await;
    let (app, gauge) = db.app_over(db.store(1).await);
    let first = start(&Call::act("wait"), &app);
    eventually("the first runs", async || gauge.entered() == 1).await;
    Call::act("wait").send(&app).await.expect(409, "key_in_flight");
    Call::act("insert").send(&app).await.expect(422, "key_reused");
    gauge.open(1);
    first.await.expect("no panic").expect_fresh(201);
}
