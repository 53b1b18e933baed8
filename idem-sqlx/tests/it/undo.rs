//! Rule 14 for leased runs: what a rejected run has done is undone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::to_bytes;
use axum::http::StatusCode;
use idem_core::{
    Error, Fingerprint, Guard, Identity, Kind, Request, Settled, Start, Steps, Stored, begin, idempotent, observe,
};
use idem_sqlx::{PgSteps, PgTx};
use sqlx::Executor;
use tower::ServiceExt;

use crate::cancel::{GivenUp, polled};
use crate::client::eventually;
use crate::orders::Refused;
use crate::script::{Act, Script};
use crate::support::Database;

const STEPS: &str = "SELECT count(*) FROM idem_journal";
const COMPLETED: &str = "SELECT count(*) FROM idem_records WHERE completed_at IS NOT NULL";

async fn undone<D: Database>(db: &D) -> i64 {
    db.number("SELECT count(*) FROM effects WHERE what = 'undo reserve'").await
}

fn refused(kind: Kind) -> Result<u32, Refused> {
    Err(Refused::Idem(kind.code().to_owned()))
}

/// What came of a request: its status, whether it was a replay, why it was refused, and its body.
async fn send(app: &axum::Router, method: &str) -> (StatusCode, bool, Option<String>, String) {
    let request = axum::http::Request::builder().method(method).uri("/orders").header("x-caller", "u1");
    let request = request.header("Idempotency-Key", "k").body(axum::body::Body::empty()).expect("a request");
    let response = app.clone().oneshot(request).await.expect("a response");
    let (parts, body) = response.into_parts();
    let why = parts.headers.get("x-why").map(|why| why.to_str().expect("text").to_owned());
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let body = String::from_utf8(body.to_vec()).expect("text");
    (parts.status, parts.headers.contains_key("idempotent-replayed"), why, body)
}

