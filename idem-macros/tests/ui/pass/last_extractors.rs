#![deny(warnings)]
include!("../support.rs");

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

fn main() {
    let _: Router<PgStore> = Router::new()
        .route("/form", post(form))
        .route("/bytes", post(bytes))
        .route("/text", post(text))
        .route("/optional", post(optional))
        .route("/fallible", post(fallible))
        .route("/no-body", post(no_body))
        .route("/request", post(request));
}
