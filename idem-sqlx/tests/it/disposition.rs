//! Rules 14 and 15: what becomes of a run.

use axum::middleware;
use axum::response::Response;
use http::{HeaderValue, Method};
use idem_core::Disposition;

use crate::client::Call;
use crate::support::Database;

both! {
    async fn r14_commit_keeps_the_writes_and_the_reply(db) {
        let (app, gauge) = db.app().await;
        for (key, act, status) in [("a", "insert", 201), ("b", "redirect", 303), ("c", "commit_error", 409)] {
            let call = Call::act(act).key(key);
            let first = call.send(&app).await;
            first.expect_fresh(status);
            call.send(&app).await.expect_replay_of(&first);
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (3, 3, 3));
    }

    async fn r14_reject_keeps_the_reply_alone(db) {
        let (app, gauge) = db.app().await;
        let first = Call::act("reject").send(&app).await;
        first.expect_fresh(402);
        Call::act("reject").send(&app).await.expect_replay_of(&first);
        Call::act("insert").send(&app).await.expect(422, "key_reused");
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (1, 0, 1));
    }

    async fn r14_release_keeps_nothing_and_a_retry_runs_at_once(db) {
        let (app, gauge) = db.app().await;
        for act in ["not_found", "fail", "release_ok"] {
            let first = Call::act(act).send(&app).await;
            let second = Call::act(act).send(&app).await;
            assert_eq!(first.status, second.status);
            assert!(!second.replayed());
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (6, 0, 0));
        // The key is free for another body, too.
        Call::act("insert").send(&app).await.expect_fresh(201);
    }

    // A handler around this one, in the same process, would take it for its own.
    async fn r14_the_disposition_does_not_leave_the_handler(db) {
        async fn show(mut response: Response) -> Response {
            if response.extensions().get::<Disposition>().is_some() {
                response.headers_mut().insert("x-disposition", HeaderValue::from_static("seen"));
            }
            response
        }
        let (app, gauge) = db.app().await;
        let app = app.layer(middleware::map_response(show));
        for act in ["reject", "commit_error", "release_ok"] {
            for call in [Call::act(act).key(act), Call::to("/optional", act).without("idempotency-key")] {
                let first = call.send(&app).await;
                assert!(!first.headers.contains_key("x-disposition"), "{act}");
            }
        }
        assert_eq!(gauge.entered(), 6);
    }

    async fn r14_an_expired_record_can_be_rejected_over(db) {
        let (app, gauge) = db.app().await;
        Call::act("insert").send(&app).await.expect_fresh(201);
        db.expire().await;
        let first = Call::act("reject").send(&app).await;
        first.expect_fresh(402);
        Call::act("reject").send(&app).await.expect_replay_of(&first);
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (2, 1, 1));
    }

    async fn r15_a_panic_releases(db) {
        // One connection: a second run proves that the first gave it back in order.
        let (app, gauge) = db.app_over(db.store(1).await);
        for run in 1..=3 {
            Call::act("panic").send(&app).await.expect(500, "handler_panicked");
            assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
        }
        Call::act("insert").send(&app).await.expect_fresh(201);
    }

    async fn r15_a_panic_in_what_the_attribute_asks_for_is_like_one_in_the_body(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        // The last one panics in the expression itself.
        for at in ["/touchy/scope", "/touchy/key", "/touchy/fingerprint", "/touchy/other", "/touchy-scope/scope"] {
            for method in [Method::POST, Method::GET] {
                let call = Call::new(method.clone(), at).key("k1");
                call.send(&app).await.expect(500, "handler_panicked");
            }
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (0, 0, 0));
        Call::to("/touchy/all-right", "").send(&app).await.expect_fresh(201);
        Call::to("/touchy-scope/right", "").send(&app).await.expect_fresh(201);
        assert_eq!(db.records().await, 2);
    }

    async fn r15_a_body_that_panics_releases(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        for run in 1..=2 {
            Call::act("panicking_body").send(&app).await.expect(500, "handler_panicked");
            assert_eq!((gauge.entered(), db.effects().await, db.records().await), (run, 0, 0));
        }
    }
}
