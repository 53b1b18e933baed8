include!("../support.rs");

#[idempotent(scope = user, operation = "payments.create"foo)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
