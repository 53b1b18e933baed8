include!("../support.rs");

#[axum::debug_handler(state = PgStore)]
#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
