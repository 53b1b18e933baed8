include!("../support.rs");

use std::convert::Infallible;

use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Empty};

type ApiResult<T> = Result<T, StatusCode>;

#[idempotent(scope = user)]
async fn create_payment(
    user: CurrentUser,
    tx: &mut PgTx,
) -> ApiResult<(StatusCode, Sse<Empty<Result<Event, Infallible>>>)> {
    tx.write().await;
    drop(user);
    Ok((StatusCode::OK, Sse::new(stream::empty())))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
