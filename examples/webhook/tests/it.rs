//! Messages as a sender sends them: signed, more than once, and at once.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use idem_sqlx::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use standardwebhooks::Webhook;
use tempfile::TempDir;
use tower::ServiceExt;

const SECRET: &str = "whsec_aWRlbS10ZXN0LXNlY3JldC0wMDAwMDAwMDAxIQ==";
const PAID: &str = r#"{"id": "evt_1", "type": "invoice.paid", "invoice": "inv_1", "amount": 100}"#;

struct Endpoint {
    _folder: TempDir,
    pool: SqlitePool,
    app: Router,
}

#[derive(Clone)]
struct Message {
    path: &'static str,
    id: &'static str,
    timestamp: String,
    signature: String,
    body: &'static str,
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    now.as_secs().try_into().expect("a time before the end of time")
}

fn sender() -> Webhook {
    Webhook::new(SECRET).expect("a secret")
}

impl Message {
    fn signed_at(path: &'static str, id: &'static str, body: &'static str, time: i64) -> Self {
        let signature = sender().sign(id, time, body.as_bytes()).expect("a signature");
        Self { path, id, timestamp: time.to_string(), signature, body }
    }

    fn of(path: &'static str, id: &'static str, body: &'static str) -> Self {
        Self::signed_at(path, id, body, now())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    replayed: bool,
    body: String,
}

impl Endpoint {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteConnectOptions::new().filename(folder.path().join("webhook.db"));
        let pool = webhook::open(options).await.expect("a database");
        let store = SqliteStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        Self { _folder: folder, pool, app: webhook::app(store, sender()) }
    }

    async fn send(&self, message: &Message) -> Answer {
        let request = Request::post(message.path)
            .header("webhook-id", message.id)
            .header("webhook-timestamp", &message.timestamp)
            .header("webhook-signature", &message.signature)
            .header("content-type", "application/json")
            .body(Body::from(message.body))
            .expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("an answer");
        let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Answer { status, replayed, body: String::from_utf8_lossy(&body).into_owned() }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    async fn entries(&self) -> i64 {
        self.count("SELECT count(*) FROM ledger").await
    }

    async fn records(&self) -> i64 {
        self.count("SELECT count(*) FROM idem_records").await
    }
}

#[tokio::test]
async fn a_message_takes_effect_once_and_its_duplicate_gets_the_same_200() {
    let endpoint = Endpoint::open().await;
    let first = endpoint.send(&Message::of("/webhooks/messages", "msg_1", PAID)).await;
    assert_eq!((first.status, first.replayed), (StatusCode::OK, false), "{first:?}");
    // The sender signs each attempt anew, with the time of the attempt.
    let again = endpoint.send(&Message::signed_at("/webhooks/messages", "msg_1", PAID, now() - 60)).await;
    assert_eq!(again, Answer { replayed: true, ..first });
    assert_eq!(endpoint.entries().await, 1);
}

#[tokio::test]
async fn an_event_takes_effect_once_although_it_comes_in_two_messages() {
    let endpoint = Endpoint::open().await;
    let first = endpoint.send(&Message::of("/webhooks/events", "msg_1", PAID)).await;
    assert_eq!((first.status, first.replayed), (StatusCode::OK, false), "{first:?}");
    let again = endpoint.send(&Message::of("/webhooks/events", "msg_2", PAID)).await;
    assert_eq!(again, Answer { replayed: true, ..first });
    assert_eq!(endpoint.entries().await, 1);
}

#[tokio::test]
async fn what_is_not_signed_in_the_last_five_minutes_leaves_no_trace() {
    let endpoint = Endpoint::open().await;
    let good = Message::of("/webhooks/messages", "msg_1", PAID);
    let with_time = |timestamp: &str| Message { timestamp: timestamp.to_owned(), ..good.clone() };
    let refused = [
        Message {
            body: r#"{"id": "evt_1", "type": "invoice.paid", "invoice": "inv_1", "amount": 999}"#,
            ..good.clone()
        },
        Message { id: "msg_2", ..good.clone() },
        Message { signature: "v1,bm9uZQ==".to_owned(), ..good.clone() },
        Message::signed_at("/webhooks/messages", "msg_1", PAID, now() - 301),
        Message::signed_at("/webhooks/messages", "msg_1", PAID, now() + 330),
        with_time(""),
        with_time("soon"),
        with_time("-9223372036854775808"),
        with_time("9223372036854775807"),
    ];
    for message in refused {
        let answer = endpoint.send(&message).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    }
    assert_eq!((endpoint.entries().await, endpoint.records().await), (0, 0));
    assert_eq!(endpoint.send(&good).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_stored_answer_is_for_the_sender_only() {
    let endpoint = Endpoint::open().await;
    let good = Message::of("/webhooks/messages", "msg_1", PAID);
    endpoint.send(&good).await;
    let forged = endpoint.send(&Message { signature: "v1,bm9uZQ==".to_owned(), ..good }).await;
    assert_eq!((forged.status, forged.replayed), (StatusCode::UNAUTHORIZED, false));
}

#[tokio::test]
async fn a_malformed_message_is_refused_and_one_of_another_kind_is_not_entered() {
    let endpoint = Endpoint::open().await;
    for body in ["{", "{}", r#"{"id": 1, "type": "invoice.paid"}"#, r#"{"id": "evt_1", "type": "invoice.paid"}"#] {
        let answer = endpoint.send(&Message::of("/webhooks/messages", "msg_1", body)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer:?}");
    }
    assert_eq!(endpoint.records().await, 0);
    let other = Message::of("/webhooks/messages", "msg_1", r#"{"id": "evt_1", "type": "customer.renamed"}"#);
    assert_eq!(endpoint.send(&other).await.status, StatusCode::OK);
    assert_eq!(endpoint.entries().await, 0);
}

#[tokio::test]
async fn another_body_under_the_id_is_refused() {
    let endpoint = Endpoint::open().await;
    endpoint.send(&Message::of("/webhooks/messages", "msg_1", PAID)).await;
    let other = r#"{"id": "evt_1", "type": "invoice.paid", "invoice": "inv_2", "amount": 100}"#;
    let answer = endpoint.send(&Message::of("/webhooks/messages", "msg_1", other)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.body.contains("key_reused"), "{answer:?}");
    assert_eq!(endpoint.entries().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_deliveries_at_once_one_takes_effect_and_none_that_did_not_is_told_so() {
    let endpoint = Endpoint::open().await;
    let message = Message::of("/webhooks/messages", "msg_1", PAID);
    let answers = join_all((0..30).map(|_| endpoint.send(&message))).await;
    let ran = answers.iter().filter(|answer| answer.status == StatusCode::OK && !answer.replayed).count();
    let replayed = answers.iter().filter(|answer| answer.status == StatusCode::OK && answer.replayed).count();
    // The sender tries these again later.
    let later = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count();
    assert_eq!((ran, ran + replayed + later), (1, 30));
    assert_eq!(endpoint.entries().await, 1);
    assert!(endpoint.send(&message).await.replayed);
}
