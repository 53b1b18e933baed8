//! Rules 19 to 22 and 24: the reply.

use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::{Json, middleware};
use idem_core::Kind;
use idem_core::http::Refusal;

use crate::app::REPLY_LIMIT;
use crate::client::Call;
use crate::support::Database;

/// Where this process has just finished the run, a retry is one look-up. It would not get past a claim here.
#[tokio::test]
async fn r19_postgres_a_retry_in_the_same_process_claims_nothing() {
    let db = crate::support::Postgres::create().await;
    let (app, gauge) = db.app().await;
    let first = Call::act("insert").send(&app).await;
    first.expect_fresh(201);
    db.execute(
        "CREATE FUNCTION no_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no claim'; END $$;
        CREATE TRIGGER no_claim BEFORE INSERT ON idem_records FOR EACH STATEMENT EXECUTE FUNCTION no_claim()",
    )
    .await;
    Call::act("insert").send(&app).await.expect_replay_of(&first);
    Call::act("empty").send(&app).await.expect(422, "key_reused");
    Call::act("insert").key("k2").send(&app).await.expect(500, "store_failed");
    assert_eq!(gauge.entered(), 1);
}

both! {
    async fn r19_a_replay_is_the_first_reply_byte_for_byte(db) {
        let (app, gauge) = db.app().await;
        let first = Call::act("headers").send(&app).await;
        first.expect_fresh(201);
        assert_eq!(first.headers.get_all("x-twice").iter().count(), 2);
        assert!(first.headers.contains_key("set-cookie") && first.headers.contains_key("date"));
        let replay = Call::act("headers").send(&app).await;
        replay.expect_replay_of(&first);
        assert_eq!(replay.headers["x-latin"].as_bytes(), b"caf\xe9");
        assert_eq!(replay.headers["idempotent-replayed"], "true");
        let order = |answer: &crate::client::Answer| -> Vec<String> {
            let names = answer.headers.iter().map(|(name, _)| name.as_str().to_owned());
            names.filter(|name| !["set-cookie", "date", "idempotent-replayed"].contains(&name.as_str())).collect()
        };
        assert_eq!(order(&replay), order(&first));
        let hex: String = b"session".iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!db.stored().await.to_lowercase().contains(&hex));
        assert_eq!(gauge.entered(), 1);
    }

    async fn r19_what_an_upstream_says_about_its_connection_and_its_replays_ends_here(db) {
        let (app, gauge) = db.app().await;
        let first = Call::act("upstream").send(&app).await;
        first.expect_fresh(200);
        assert_eq!(first.headers["x-hop"], "one");
        let replay = Call::act("upstream").send(&app).await;
        assert_eq!(replay.body, first.body);
        let names: Vec<_> = replay.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-end", "idempotent-replayed", "content-length"]);
        // Nor is it passed on where nothing is stored, or nothing recorded.
        Call::act("upstream_reject").key("k2").send(&app).await.expect_fresh(200);
        Call::act("upstream_release").key("k3").send(&app).await.expect_fresh(200);
        Call::to("/optional", "upstream").without("idempotency-key").send(&app).await.expect_fresh(200);
        assert_eq!(gauge.entered(), 4);
    }

    async fn r20_an_empty_or_falsy_reply_is_a_reply(db) {
        let (app, gauge) = db.app().await;
        let acts = ["empty", "false", "zero", "empty_string", "empty_list", "null", "no_body"];
        for act in acts {
            let first = Call::act(act).key(act).send(&app).await;
            assert!(first.status.is_success() && !first.replayed());
            Call::act(act).key(act).send(&app).await.expect_replay_of(&first);
        }
        assert_eq!(gauge.entered(), acts.len());
    }

    async fn r21_a_reply_over_the_limit_leaves_a_tombstone(db) {
        let (app, gauge) = db.app().await;
        for (act, length) in [("large", REPLY_LIMIT * 50), ("large_stream", REPLY_LIMIT * 7), ("large_and_rejected", REPLY_LIMIT * 50)] {
            let first = Call::act(act).key(act).send(&app).await;
            first.expect_fresh(200);
            assert_eq!(first.body.len(), length);
            assert!(first.body.iter().all(|byte| *byte == first.body[0]));
            Call::act(act).key(act).send(&app).await.expect(410, "reply_too_large");
            Call::act("insert").key(act).send(&app).await.expect(422, "key_reused");
        }
        assert_eq!((gauge.entered(), db.effects().await), (3, 2));
        let first = Call::act("at_limit").send(&app).await;
        Call::act("at_limit").send(&app).await.expect_replay_of(&first);
    }

    async fn r21_a_reply_that_fails_while_it_is_read_keeps_nothing(db) {
        let (app, gauge) = db.app().await;
        Call::act("broken_body").send(&app).await.expect(500, "reply_failed");
        assert_eq!((db.effects().await, db.records().await), (0, 0));
        Call::act("broken_body").send(&app).await.expect(500, "reply_failed");
        assert_eq!(gauge.entered(), 2);
    }

    async fn r22_a_record_that_cannot_be_read_never_runs_again(db) {
        let (app, gauge) = db.app().await;
        for (at, damage) in [
            "state = 99",
            "format = 99",
            "status = NULL",
            "status = 7",
            "headers = NULL",
            "body = NULL",
            "headers = body",
            "fingerprint = headers",
            "claim = fingerprint",
        ].into_iter().enumerate() {
            let call = Call::act("insert").key(&format!("k{at}"));
            call.send(&app).await.expect_fresh(201);
            db.execute(&format!("UPDATE idem_records SET {damage}")).await;
            call.send(&app).await.expect(500, "record_unreadable");
            assert_eq!(gauge.entered(), at + 1, "{damage}");
            db.execute("DELETE FROM idem_records").await;
        }
    }

    async fn r24_a_refusal_can_be_restyled(db) {
        // As the documentation of `Refusal` has it.
        async fn restyle(response: Response) -> Response {
            let Some(refusal) = response.extensions().get::<Refusal>() else { return response };
            let body = Json((refusal.code(), refusal.is_final()));
            let mut restyled = (refusal.status(), body).into_response();
            if let Some(wait) = response.headers().get(RETRY_AFTER) {
                restyled.headers_mut().insert(RETRY_AFTER, wait.clone());
            }
            restyled
        }
        let (app, _) = db.app().await;
        let app = app.layer(middleware::map_response(restyle));
        let answer = Call::act("insert").without("idempotency-key").send(&app).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (400, b"[\"key_missing\",true]".as_slice()));
        assert_eq!(Kind::KeyMissing.code(), "key_missing");
        assert!(!answer.headers.contains_key(RETRY_AFTER));
        Call::act("insert").send(&app).await.expect_fresh(201);

        let closed = db.store(1).await;
        closed.pool().close().await;
        let app = db.app_over(closed).0.layer(middleware::map_response(restyle));
        let answer = Call::act("insert").send(&app).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (503, b"[\"store_unavailable\",false]".as_slice()));
        assert_eq!(answer.headers[RETRY_AFTER], "1");
    }
}
