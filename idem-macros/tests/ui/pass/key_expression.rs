#![deny(warnings)]
include!("../support.rs");

#[derive(serde::Deserialize)]
struct Event {
    id: Option<String>,
    order: NewPayment,
}

#[idempotent(scope = "webhooks", axum, key = event.id, fingerprint = none, missing_key = run)]
async fn shipped(tx: &mut PgTx, Json(event): Json<Event>) -> StatusCode {
    tx.write().await;
    println!("{}", event.order.amount);
    StatusCode::OK
}

#[idempotent(scope = "webhooks", axum, key = event.order.customer_id.as_str(), fingerprint = (&event.order.customer_id, event.order.amount))]
async fn paid(tx: &mut PgTx, Json(event): Json<Event>) -> StatusCode {
    tx.write().await;
    println!("{:?}", event.id);
    StatusCode::OK
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/shipped", post(shipped)).route("/paid", post(paid));
}
