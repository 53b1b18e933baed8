include!("../support.rs");

#[idempotent(scope = user)]
#[axum::debug_handler]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router = Router::new().route("/", post(create_payment)).with_state(PgStore::default());
}
