//! What each handler must do, however it is written: run once, and answer the second request as the first.

use std::future::Future;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt;

use crate::support::{PgStore, Writes};

/// A body for those that read one.
pub const ORDER: &str = r#"{"customer_id": "c1", "amount": 5}"#;

/// A request with a key.
pub fn json(path: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json").header("idempotency-key", "k1");
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Sends the request and sends it again: the status and the body of both.
///
/// # Panics
/// Where the first did not run, or the second did, or was answered otherwise.
pub fn twice(store: &PgStore, app: &Router, request: impl Fn() -> Request<Body>) -> (u16, String) {
    let before = store.writes();
    let (status, body, replayed) = send(app, request());
    let after = store.writes();
    assert!(after > before && !replayed, "the first does not run: {status} {body}");

    assert_eq!(send(app, request()), (status, body.clone(), true));
    assert_eq!(store.writes(), after, "the second runs, too");
    (status, body)
}

/// Sends the request: the status, the body, and whether it was replayed.
pub fn send(app: &Router, request: Request<Body>) -> (u16, String, bool) {
    block_on(async {
        let response = app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let replayed = parts.headers.contains_key("idempotent-replayed");
        (parts.status.as_u16(), String::from_utf8(body.into()).unwrap(), replayed)
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
