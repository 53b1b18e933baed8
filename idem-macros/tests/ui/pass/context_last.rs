#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, Json(order): Json<NewPayment>, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
