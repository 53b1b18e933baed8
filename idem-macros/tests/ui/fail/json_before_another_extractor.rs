include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(Json(order): Json<NewPayment>, tx: &mut PgTx, user: CurrentUser) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
