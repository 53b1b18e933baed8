//! Rules 1 to 4: the key, the scope, and who is asked first.

use http::Method;

use crate::client::Call;
use crate::support::Database;

both! {
    async fn r01_without_a_usable_key_nothing_is_looked_up(db) {
        let (app, gauge) = db.app().await;
        Call::act("insert").without("idempotency-key").send(&app).await.expect(400, "key_missing");
        let long = "x".repeat(256);
        for line in [b"".as_slice(), b" ", b"\"\"", b"a b", b"a,b", b"\"a", b"\xe4", long.as_bytes()] {
            Call::act("insert").header("idempotency-key", line).send(&app).await.expect(400, "key_invalid");
        }
        Call::act("insert").also("idempotency-key", "k2").send(&app).await.expect(400, "key_invalid");
        assert_eq!((gauge.entered(), db.records().await, db.effects().await), (0, 0, 0));
    }

    async fn r01_quoted_and_bare_name_one_record(db) {
        let (app, _) = db.app().await;
        let first = Call::act("insert").key("abc").send(&app).await;
        first.expect_fresh(201);
        Call::act("insert").key("\"abc\"").send(&app).await.expect_replay_of(&first);
        Call::act("insert").key("ABC").send(&app).await.expect_fresh(201);
        assert_eq!(db.effects().await, 2);
    }

    async fn r01_the_header_has_the_name_that_the_handler_gave_it(db) {
        let (app, _) = db.app().await;
        let call = Call::to("/x-key", "insert");
        call.send(&app).await.expect(400, "key_missing");
        let first = call.clone().header("x-key", b"k").send(&app).await;
        first.expect_fresh(201);
        call.key("another").header("x-key", b"k").send(&app).await.expect_replay_of(&first);
    }

    async fn r02_one_key_of_two_users_or_operations_is_two_records(db) {
        let (app, _) = db.app().await;
        let first = Call::act("insert").send(&app).await;
        let other_user = Call::act("insert").user("u2").send(&app).await;
        let other_operation = Call::to("/other", "insert").send(&app).await;
        for answer in [&first, &other_user, &other_operation] {
            answer.expect_fresh(201);
        }
        Call::act("insert").user("u2").send(&app).await.expect_replay_of(&other_user);
        assert_ne!(first.body, other_user.body);
        assert_eq!((db.records().await, db.effects().await), (3, 3));
    }

    async fn r02_parts_that_join_to_the_same_string_are_two_records(db) {
        let (app, _) = db.app().await;
        for (user, key) in [("u", "1k"), ("u1", "k"), ("u1k", "x"), ("[\"u\"]", "k")] {
            Call::act("insert").user(user).key(key).send(&app).await.expect_fresh(201);
        }
        assert_eq!(db.effects().await, 4);
    }

    async fn r02_the_raw_key_is_not_stored(db) {
        let (app, _) = db.app().await;
        Call::act("insert").key("VerySecretKey").send(&app).await.expect_fresh(201);
        let stored = db.stored().await;
        let hex: String = "VerySecretKey".bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(stored.contains("u1") && !stored.contains("VerySecretKey"), "{stored}");
        assert!(!stored.to_lowercase().contains(&hex), "{stored}");
    }

    async fn r03_a_scope_has_parts_or_is_shared_by_everybody(db) {
        let (app, _) = db.app().await;
        let first = Call::to("/everybody", "insert").send(&app).await;
        first.expect_fresh(201);
        Call::to("/everybody", "insert").user("u2").send(&app).await.expect_replay_of(&first);
        Call::to("/pair", "insert").send(&app).await.expect_fresh(201);
        Call::to("/pair", "empty").send(&app).await.expect_fresh(204);
        assert_eq!(db.records().await, 3);
    }

    async fn r03_an_empty_scope_is_an_error_and_not_a_shared_one(db) {
        let (app, gauge) = db.app().await;
        Call::act("insert").user("").send(&app).await.expect(500, "scope_invalid");
        assert_eq!((gauge.entered(), db.records().await), (0, 0));
    }

    async fn r04_extractors_run_before_the_key_is_asked_for(db) {
        let (app, gauge) = db.app().await;
        let anonymous = Call::act("insert").without("x-user");
        assert_eq!(anonymous.clone().without("idempotency-key").send(&app).await.status, 401);
        assert_eq!(anonymous.send(&app).await.status, 401);
        assert_eq!(gauge.entered(), 0);
    }

    async fn r04_who_lost_the_right_does_not_see_the_reply(db) {
        let (app, _) = db.app().await;
        Call::act("insert").send(&app).await.expect_fresh(201);
        let refused = Call::act("insert").without("x-user").send(&app).await;
        assert_eq!((refused.status.as_u16(), refused.body.len()), (401, 0));
    }

    async fn r04_what_an_extractor_refuses_is_not_stored(db) {
        let (app, gauge) = db.app().await;
        let malformed = Call::to("/other", "insert").json("{");
        assert_eq!(malformed.send(&app).await.status, 400);
        assert_eq!(Call::to("/other", "insert").json("{}").send(&app).await.status, 422);
        assert_eq!((gauge.entered(), db.records().await), (0, 0));
        Call::to("/other", "insert").send(&app).await.expect_fresh(201);
    }

    async fn a_key_may_come_from_the_body(db) {
        let (app, _) = db.app().await;
        let event = |id: &str| Call::new(Method::POST, "/event").json(&format!(r#"{{"id":{id},"act":"insert"}}"#));
        let first = event("\"evt_1\"").send(&app).await;
        first.expect_fresh(201);
        event("\"evt_1\"").send(&app).await.expect_replay_of(&first);
        event("\"evt_2\"").send(&app).await.expect_fresh(201);
        event("null").send(&app).await.expect(400, "key_missing");
        event("\"\"").send(&app).await.expect(400, "key_missing");
        assert_eq!((db.records().await, db.effects().await), (2, 2));
    }

    async fn without_a_key_an_optional_handler_runs_unrecorded(db) {
        let (app, _) = db.app().await;
        let call = Call::to("/optional", "insert").without("idempotency-key");
        call.send(&app).await.expect_fresh(201);
        call.send(&app).await.expect_fresh(201);
        assert_eq!((db.records().await, db.effects().await), (0, 2));
        // A key that cannot be used is a mistake, and not a request without one.
        call.clone().key("a b").send(&app).await.expect(400, "key_invalid");
        // What fails is rolled back here, too.
        Call::to("/optional", "fail").without("idempotency-key").send(&app).await.expect_fresh(500);
        Call::to("/optional", "panic").without("idempotency-key").send(&app).await.expect(500, "handler_panicked");
        assert_eq!(db.effects().await, 2);
        let first = call.clone().key("k").send(&app).await;
        call.key("k").send(&app).await.expect_replay_of(&first);
    }
}
