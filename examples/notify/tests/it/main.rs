//! Notifications as clients send them: once, more than once, at once, and while something is down.

mod smtp_server;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use idem_redis::RedisStore;
use idem_testkit::redis::Redis;
use notify::Mailer;
use tower::ServiceExt;

use crate::smtp_server::{Behaviour, MailServer};

struct Shop {
    redis: Redis,
    mails: MailServer,
    app: Router,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    replayed: bool,
    body: String,
}

impl Shop {
    async fn open() -> Self {
        let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let mails = MailServer::start().await;
        let app = app(&redis, &mails).await;
        Self { redis, mails, app }
    }

    async fn send(&self, caller: &str, key: &str, subject: &str) -> Answer {
        send(self.app.clone(), caller, key, subject).await
    }
}

/// A program of its own over the same Redis.
async fn app(redis: &Redis, mails: &MailServer) -> Router {
    let store = RedisStore::connect(&redis.url()).await.expect("a store");
    notify::app(store, Mailer::new("127.0.0.1", mails.port, "shop@example.com").expect("an address"))
}

async fn send(app: Router, caller: &str, key: &str, subject: &str) -> Answer {
    let body = format!(r#"{{"to": "Bob <bob@example.com>", "subject": "{subject}", "text": "It is on its way."}}"#);
    let request = Request::post("/notifications")
        .header("authorization", format!("Bearer {caller}"))
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .expect("a request");
    let response = app.oneshot(request).await.expect("a response");
    let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    Answer { status, replayed, body: String::from_utf8(body.to_vec()).expect("a text") }
}

#[tokio::test]
async fn r40_redis_a_mail_is_sent_once_and_its_answer_is_kept() {
    let shop = Shop::open().await;
    let first = shop.send("ada", "k", "Shipped").await;
    assert_eq!((first.status, first.replayed), (StatusCode::CREATED, false), "{first:?}");
    assert!(first.body.contains("bob@example.com"), "{first:?}");
    assert_eq!(shop.send("ada", "k", "Shipped").await, Answer { replayed: true, ..first.clone() });
    assert_eq!(shop.send("ada", "k", "Lost").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(shop.mails.mails(), [1]);
    // Another caller's key is another mail.
    assert_eq!(shop.send("bob", "k", "Shipped").await.status, StatusCode::CREATED);
    assert_eq!(shop.mails.mails(), [1, 1]);
}

#[tokio::test]
async fn r40_redis_of_many_duplicates_in_two_programs_one_sends() {
    let shop = Shop::open().await;
    let other = app(&shop.redis, &shop.mails).await;
    shop.mails.set(Behaviour::TakesSlowly);
    let sent = (0..16).map(|number| {
        let app = if number % 2 == 0 { shop.app.clone() } else { other.clone() };
        send(app, "ada", "k", "Shipped")
    });
    let answers = join_all(sent).await;
    assert!(answers.iter().any(|answer| answer.status == StatusCode::CREATED && !answer.replayed), "{answers:?}");
    let may_be = [StatusCode::CREATED, StatusCode::CONFLICT];
    assert!(answers.iter().all(|answer| may_be.contains(&answer.status)), "{answers:?}");
    assert_eq!(shop.mails.mails(), [1]);
}

#[tokio::test]
async fn r40_redis_what_the_mail_server_refuses_is_refused_for_good_and_what_it_delays_is_not() {
    let shop = Shop::open().await;
    shop.mails.set(Behaviour::Refuses);
    let refused = shop.send("ada", "no-mailbox", "Shipped").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    shop.mails.set(Behaviour::Busy);
    let pending = shop.send("ada", "busy", "Shipped").await;
    assert_eq!(pending.status, StatusCode::SERVICE_UNAVAILABLE, "{pending:?}");
    shop.mails.set(Behaviour::Takes);
    assert_eq!(shop.send("ada", "no-mailbox", "Shipped").await, Answer { replayed: true, ..refused });
    assert_eq!(shop.send("ada", "busy", "Shipped").await.status, StatusCode::CREATED);
    assert_eq!(shop.mails.mails(), [1]);
}

/// The answer of the mail server is lost: nobody knows whether it has the mail. The second one has the same name.
#[tokio::test]
async fn r29_redis_a_mail_without_an_answer_is_sent_again_under_its_name() {
    let shop = Shop::open().await;
    shop.mails.set(Behaviour::TakesWithoutAWord);
    let pending = shop.send("ada", "k", "Shipped").await;
    assert_eq!(pending.status, StatusCode::SERVICE_UNAVAILABLE, "{pending:?}");
    shop.mails.set(Behaviour::Takes);
    let sent = shop.send("ada", "k", "Shipped").await;
    assert_eq!(sent.status, StatusCode::CREATED, "{sent:?}");
    assert_eq!(shop.mails.mails(), [2], "one mail, which came twice");
    assert_eq!(shop.send("ada", "k", "Shipped").await, Answer { replayed: true, ..sent });
}

#[tokio::test]
async fn r30_redis_that_is_down_sends_nothing() {
    let mut shop = Shop::open().await;
    let first = shop.send("ada", "k", "Shipped").await;
    shop.redis.kill();
    let refused = shop.send("ada", "k2", "Shipped").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert!(refused.body.contains("store_unavailable"), "{refused:?}");
    assert_eq!(shop.mails.mails(), [1]);
    // It was written to the file before it was answered.
    shop.redis.start_again().await;
    assert_eq!(shop.send("ada", "k", "Shipped").await, Answer { replayed: true, ..first });
    assert_eq!(shop.send("ada", "k2", "Shipped").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn r40_redis_what_is_no_notification_uses_up_no_key() {
    let shop = Shop::open().await;
    let wrong = Request::post("/notifications")
        .header("authorization", "Bearer ada")
        .header("idempotency-key", "k")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"to": "nobody", "subject": "", "text": ""}"#))
        .expect("a request");
    let refused = shop.app.clone().oneshot(wrong).await.expect("a response");
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(shop.send("ada", "k", "Shipped").await.status, StatusCode::CREATED);
    let anonymous = Request::post("/notifications").header("idempotency-key", "k").body(Body::empty());
    let refused = shop.app.clone().oneshot(anonymous.expect("a request")).await.expect("a response");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}
