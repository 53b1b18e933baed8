//! Rules 27 to 29: a finished step does not run again, and what other rules say of runs in steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use idem_core::{Identity, Kind, observe};

use crate::cancel::{GivenUp, polled};
use crate::client::eventually;
use crate::pay::{Failed, kind, paid};
use crate::script::{Act, Script};
use crate::support::Database;

both! {
    async fn r28_a_transaction_does_not_take_over_what_was_begun_in_steps(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        // The next release has the same operation in one transaction, which knows nothing of the steps.
        let in_one = steps::pay_in_one(&store, "u1", "k", "order").await;
        assert_eq!(in_one.expect_err("refused").kind(), Kind::StepMismatch);
        let other = steps::pay_in_one(&store, "u1", "k", "another order").await;
        assert_eq!(other.expect_err("refused").kind(), Kind::KeyReused);
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert_eq!(steps::pay_in_one(&store, "u1", "k", "order").await.expect("replayed"), paid());
        assert_eq!(db.effects().await, 2);
    }

    async fn r27_a_key_stays_the_same_over_attempts_and_is_no_other_calls(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        steps::pay(&store, "u1", "k", "order", &script).await.expect("paid");
        steps::pay(&store, "u2", "k", "order", &script).await.expect("paid");
        steps::pay(&store, "u1", "k2", "order", &script).await.expect("paid");
        let keys = script.keys();
        assert_eq!(keys.len(), 4);
        assert_eq!(keys[0], keys[1]);
        assert!(keys[1] != keys[2] && keys[2] != keys[3] && keys[1] != keys[3], "{keys:?}");
    }

    async fn r28_a_retry_goes_on_behind_the_finished_steps(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for (step, act) in [("reserve", Act::Fail), ("charge", Act::Fail)] {
            script.act(step, act);
            assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        }
        let other = steps::pay(&store, "u1", "k", "another order", &script).await;
        assert_eq!(kind(&other), Some(Kind::KeyReused), "the record keeps its fingerprint");
        db.end_pauses().await;
        let retry = observe(steps::pay(&store, "u1", "k", "order", &script)).await;
        assert!(!retry.replayed);
        assert_eq!(retry.result.expect("paid"), paid());
        assert_eq!(script.steps(), ["reserve", "reserve", "charge", "charge", "confirm"]);
        assert_eq!((script.attempts(), db.effects().await), (vec![1, 2, 3], 2));
    }

    async fn r28_the_last_writes_are_kept_with_the_reply_or_not_at_all(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        assert_eq!(db.effects().await, 1);
        steps::pay(&store, "u1", "k", "order", &script).await.expect("paid");
        assert_eq!((script.times("charge"), script.times("confirm"), db.effects().await), (1, 2, 2));
    }

    async fn r28_a_panic_releases_and_the_retry_goes_on(db) {
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("charge", Act::Panic);
        let (of_run, of_store) = (script.clone(), store.clone());
        let run = tokio::spawn(async move { steps::pay(&of_store, "u1", "k", "order", &of_run).await });
        assert!(run.await.expect_err("a panic").is_panic());
        let retry = async || steps::pay(&store, "u1", "k", "order", &script).await.is_ok();
        eventually("the retry ran", retry).await;
        assert_eq!((script.times("reserve"), db.effects().await), (1, 2));
    }

    async fn r28_other_steps_than_before_are_an_error_before_they_run(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        script.changed.store(true, Ordering::SeqCst);
        let changed = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&changed), Some(Kind::StepMismatch));
        assert_eq!((script.times("charge"), script.times("confirm"), db.effects().await), (1, 1, 1));
        // The release that began it can still end it.
        script.changed.store(false, Ordering::SeqCst);
        db.end_pauses().await;
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        let twice = steps::twice(&store, "k").await;
        assert_eq!(twice.expect_err("a name for two steps").kind(), Kind::StepMismatch);
    }

    async fn r22_a_step_that_cannot_be_read_is_an_error_and_does_not_run_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        db.execute("UPDATE idem_journal SET body = headers WHERE position = 1").await;
        let unreadable = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&unreadable), Some(Kind::RecordUnreadable));
        assert_eq!((script.times("charge"), script.times("confirm")), (1, 1));
    }

    async fn r16_a_step_that_ends_its_transaction_is_found_out_and_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("reserve", Act::Commit);
        let ended = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&ended), Some(Kind::TransactionEnded));
        let retry = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&retry), Some(Kind::TransactionEnded));
        assert_eq!((script.steps(), db.effects().await), (vec!["reserve".to_owned()], 1));
    }

    async fn r16_a_step_that_ends_its_transaction_and_fails_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("reserve", Act::CommitAndFail);
        for _ in 0..2 {
            let ended = steps::pay(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&ended), Some(Kind::TransactionEnded));
        }
        assert_eq!((script.times("reserve"), db.effects().await), (1, 1));
    }

    async fn r16_a_step_that_ends_its_transaction_and_cannot_be_recorded_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        db.refuse_steps(true).await;
        script.act("reserve", Act::Commit);
        let ended = steps::pay(&store, "u1", "k", "order", &script).await;
        db.refuse_steps(false).await;
        let retry = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!([kind(&ended), kind(&retry)], [Some(Kind::TransactionEnded); 2]);
        assert_eq!((script.steps(), db.effects().await), (vec!["reserve".to_owned()], 1));
    }

    async fn r16_a_step_that_ends_its_transaction_and_is_dropped_never_runs_again(db) {
        let store = db.store(4).await;
        for round in 1..=10 {
            let (script, id) = (Script::default(), format!("k{round}"));
            script.act("reserve", Act::CommitAndHang);
            tokio::select! {
                ended = steps::pay(&store, "u1", &id, "order", &script) => panic!("it hangs: {ended:?}"),
                () = eventually("it has committed", async || script.is_hanging()) => {}
            }
            // What was dropped goes on to its end, and the key is not free before.
            let refused = async || kind(&steps::pay(&store, "u1", &id, "order", &script).await);
            eventually("it has ended", async || refused().await != Some(Kind::KeyInFlight)).await;
            assert_eq!(refused().await, Some(Kind::TransactionEnded));
            assert_eq!((script.times("reserve"), db.effects().await), (1, round));
        }
    }

    async fn r28_a_step_that_is_left_out_is_an_error(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        script.left_out.store(true, Ordering::SeqCst);
        let changed = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&changed), Some(Kind::StepMismatch));
        assert_eq!((script.times("confirm"), db.effects().await), (1, 1));
        script.left_out.store(false, Ordering::SeqCst);
        db.end_pauses().await;
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
    }

    async fn attempts_end_and_an_operator_lets_them_begin_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for _ in 0..3 {
            script.act("charge", Act::Fail);
            assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
            db.forget_releases().await;
        }
        for _ in 0..2 {
            let exhausted = steps::pay(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&exhausted), Some(Kind::AttemptsExhausted));
        }
        assert_eq!(script.times("charge"), 3);
        let identity = Identity::new("u1", "steps.pay", "k").expect("an identity");
        assert!(store.reset_attempts(&identity).await.expect("an answer"));
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert!(!store.reset_attempts(&identity).await.expect("an answer"), "it is over");
        assert_eq!(script.times("reserve"), 1);
    }

    async fn r29_a_dead_process_is_taken_over_and_its_call_repeated_under_the_same_key(db) {
        let (store, script) = (db.store(4).await, Script::default());
        let dead = Arc::new(Script::default());
        dead.act("charge", Act::Hang);
        let (of_dead, reserved) = (dead.clone(), db.store(2).await);
        // A runtime that ends takes its tasks along: nobody renews, and nobody releases.
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        process.spawn(async move { steps::pay_briefly(&reserved, "u1", "k", "order", &of_dead).await });
        dead.until_entered("charge").await;
        process.shutdown_background();
        let first = steps::pay_briefly(&store, "u1", "k", "order", &script).await;
        assert!(first.is_ok() || kind(&first) == Some(Kind::KeyInFlight), "its lease lives on for a while");
        eventually("it is taken over", async || steps::pay_briefly(&store, "u1", "k", "order", &script).await.is_ok()).await;
        assert_eq!((script.attempts(), script.steps()), (vec![2], vec!["charge".to_owned(), "confirm".to_owned()]));
        assert_eq!((dead.keys(), db.effects().await), (script.keys(), 2));
    }

    async fn r13_dropped_at_every_await_each_step_takes_effect_once(db) {
        let store = db.store(4).await;
        for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
            for polls in 1.. {
                let (script, id) = (Script::default(), format!("{given_up:?} {polls}"));
                let before = db.effects().await;
                let dropped = polled(steps::pay(&store, "u1", &id, "order", &script), polls, given_up).await;
                let retried = async || steps::pay(&store, "u1", &id, "order", &script).await.is_ok();
                eventually("the retry ran", retried).await;
                assert_eq!(db.effects().await - before, 2, "{given_up:?} after {polls} polls: {:?}", script.steps());
                assert!(script.keys().windows(2).all(|keys| keys[0] == keys[1]));
                if dropped.is_some() {
                    break;
                }
            }
        }
        assert_eq!(db.number("SELECT count(*) FROM idem_journal").await, 0);
    }

    async fn r32_an_expired_run_begins_anew_without_its_steps(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        db.expire().await;
        assert_eq!(steps::pay(&store, "u1", "k", "another order", &script).await.expect("paid"), paid());
        assert_eq!((script.times("reserve"), script.attempts(), db.effects().await), (2, vec![1, 1], 3));
    }

    async fn r32_steps_go_with_a_record_that_is_swept(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for user in ["expired", "left"] {
            script.act("charge", Act::Fail);
            assert!(steps::pay(&store, user, "k", "order", &script).await.is_err());
        }
        let steps = "SELECT count(*) FROM idem_journal";
        let before = db.number(steps).await;
        db.execute("UPDATE idem_records SET expires_at = created_at WHERE scope = 'expired'").await;
        assert_eq!(store.sweep(&idem_sqlx::Sweep::default()).await.expect("a sweep"), 1);
        assert_eq!((before, db.number(steps).await), (4, 2));
    }

    async fn r32_a_run_begins_without_the_steps_of_a_record_that_was_deleted_by_hand(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        db.execute("DELETE FROM idem_records").await;
        // What the first attempt reserved is not this run's: neither in its first attempt nor in its second.
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert_eq!(script.steps(), ["reserve", "charge", "reserve", "charge", "charge", "confirm"]);
    }

    async fn r14_over_http_a_failure_releases_and_the_retry_goes_on(db) {
        use tower::ServiceExt;
        let (store, script) = (db.store(4).await, Arc::new(Script::default()));
        script.act("charge", Act::Fail);
        let app = steps::app(store, script.clone());
        let send = async |method: &str| {
            let request = axum::http::Request::builder().method(method).uri("/checkout").header("x-caller", "u1");
            let request = request.header("Idempotency-Key", "k").body(axum::body::Body::empty()).expect("a request");
            let response = app.clone().oneshot(request).await.expect("a response");
            (response.status(), response.headers().contains_key("idempotent-replayed"))
        };
        assert_eq!(send("POST").await, (StatusCode::BAD_GATEWAY, false));
        assert_eq!(send("POST").await, (StatusCode::CREATED, false));
        assert_eq!(send("POST").await, (StatusCode::CREATED, true));
        assert_eq!(script.steps(), ["reserve", "charge", "charge", "confirm"]);
        assert_eq!(db.effects().await, 2);
        // Rule 9: what changes nothing is not recorded.
        assert_eq!(send("GET").await, (StatusCode::CREATED, false));
        assert_eq!((db.records().await, db.effects().await), (1, 4));
    }
}
