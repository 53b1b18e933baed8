//! Rules 12a and 12b: every run has an end, and nobody waits behind a busy connection.

use std::time::{Duration, Instant};

use axum::Router;
use http::Method;
use idem_core::Kind;
use idem_core::store::{Context, Store};

use crate::app::Gauge;
use crate::client::{Answer, Call, eventually};
use crate::orders::Refused;
use crate::pay::kind;
use crate::plain::{Event, Failed};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres, Sqlite};

/// The deadline of the stores in these tests, and of `/brief`.
const DEADLINE: Duration = Duration::from_millis(400);

/// What takes so long has waited for something else than a deadline.
const TOO_LONG: Duration = Duration::from_secs(3);

async fn promptly<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = tokio::time::timeout(Duration::from_secs(30), work).await.expect(what);
    assert!(began.elapsed() < TOO_LONG, "{what} took {:?}", began.elapsed());
    done
}

/// Sends the call in a task of its own, as a server would.
fn start(call: &Call, app: &Router) -> tokio::task::JoinHandle<Answer> {
    let (call, app) = (call.clone(), app.clone());
    tokio::spawn(async move { call.send(&app).await })
}

trait Brief: Database {
    /// A store of two connections whose runs have a deadline.
    async fn brief(&self) -> <Self::Tx as Context>::Store;

    /// The database's time, in SQL.
    const TIME: &str;

    /// A statement of some seconds.
    const SLOW: &'static str;
}

impl Brief for Postgres {
    const TIME: &str = "now()";

    const SLOW: &'static str = "SELECT pg_sleep(4)";

    async fn brief(&self) -> idem_sqlx::PgStore {
        self.builder(2).await.deadline(DEADLINE).build()
    }
}

impl Brief for Sqlite {
    const TIME: &str = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)";

    const SLOW: &'static str =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000000) SELECT count(*) FROM n";

    async fn brief(&self) -> idem_sqlx::SqliteStore {
        self.builder(2).await.deadline(DEADLINE).build()
    }
}

