include!("../support.rs");

#[idempotent(scope = usr)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    let sum = order.amont + 1;
    Json(Payment { id: user.id + sum })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
