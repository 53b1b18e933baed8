include!("../support.rs");

#[idempotent(scope = user, first_sent = refuse("30d"))]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
