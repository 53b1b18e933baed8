include!("../support.rs");

use std::convert::Infallible;

use axum::response::sse::{Event, Sse};
use futures_util::stream::{Empty, empty};

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Sse<Empty<Result<Event, Infallible>>> {
    tx.write().await;
    drop((user, order));
    Sse::new(empty())
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
