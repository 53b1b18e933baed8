//! Rule 25a: attempts that were released are spaced, and only those that ended without a word use a run up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use idem_core::Kind;

use crate::client::Call;
use crate::pay::{Failed, kind, paid};
use crate::script::{Act, Script};
use crate::support::Database;

both! {
    async fn r25a_a_thousand_fast_retries_ask_the_provider_a_handful_of_times_and_use_nothing_up(db) {
        let (store, script) = (db.store(4).await, Script::default());
        let began = Instant::now();
        for _ in 0..1000 {
            // The provider is down. The run may have three attempts.
            script.act("charge", Act::Fail);
            match steps::pay(&store, "u1", "k", "order", &script).await {
                Err(Failed::Told) => {}
                Err(Failed::Idem(error)) => {
                    assert_eq!(error.kind(), Kind::AttemptTooSoon);
                    let rest = error.retry_after().expect("the time of its turn");
                    assert!(rest > Duration::ZERO && rest <= Duration::from_secs(60), "{rest:?}");
                }
                Ok(paid) => panic!("{paid:?} by a provider that is down"),
            }
        }
        // Two at once, and one more each time that the pause has doubled.
        let asked = u32::try_from(script.times("charge")).expect("few");
        assert!((2..10).contains(&asked), "{asked}");
        let pauses = Duration::from_secs(2_u64.pow(asked - 2) - 1);
        assert!(began.elapsed() + Duration::from_millis(5) >= pauses, "{asked} in {:?}", began.elapsed());
        // It is up again.
        script.act("charge", Act::Wait);
        script.open();
        db.end_pauses().await;
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert_eq!((script.times("reserve"), db.effects().await), (1, 2));
    }

    async fn r25a_retry_after_is_true_to_the_second_and_a_retry_at_that_time_runs(db) {
        let script = Arc::new(Script::default());
        let app = steps::app(db.store(4).await, script.clone());
        let call = Call::new(Method::POST, "/checkout").key("k").header("x-caller", b"u1");
        for pause in [0, 0, 1, 2, 4, 8] {
            if pause > 0 {
                let before = db.microseconds_left(pause).await;
                let refused = call.send(&app).await;
                let after = db.microseconds_left(pause).await;
                refused.expect(503, "attempt_too_soon");
                let seconds: i64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
                let seconds_of = |microseconds: i64| (microseconds + 999_999).div_euclid(1_000_000);
                assert!((seconds_of(after)..=seconds_of(before)).contains(&seconds), "{seconds} s of {before} to {after}");
                // As if that time had passed.
                db.execute(&D::lease_ended_earlier(Duration::from_secs(seconds.cast_unsigned()))).await;
            }
            script.act("charge", Act::Fail);
            call.send(&app).await.expect_fresh(502);
        }
        assert_eq!(script.attempts(), [1, 2, 3, 4, 5, 6]);
    }

    async fn r25a_a_caller_that_waits_gets_its_turn_if_it_comes_in_time(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for _ in 0..4 {
            script.act("charge", Act::Fail);
            assert!(matches!(steps::pay_patiently(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
            db.end_pauses().await;
        }
        script.act("charge", Act::Fail);
        assert!(matches!(steps::pay_patiently(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        // Eight seconds are too long for five seconds of patience.
        let began = Instant::now();
        let refused = steps::pay_patiently(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&refused), Some(Kind::AttemptTooSoon));
        assert!(began.elapsed() < Duration::from_secs(5), "told at once");
        // Half a second is not.
        let left = db.microseconds_left(8).await;
        let earlier = Duration::from_micros(left.cast_unsigned()) - Duration::from_millis(500);
        db.execute(&D::lease_ended_earlier(earlier)).await;
        assert_eq!(steps::pay_patiently(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert_eq!((script.times("charge"), script.times("reserve")), (6, 1));
    }

    async fn r25a_an_operator_who_resets_the_attempts_resets_the_pause(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for _ in 0..5 {
            db.end_pauses().await;
            script.act("charge", Act::Fail);
            assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        }
        assert_eq!(kind(&steps::pay(&store, "u1", "k", "order", &script).await), Some(Kind::AttemptTooSoon));
        let identity = idem_core::Identity::new("u1", "steps.pay", "k").expect("an identity");
        assert!(store.reset_attempts(&identity).await.expect("an answer"));
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert_eq!(script.attempts(), [1, 2, 3, 4, 5, 1]);
    }

    async fn r25a_a_transaction_in_the_place_of_an_expired_run_was_released_by_nobody(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        let released = "SELECT CAST(released AS bigint) FROM idem_records";
        assert_eq!(db.number(released).await, 1);
        db.expire().await;
        assert_eq!(steps::pay_in_one(&store, "u1", "k", "order").await.expect("paid"), paid());
        assert_eq!(db.number(released).await, 0);
    }
}
