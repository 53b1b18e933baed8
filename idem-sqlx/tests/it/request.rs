//! Rules 5 to 9 and 23: what was asked.

use http::Method;

use crate::client::{Call, eventually};
use crate::support::Database;

both! {
    async fn r05_json_is_compared_by_meaning(db) {
        let (app, _) = db.app().await;
        let call = |body: &str| Call::act("").json(body);
        let first = call(r#"{"act":"insert","note":{"a":1,"b":[null]}}"#).send(&app).await;
        first.expect_fresh(201);
        for same in [
            r#"{"note":{"b":[null],"a":1},"act":"insert"}"#,
            "{ \"act\" : \"ins\\u0065rt\" ,\n \"note\" : { \"a\" : 1 , \"b\" : [ null ] } }",
            r#"{"act":"insert","note":{"a":1.0,"b":[null]}}"#,
            r#"{"act":"insert","note":{"a":10e-1,"b":[null]}}"#,
        ] {
            call(same).send(&app).await.expect_replay_of(&first);
        }
        let reordered = call(r#"{"note":{"b":[null],"a":1},"act":"insert"}"#);
        reordered.header("content-type", b"Application/JSON; charset=utf-8").send(&app).await.expect_replay_of(&first);
        for other in [
            r#"{"act":"insert","note":{"a":1.0000000000000000000001,"b":[null]}}"#,
            r#"{"act":"insert","note":{"a":1,"b":[]}}"#,
            r#"{"act":"insert","note":{"a":1,"b":[null],"c":null}}"#,
            r#"{"act":"insert","note":{"a":"1","b":[null]}}"#,
            r#"{"act":"insert","note":{"a":1,"a":1,"b":[null]}}"#,
        ] {
            call(other).send(&app).await.expect(422, "key_reused");
        }
        assert_eq!((db.records().await, db.effects().await), (1, 1));
    }

    async fn r05_other_bodies_are_compared_byte_by_byte(db) {
        let (app, _) = db.app().await;
        let call = |body: &str, media_type: &[u8]| Call::to("/bytes", "").json(body).header("content-type", media_type);
        let first = call("a=1&b=2", b"application/x-www-form-urlencoded").send(&app).await;
        first.expect_fresh(201);
        call("a=1&b=2", b"application/x-www-form-urlencoded").send(&app).await.expect_replay_of(&first);
        call("b=2&a=1", b"application/x-www-form-urlencoded").send(&app).await.expect(422, "key_reused");
        call("a=1&b=2", b"text/plain").send(&app).await.expect(422, "key_reused");
    }

    async fn r06_the_fingerprint_is_taken_before_the_extractor_reads_the_body(db) {
        let (app, _) = db.app().await;
        // `note` is read into a value and dropped by the handler; the fingerprint still knows it.
        Call::act("").json(r#"{"act":"insert","note":1}"#).send(&app).await.expect_fresh(201);
        Call::act("").json(r#"{"act":"insert","note":2}"#).send(&app).await.expect(422, "key_reused");
        Call::act("").json(r#"{"act":"insert","unknown":2}"#).send(&app).await.expect(422, "key_reused");
    }

    async fn r06_a_handler_may_say_what_is_compared(db) {
        let (app, _) = db.app().await;
        let call = |path: &str, body: &str| Call::to(path, "").json(body);
        let first = call("/part", r#"{"act":"insert","note":1}"#).send(&app).await;
        call("/part", r#"{"act":"insert","note":2}"#).send(&app).await.expect_replay_of(&first);
        call("/part", r#"{"act":"empty","note":1}"#).send(&app).await.expect(422, "key_reused");
        let first = call("/nothing", r#"{"act":"insert"}"#).send(&app).await;
        call("/nothing", r#"{"act":"empty"}"#).send(&app).await.expect_replay_of(&first);
    }

    async fn r07_another_body_is_refused_and_the_record_unchanged(db) {
        let (app, gauge) = db.app().await;
        let first = Call::act("insert").send(&app).await;
        let before = db.stored().await;
        Call::act("empty").send(&app).await.expect(422, "key_reused");
        assert_eq!(db.stored().await, before);
        assert_eq!(gauge.entered(), 1);
        Call::act("insert").send(&app).await.expect_replay_of(&first);
    }

    async fn r08_another_route_path_or_query_never_gets_the_reply(db) {
        let (app, gauge) = db.app().await;
        let call = Call::act("insert");
        let first = call.clone().path("/act/1?a=1").send(&app).await;
        first.expect_fresh(201);
        for path in ["/act/1", "/act/2?a=1", "/act/1?a=2", "/act/1?a=1&b=2", "/act/1?A=1", "/act/1?", "/act", "/nested/act"] {
            call.clone().path(path).send(&app).await.expect(422, "key_reused");
        }
        call.clone().path("/act/1?a=1").method(Method::PUT).send(&app).await.expect(422, "key_reused");
        call.clone().path("/act/1?a=1").send(&app).await.expect_replay_of(&first);
        assert_eq!(gauge.entered(), 1);
        Call::to("/other", "insert").send(&app).await.expect_fresh(201);
    }

    async fn r08_a_nested_route_is_not_taken_for_its_namesake(db) {
        let (app, _) = db.app().await;
        Call::to("/nested/act", "insert").send(&app).await.expect_fresh(201);
        Call::to("/act", "insert").send(&app).await.expect(422, "key_reused");
    }

    async fn r08_a_chosen_fingerprint_is_of_one_method_path_and_query(db) {
        let (app, gauge) = db.app().await;
        let requests = [
            (Method::POST, "/part/1"),
            (Method::POST, "/part/2"),
            (Method::PUT, "/part/1"),
            (Method::DELETE, "/part/1"),
            (Method::POST, "/part"),
            (Method::POST, "/part/1?"),
            (Method::POST, "/part/1?a=1"),
            (Method::POST, "/part/1?a=2"),
            (Method::POST, "/nested/part/1"),
        ];
        for (at, (method, path)) in requests.iter().enumerate() {
            let call = |(method, path): &(Method, &str), note| {
                let call = Call::to(path, "").method(method.clone()).key(&format!("k{at}"));
                call.json(&format!(r#"{{"act":"insert","note":{note}}}"#))
            };
            let this = (method.clone(), *path);
            let first = call(&this, 1).send(&app).await;
            first.expect_fresh(201);
            let before = db.stored().await;
            for other in requests.iter().filter(|other| **other != this) {
                call(other, 1).send(&app).await.expect(422, "key_reused");
            }
            assert_eq!(db.stored().await, before, "{this:?}");
            call(&this, 2).send(&app).await.expect_replay_of(&first);
        }
        assert_eq!((gauge.entered(), db.records().await), (requests.len(), 9));
    }

    async fn r08_a_handler_that_compares_nothing_is_of_one_path(db) {
        let (app, gauge) = db.app().await;
        let paths = ["/nothing/1", "/nothing/2", "/nothing", "/nested/nothing/1"];
        for (at, path) in paths.into_iter().enumerate() {
            let key = format!("k{at}");
            let call = |path: &str, act| Call::to(path, act).key(&key);
            let first = call(path, "insert").send(&app).await;
            first.expect_fresh(201);
            let before = db.stored().await;
            for other in paths.iter().filter(|other| **other != path) {
                call(other, "insert").send(&app).await.expect(422, "key_reused");
            }
            assert_eq!(db.stored().await, before, "{path}");
            // Nothing else counts.
            call(path, "empty").send(&app).await.expect_replay_of(&first);
            call(path, "insert").method(Method::PUT).send(&app).await.expect_replay_of(&first);
            call(path, "insert").path(&format!("{path}?a=1")).send(&app).await.expect_replay_of(&first);
        }
        assert_eq!((gauge.entered(), db.records().await), (4, 4));
    }

    async fn r07_another_path_is_refused_while_the_first_runs(db) {
        let (app, gauge) = db.app().await;
        for (at, (path, other)) in [("/part/1", "/part/2"), ("/nothing/1", "/nothing/2")].into_iter().enumerate() {
            let call = |path| Call::to(path, "wait").key(&format!("k{at}"));
            let first = tokio::spawn({
                let (call, app) = (call(path), app.clone());
                async move { call.send(&app).await }
            });
            eventually("the first runs", async || gauge.entered() == at + 1).await;
            call(other).send(&app).await.expect(422, "key_reused");
            call(path).send(&app).await.expect(409, "key_in_flight");
            gauge.open(1);
            first.await.expect("no panic").expect_fresh(201);
        }
    }

    async fn r09_safe_methods_run_in_a_plain_transaction(db) {
        let (app, gauge) = db.app().await;
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            let call = Call::new(method.clone(), "/act");
            call.send(&app).await.expect_fresh(201);
            call.key("k").send(&app).await.expect_fresh(201);
        }
        assert_eq!((gauge.entered(), db.records().await, db.effects().await), (6, 0, 6));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            Call::act("insert").key(method.as_str()).method(method).send(&app).await.expect_fresh(201);
        }
        assert_eq!(db.records().await, 4);
    }

    async fn r09_a_key_by_expression_is_recorded_whatever_the_method_is(db) {
        let (app, gauge) = db.app().await;
        for (at, method) in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST].into_iter().enumerate() {
            let call = Call::new(method.clone(), &format!("/link/{method}"));
            let first = call.send(&app).await;
            first.expect_fresh(201);
            call.send(&app).await.expect_replay_of(&first);
            assert_eq!((gauge.entered(), db.records().await, db.effects().await), (at + 1, at as i64 + 1, at as i64 + 1));
        }
        // A blank key is no key.
        Call::new(Method::GET, "/link/%20").send(&app).await.expect(400, "key_missing");
    }

    async fn r09_head_is_get_without_its_body(db) {
        let (app, gauge) = db.app().await;
        for (at, path) in ["/link/one", "/get-link/two"].into_iter().enumerate() {
            let (head, get) = (Call::new(Method::HEAD, path), Call::new(Method::GET, path));
            let checked = head.send(&app).await;
            checked.expect_fresh(201);
            assert!(checked.body.is_empty());
            head.send(&app).await.expect_replay_of(&checked);

            let opened = get.send(&app).await;
            assert!(opened.replayed());
            assert_eq!(opened.status, checked.status);
            assert_eq!(opened.body, format!("run {} for {}", at + 1, path.rsplit('/').next().unwrap()).as_bytes());
            assert_eq!(opened.headers.get("content-length"), checked.headers.get("content-length"), "{path}");
            head.send(&app).await.expect_replay_of(&checked);
        }
        assert_eq!((gauge.entered(), db.records().await), (2, 2));
        // Another method is another request.
        Call::new(Method::OPTIONS, "/link/one").send(&app).await.expect(422, "key_reused");
    }

    async fn r23_a_body_over_the_limit_is_refused_and_nothing_recorded(db) {
        let (app, gauge) = db.app().await;
        let body = format!(r#"{{"act":"insert","note":"{}"}}"#, "x".repeat(100));
        let call = Call::to("/small", "").json(&body);
        call.send(&app).await.expect(413, "body_too_large");
        let huge = format!(r#"{{"act":"insert","note":"{}"}}"#, "x".repeat(2_100_000));
        Call::act("").json(&huge).send(&app).await.expect(413, "body_too_large");
        assert_eq!((gauge.entered(), db.records().await), (0, 0));
        Call::to("/small", "insert").send(&app).await.expect_fresh(201);
    }
}
