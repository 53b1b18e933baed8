use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use idem_core::idempotent;
use idem_redis::{RedisStore, RedisTx};

#[idempotent(scope = global)]
async fn create_account(tx: &mut RedisTx) -> StatusCode {
    let _ = tx;
    StatusCode::CREATED
}

fn main() {
    let _: Router<RedisStore> = Router::new().route("/", post(create_account));
}