both! {
    async fn r12a_a_run_ends_at_its_deadline(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        for call in [Call::to("/brief", "hang"), Call::to("/brief", "hang").without("idempotency-key"), Call::to("/brief", "endless_body")] {
            let answer = promptly("the answer", call.send(&app)).await;
            answer.expect(503, "deadline_exceeded");
            assert_eq!(answer.headers["retry-after"], "1");
            assert_eq!((db.effects().await, db.records().await), (0, 0));
        }
        // The key is free.
        Call::to("/brief", "insert").send(&app).await.expect_fresh(201);
        assert_eq!((gauge.entered(), db.effects().await), (4, 1));
        assert!(store.drain(TOO_LONG).await);
        assert!(D::is_idle(&store).await);
    }

    async fn r12a_a_run_ends_at_the_deadline_of_its_store(db) {
        let store = db.brief().await;
        let (app, gauge) = db.app_over(store.clone());
        promptly("a recorded run", Call::act("hang").send(&app)).await.expect(503, "deadline_exceeded");
        let unrecorded = Call::act("hang").method(Method::GET);
        promptly("an unrecorded run", unrecorded.send(&app)).await.expect(503, "deadline_exceeded");
        let function = Gauge::new();
        for event in [Event::of("k", "hang"), Event::of("final", "hang")] {
            let ended = promptly("a function", functions::reject(&function, &store, &event)).await;
            assert!(matches!(ended, Err(Failed::Idem(Kind::DeadlineExceeded))), "{ended:?}");
        }
        assert_eq!((gauge.entered(), function.entered(), db.effects().await, db.records().await), (2, 2, 0, 0));
        functions::reject(&function, &store, &Event::of("k", "insert")).await.expect("the key is free");
        assert!(store.drain(TOO_LONG).await);
    }

    async fn r12a_a_leased_run_ends_at_its_deadline_and_is_no_longer_renewed(db) {
        let (store, script) = (db.brief().await, Script::default());
        for (step, act) in [("reserve", Act::Hang), ("charge", Act::Hang), ("confirm", Act::Hang)] {
            script.act(step, act);
            let ended = promptly(step, steps::pay_in_time(&store, "k", &script)).await;
            assert_eq!(kind(&ended), Some(Kind::DeadlineExceeded), "{step}: {ended:?}");
            assert!(store.drain(TOO_LONG).await);
            let held = "SELECT count(*) FROM idem_records WHERE lease_until > ";
            assert_eq!(db.number(&format!("{held} {}", D::TIME)).await, 0, "{step}");
            db.end_pauses().await;
        }
        steps::pay_in_time(&store, "k", &script).await.expect("the retry goes on");
        assert_eq!((script.times("reserve"), script.times("charge"), db.effects().await), (2, 2, 2));
    }

    async fn r12a_an_undo_that_hangs_ends_at_the_deadline_of_its_store_or_its_handler(db) {
        let (brief, store, script) = (db.brief().await, db.store(2).await, std::sync::Arc::new(Script::default()));
        script.act("undo charge", Act::Hang);
        let ended = promptly("the rejection", orders::order(&brief, "store", true, &script)).await;
        assert_eq!(ended, Err(Refused::Idem("deadline_exceeded".to_owned())));
        script.act("undo charge", Act::Hang);
        let ended = promptly("the rejection", orders::order_in_time(&store, "handler", &script)).await;
        assert_eq!(ended, Err(Refused::Idem("deadline_exceeded".to_owned())));
        assert!(brief.drain(TOO_LONG).await && store.drain(TOO_LONG).await);
        db.end_pauses().await;
        assert_eq!(orders::order(&store, "store", true, &script).await, Err(Refused::Declined));
        assert_eq!(orders::order(&store, "handler", true, &script).await, Err(Refused::Declined));
    }

    async fn r13_a_shutdown_waits_for_the_rollback_of_a_dropped_run(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        for round in 1..=20 {
            let (id, key) = (round.to_string(), Event::of(&round.to_string(), "hang"));
            let dropped = tokio::select! {
                result = functions::handle(&store, &gauge, &key) => Some(result.is_ok()),
                () = eventually("it hangs", async || gauge.entered() == 2 * round - 1) => None,
            };
            assert_eq!(dropped, None);
            assert!(store.drain(TOO_LONG).await);
            functions::handle(&store, &gauge, &Event::of(&id, "insert")).await.expect("the key is free");
        }
    }

    async fn r12a_a_run_whose_client_has_hung_up_ends_too(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let run = start(&Call::to("/brief", "hang"), &app);
        eventually("it runs", async || gauge.entered() == 1).await;
        run.abort();
        assert!(run.await.expect_err("aborted").is_cancelled());
        assert!(store.drain(TOO_LONG).await);
        assert_eq!((store.runs().count(), db.effects().await), (0, 0));
        Call::to("/brief", "insert").send(&app).await.expect_fresh(201);
    }

    async fn r12a_a_statement_that_hangs_ends_with_its_run(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let began = Instant::now();
        Call::to("/brief", "slow_statement").send(&app).await.expect(503, "deadline_exceeded");
        assert!(began.elapsed() < Duration::from_millis(1500), "the answer took {:?}", began.elapsed());
        assert!(store.drain(Duration::from_secs(30)).await);
        // On Postgres the statement of four seconds is cancelled.
        assert!(D::WRITERS == 1 || began.elapsed() < Duration::from_secs(3), "the key was held {:?}", began.elapsed());
        Call::to("/brief", "insert").send(&app).await.expect_fresh(201);
        assert_eq!((gauge.entered(), db.effects().await), (2, 1));
    }

    async fn r12b_a_handlers_own_timeout_is_kept(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        for call in [Call::act("impatient"), Call::act("impatient").method(Method::GET)] {
            let began = Instant::now();
            let answer = call.send(&app).await;
            assert_eq!(answer.status, 504, "{answer:?}");
            assert!(began.elapsed() < Duration::from_millis(1200), "the answer took {:?}", began.elapsed());
            // SQLite has no way to cancel a statement. The connection is busy, and the run is counted until it is not.
            assert!(D::WRITERS > 1 || store.runs().count() == 1);
            assert!(store.drain(Duration::from_secs(30)).await);
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (2, 0, 0));
        assert!(D::is_idle(&store).await);
        Call::act("insert").send(&app).await.expect_fresh(201);
    }

    async fn r12b_a_leased_handlers_own_timeout_is_kept(db) {
        let store = db.store(2).await;
        for last in [false, true] {
            let began = Instant::now();
            let ended = steps::pay_impatiently(&store, "k", last, D::SLOW).await;
            assert_eq!(kind(&ended), None, "its own failure: {ended:?}");
            assert!(ended.is_err() && began.elapsed() < Duration::from_millis(1200), "{:?}: {ended:?}", began.elapsed());
            assert!(store.drain(Duration::from_secs(30)).await);
            assert!(D::WRITERS == 1 || began.elapsed() < Duration::from_secs(3), "it was cancelled: {:?}", began.elapsed());
            assert!(D::is_idle(&store).await);
            db.end_pauses().await;
        }
        assert_eq!(db.effects().await, 0);
    }
}
