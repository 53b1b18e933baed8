use crate::support::*;
use crate::twice::{ORDER, json, twice};

use axum::Form;
use axum::body::Bytes;
use axum::http::HeaderMap;

#[idempotent(scope = user)]
async fn form(user: CurrentUser, tx: &mut PgTx, Form(order): Form<NewPayment>) -> String {
    tx.write().await;
    format!("{} {}", user.name, order.amount)
}

#[idempotent(scope = user)]
async fn bytes(user: CurrentUser, tx: &mut PgTx, body: Bytes) -> Bytes {
    tx.write().await;
    drop(user);
    body
}

#[idempotent(scope = user)]
async fn text(user: CurrentUser, tx: &mut PgTx, body: String) -> String {
    tx.write().await;
    drop(user);
    body
}

#[idempotent(scope = user)]
async fn optional(user: CurrentUser, tx: &mut PgTx, body: Option<Json<NewPayment>>) {
    tx.write().await;
    drop((user, body));
}

#[idempotent(scope = user)]
async fn fallible(
    user: CurrentUser,
    tx: &mut PgTx,
    body: Result<Json<NewPayment>, axum::extract::rejection::JsonRejection>,
) {
    tx.write().await;
    drop((user, body));
}

#[idempotent(scope = user)]
async fn no_body(user: CurrentUser, tx: &mut PgTx, headers: HeaderMap) {
    tx.write().await;
    drop((user, headers));
}

#[idempotent(scope = user)]
async fn request(user: CurrentUser, tx: &mut PgTx, request: axum::extract::Request) {
    tx.write().await;
    drop((user, request));
}

#[test]
fn whatever_reads_the_body() {
    let store = PgStore::default();
    let app = Router::new()
        .route("/form", post(form))
        .route("/bytes", post(bytes))
        .route("/text", post(text))
        .route("/optional", post(optional))
        .route("/fallible", post(fallible))
        .route("/no-body", post(no_body))
        .route("/request", post(request))
        .with_state(store.clone());
    let form = || {
        let mut request = json("/form", "customer_id=c1&amount=5");
        request.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        request
    };
    assert_eq!(twice(&store, &app, form), (200, "ada 5".to_owned()));
    assert_eq!(twice(&store, &app, || json("/bytes", "abc")), (200, "abc".to_owned()));
    assert_eq!(twice(&store, &app, || json("/text", "abc")), (200, "abc".to_owned()));
    for path in ["/optional", "/fallible", "/no-body", "/request"] {
        assert_eq!(twice(&store, &app, || json(path, ORDER)), (200, String::new()), "{path}");
    }
}
