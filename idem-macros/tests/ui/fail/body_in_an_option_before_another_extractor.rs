include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(order: Option<axum::Json<NewPayment>>, user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.map_or(0, |order| order.amount) })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