both! {
    async fn r14_a_rejected_run_is_undone_the_last_step_first_and_replayed(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        assert_eq!(orders::order(&store, "k", true, &script).await, Err(Refused::Declined));
        assert_eq!(script.steps(), ["reserve", "charge", "ship", "undo charge", "undo reserve"]);
        let keys = script.keys();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1], "the undo of a call is another call");
        let again = observe(orders::order(&store, "k", true, &script)).await;
        assert!(again.replayed);
        assert_eq!(again.result, Err(Refused::Declined));
        assert_eq!((script.attempts(), db.effects().await, db.number(STEPS).await), (vec![1], 2, 0));
    }

    async fn r14_a_released_run_is_not_undone(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("ship", Act::Fail);
        assert_eq!(orders::order(&store, "k", false, &script).await, Err(Refused::Failed));
        assert_eq!(orders::order(&store, "k", false, &script).await, Ok(7));
        assert_eq!(script.steps(), ["reserve", "charge", "ship", "ship"]);
    }

    async fn r14_an_undo_that_fails_is_done_by_the_retry_and_the_others_are_not_done_again(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("undo charge", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
        assert_eq!((undone(&db).await, db.number(COMPLETED).await), (0, 0));
        script.act("undo reserve", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
        db.end_pauses().await;
        let last = observe(orders::order(&store, "k", true, &script)).await;
        assert_eq!((last.result, last.replayed), (Err(Refused::Declined), true));
        assert_eq!(
            script.steps(),
            ["reserve", "charge", "ship", "undo charge", "undo charge", "undo reserve", "undo reserve"]
        );
        let keys = script.keys();
        assert_eq!(keys[1], keys[2], "the undo of a call has the same key on every attempt");
        assert_eq!((undone(&db).await, script.attempts(), db.number(STEPS).await), (1, vec![1, 2, 3], 0));
    }

    async fn r14_a_rejection_stands_whatever_the_next_attempt_would_say(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("undo reserve", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
        // It would be accepted now; but the charge is undone.
        assert_eq!(orders::order(&store, "k", false, &script).await, Err(Refused::Declined));
        assert_eq!(script.times("ship"), 1);
        assert_eq!(orders::order(&store, "k", false, &script).await, Err(Refused::Declined));
    }

    async fn r13_dropped_at_every_await_of_a_rejection_each_step_is_undone_once(db) {
        let store = db.store(4).await;
        for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
            for polls in 1.. {
                let (script, id) = (Arc::new(Script::default()), format!("{given_up:?} {polls}"));
                let before = (db.effects().await, undone(&db).await);
                let dropped = polled(orders::order(&store, &id, true, &script), polls, given_up).await;
                let retried = async || orders::order(&store, &id, true, &script).await == Err(Refused::Declined);
                eventually("it is undone", retried).await;
                let after = (db.effects().await, undone(&db).await);
                assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1), "{polls} polls: {:?}", script.steps());
                let keys = script.keys();
                let (charges, refunds) = (script.times("charge"), script.times("undo charge"));
                assert!(charges >= 1 && refunds >= 1 && charges + refunds == keys.len());
                assert!(keys[..charges].iter().all(|key| *key == keys[0]));
                assert!(keys[charges..].iter().all(|key| *key == keys[charges]));
                if dropped.is_some() {
                    break;
                }
            }
        }
        assert_eq!(db.number(STEPS).await, 0);
    }

    async fn r14_what_is_to_be_undone_is_not_forgotten_and_does_not_use_attempts_up(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        for _ in 0..10 {
            script.act("undo charge", Act::Fail);
            assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
            db.end_pauses().await;
        }
        assert!(db.seconds_to_live().await > 3e9, "a hundred years");
        assert_eq!(orders::order(&store, "k", true, &script).await, Err(Refused::Declined));
        assert!(db.seconds_to_live().await < 3601.0, "the ttl, from the completion on");
        assert_eq!((script.times("undo charge"), undone(&db).await), (11, 1));
    }

    async fn r26_who_loses_the_lease_in_an_undo_leaves_the_rest_to_the_successor(db) {
        let (store, script, successor) = (db.store(8).await, Arc::new(Script::default()), Arc::new(Script::default()));
        script.act("undo charge", Act::Wait);
        let run = orders::order(&store, "k", true, &script);
        let thief = async {
            script.until_entered("undo charge").await;
            db.execute("UPDATE idem_records SET lease_until = created_at").await;
            let taken = orders::order(&store, "k", true, &successor).await;
            script.open();
            taken
        };
        let (result, taken) = tokio::join!(run, thief);
        assert_eq!((result, taken), (refused(Kind::LeaseLost), Err(Refused::Declined)));
        assert_eq!((script.times("undo reserve"), successor.times("undo reserve"), undone(&db).await), (0, 1, 1));
        assert_eq!(successor.keys(), script.keys()[1..], "the refund has one key");
    }

    async fn r11_one_connection_is_enough_to_undo(db) {
        let (store, script) = (db.store(1).await, Arc::new(Script::default()));
        assert_eq!(orders::order(&store, "k", true, &script).await, Err(Refused::Declined));
        assert_eq!(undone(&db).await, 1);
    }

    async fn r28_an_undo_of_no_step_is_an_error(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        let misspelt = orders::misspelt(&store, "k", &script).await;
        assert_eq!(misspelt, refused(Kind::StepMismatch));
        assert_eq!((script.steps(), db.number(COMPLETED).await), (vec!["charge".to_owned()], 0));
    }

    async fn r28_behind_a_step_that_failed_no_other_is_entered(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("first", Act::Fail);
        assert_eq!(orders::fallback(&store, "k", &script).await, refused(Kind::StepMismatch));
        assert_eq!(script.steps(), ["first"]);
        // The same one may be tried again, within an attempt and by the next.
        script.act("first", Act::Fail);
        assert_eq!(orders::again(&store, "k", &script).await, Ok(1));
        assert_eq!(script.steps(), ["first", "first", "first", "second"]);
    }

    async fn r22_a_result_that_cannot_be_read_is_not_rejected_over(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("ship", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, Err(Refused::Failed));
        db.execute("UPDATE idem_journal SET body = claim WHERE name = 'charge'").await;
        // Its error is final, and the undo of the charge could not be registered.
        assert_eq!(orders::order_or_reject(&store, "k", &script).await, refused(Kind::RecordUnreadable));
        assert_eq!((script.times("undo reserve"), db.number(COMPLETED).await), (0, 0));
    }

    async fn r22_a_rejection_that_cannot_be_read_is_an_error_and_nothing_runs(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("undo charge", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
        db.execute("UPDATE idem_journal SET undoes = 'no list' WHERE kind = 3").await;
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::RecordUnreadable));
        assert_eq!((script.attempts(), script.times("undo charge")), (vec![1], 1));
    }

    async fn r16_an_undo_that_ends_its_transaction_is_found_out_and_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("undo reserve", Act::Commit);
        for _ in 0..2 {
            assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::TransactionEnded));
        }
        assert_eq!((script.times("undo reserve"), undone(&db).await), (1, 1));
        assert!(db.seconds_to_live().await > 3e9, "what is not known to be undone is not forgotten");
    }

    async fn r14_a_call_that_may_have_happened_is_not_rejected_over(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        // Its answer is too long to be stored; and then, it does not come in time.
        assert_eq!(orders::hasty(&store, "k", 2 * crate::app::REPLY_LIMIT, &script).await, refused(Kind::OutcomeUnknown));
        script.act("charge", Act::Hang);
        assert_eq!(orders::hasty(&store, "k", 1, &script).await, refused(Kind::OutcomeUnknown));
        db.end_pauses().await;
        assert_eq!(orders::hasty(&store, "k", 1, &script).await, Ok(1));
        let keys = script.keys();
        assert_eq!((keys.len(), &keys[0], &keys[0]), (3, &keys[1], &keys[2]));
        // What says no itself is rejected.
        script.act("charge", Act::Fail);
        assert_eq!(orders::hasty(&store, "k2", 1, &script).await, Err(Refused::Declined));
        assert_eq!(orders::hasty(&store, "k2", 1, &script).await, Err(Refused::Declined));
        assert_eq!(script.times("charge"), 4);
    }

    async fn r14_a_call_that_an_earlier_attempt_has_made_is_not_rejected_over(db) {
        let (store, declined) = (db.store(4).await, Err(Refused::Declined));
        for act in [Act::Hang, Act::Fail] {
            let (script, id) = (Arc::new(Script::default()), format!("{act:?}"));
            let before = (db.effects().await, undone(&db).await);
            script.act("charge", act);
            // It dies in the call, or gets an answer that it takes for none, and is released.
            tokio::select! {
                result = orders::withdrawn(&store, &id, &script, Ok(1)) => assert_eq!(result, Err(Refused::Failed)),
                () = eventually("it hangs", async || script.is_hanging()) => {}
            }
            assert!(store.drain(Duration::from_secs(30)).await);
            // The next one does not come so far.
            script.left_out.store(true, Ordering::SeqCst);
            let rejected = orders::withdrawn(&store, &id, &script, declined.clone()).await;
            assert_eq!(rejected, refused(Kind::OutcomeUnknown), "{act:?}");
            db.end_pauses().await;
            assert_eq!(orders::withdrawn(&store, &id, &script, Ok(2)).await, refused(Kind::StepMismatch), "{act:?}");
            // Or goes another way.
            script.left_out.store(false, Ordering::SeqCst);
            script.changed.store(true, Ordering::SeqCst);
            db.end_pauses().await;
            assert_eq!(orders::withdrawn(&store, &id, &script, Ok(1)).await, refused(Kind::StepMismatch), "{act:?}");
            script.changed.store(false, Ordering::SeqCst);
            db.end_pauses().await;
            assert_eq!((undone(&db).await, script.times("charge")), (before.1, 1), "{act:?}");
            // It makes the call again, and has its answer.
            if act == Act::Hang {
                assert_eq!(orders::withdrawn(&store, &id, &script, Ok(1)).await, Ok(1));
                assert_eq!((undone(&db).await, db.effects().await), (before.1, before.0 + 1));
            } else {
                script.act("charge", Act::Fail);
                assert_eq!(orders::withdrawn(&store, &id, &script, declined.clone()).await, declined);
                assert_eq!((undone(&db).await, db.effects().await), (before.1 + 1, before.0 + 2));
            }
            let keys = script.keys();
            assert_eq!((keys.len(), &keys[0]), (2, &keys[1]), "{act:?}");
            assert_eq!(db.number(STEPS).await, 0);
        }
    }

    async fn r28_a_call_that_an_earlier_attempt_has_made_is_not_left_out_because_it_cannot_be_recorded(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("charge", Act::Hang);
        tokio::select! {
            result = orders::tolerant(&store, "k", &script) => panic!("{result:?}"),
            () = eventually("it hangs", async || script.is_hanging()) => {}
        }
        assert!(store.drain(Duration::from_secs(30)).await);
        db.refuse_steps(true).await;
        let tolerated = orders::tolerant(&store, "k", &script).await;
        assert_eq!(tolerated, Err(Refused::Idem(Kind::StepMismatch.code().to_owned())));
        db.refuse_steps(false).await;
        db.end_pauses().await;
        assert_eq!(orders::tolerant(&store, "k", &script).await, Ok(true));
        assert_eq!((script.times("charge"), db.number(STEPS).await), (2, 0));
    }

    async fn r16_a_step_that_ended_its_transaction_and_was_given_up_is_not_entered_again(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("reserve", Act::CommitAndHang);
        for _ in 0..2 {
            assert_eq!(orders::impatient(&store, "k", &script).await, refused(Kind::TransactionEnded));
        }
        assert_eq!((script.times("reserve"), db.effects().await), (1, 1));
        // One that ended nothing is rolled back, and tried again.
        script.act("reserve", Act::Hang);
        assert_eq!(orders::impatient(&store, "k2", &script).await, Ok(1));
        assert_eq!((script.times("reserve"), db.effects().await), (3, 2));
    }

    async fn r28_an_undo_of_a_step_that_failed_is_nothing(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("first", Act::Fail);
        assert_eq!(orders::eager(&store, "k", &script).await, Err(Refused::Failed));
        assert_eq!(orders::eager(&store, "k", &script).await, Ok(1));
    }

    async fn r28_a_rejected_run_is_gone_on_with_without_its_caller(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("undo charge", Act::Fail);
        assert_eq!(orders::order(&store, "k", true, &script).await, refused(Kind::UndoFailed));
        let go_on = async |(id, declines): (String, bool)| orders::order(&store, &id, declines, &script).await;
        let resumed = store.resume_abandoned("undo.order", go_on).await.expect("an answer");
        assert_eq!((resumed.succeeded, resumed.failed), (0, 1));
        assert_eq!((undone(&db).await, db.number(COMPLETED).await), (1, 1));
        let go_on = async |(id, declines): (String, bool)| orders::order(&store, &id, declines, &script).await;
        let resumed = store.resume_abandoned("undo.order", go_on).await.expect("an answer");
        assert_eq!((resumed.succeeded, resumed.failed), (0, 0));
    }

    async fn r14_over_http_the_reply_of_the_rejection_is_given_when_all_is_undone(db) {
        let script = Arc::new(Script::default());
        let app = orders::app(db.store(4).await, script.clone());
        script.act("undo charge", Act::Panic);
        assert_eq!(send(&app, "POST").await.0, StatusCode::SERVICE_UNAVAILABLE);
        script.act("undo reserve", Act::Fail);
        assert_eq!(send(&app, "POST").await.0, StatusCode::SERVICE_UNAVAILABLE);
        db.end_pauses().await;
        let declined = (Some("no funds".to_owned()), "declined for u1".to_owned());
        for _ in 0..2 {
            let (status, replayed, why, body) = send(&app, "POST").await;
            assert_eq!((status, replayed, (why, body)), (StatusCode::PAYMENT_REQUIRED, true, declined.clone()));
        }
        assert_eq!((script.times("ship"), script.times("undo reserve"), undone(&db).await), (1, 2, 1));
    }

    async fn r09_a_run_that_is_not_recorded_is_undone_as_well(db) {
        let script = Arc::new(Script::default());
        let app = orders::app(db.store(4).await, script.clone());
        // Nobody can go on behind one that fails, so the next is done all the same.
        script.act("undo charge", Act::Fail);
        assert_eq!(send(&app, "GET").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(send(&app, "GET").await.0, StatusCode::PAYMENT_REQUIRED);
        assert_eq!((undone(&db).await, db.records().await), (2, 0));
        script.changed.store(true, Ordering::SeqCst);
        assert_eq!(send(&app, "GET").await.0, StatusCode::INTERNAL_SERVER_ERROR, "an undo of no step");
    }

    async fn by_hand_a_rejected_run_can_only_be_rejected(db) {
        async fn start<D: Database>(db: &D) -> Guard<Steps<D::Lease>> {
            let request = Request::new(Identity::new("u1", "by hand", "k").expect("an identity"), Fingerprint::none(), std::time::Duration::from_secs(60)).expect("a request");
            let store = db.store(4).await;
            match begin::<Steps<D::Lease>>(&store, &request).await.expect("an answer") {
                Start::Run(run) => run,
                Start::Stored(stored) => panic!("it is not over: {stored:?}"),
            }
        }
        async fn step<D: Database>(run: &mut Guard<Steps<D::Lease>>, fails: bool) -> Result<u32, Error> {
            let one = run.call("one", async |_| Ok::<u32, Error>(1)).await?;
            let undone = if fails { Err("not now") } else { Ok(()) };
            run.undo_call("one", async move |_| undone);
            Ok(one)
        }
        let mut first = start(&db).await;
        step::<D>(&mut first, true).await.expect("a step");
        assert_eq!(first.reject(&"no".to_owned()).await.expect_err("not undone").kind(), Kind::UndoFailed);
        let second = start(&db).await;
        assert_eq!(second.complete(&1).await.expect_err("rejected").kind(), Kind::RunRejected);
        db.end_pauses().await;
        let third = start(&db).await;
        assert_eq!(third.reject(&"no".to_owned()).await.expect_err("not registered").kind(), Kind::UndoFailed);
        db.end_pauses().await;
        let mut fourth = start(&db).await;
        step::<D>(&mut fourth, false).await.expect("a step");
        let another = fourth.call("another", async |_| Ok::<u32, Error>(2)).await;
        assert_eq!(another.expect_err("rejected").kind(), Kind::RunRejected);
        let last = fourth.finish(async |_| Ok::<u32, Error>(2)).await;
        assert_eq!(last.expect_err("rejected").kind(), Kind::RunRejected);
        let Settled::Stored(Stored::Rejected(why)) = fourth.reject(&"whatever".to_owned()).await.expect("undone") else {
            panic!("the first rejection counts")
        };
        assert_eq!(why.read::<String>().expect("a text"), "no");
    }
}

#[idempotent(
    key = id, scope = "test", operation = "undo.careless", fingerprint = id,
    rejects = |refused| *refused == Refused::Declined
)]
async fn careless(steps: &mut PgSteps, id: &str, is_careless: bool) -> Result<u32, Refused> {
    let write =
        async |tx: &mut PgTx| Ok::<_, Error>(tx.execute("INSERT INTO effects VALUES ('step', 'one')").await.is_ok());
    steps.transaction("one", write).await?;
    let undo = async move |tx: &mut PgTx| {
        if is_careless {
            _ = tx.execute("SELECT 1 / 0").await;
        }
        Ok::<_, Error>(())
    };
    steps.undo("one", undo);
    Err(Refused::Declined)
}

/// It goes on as if its statement had not failed; the database does not.
#[tokio::test]
async fn r14_postgres_an_undo_whose_statement_failed_is_not_done() {
    let db = crate::support::Postgres::create().await;
    let store = db.store(4).await;
    assert_eq!(careless(&store, "k", true).await, refused(Kind::UndoFailed));
    assert_eq!(careless(&store, "k", false).await, Err(Refused::Declined));
}
