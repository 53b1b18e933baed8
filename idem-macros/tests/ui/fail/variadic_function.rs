include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, rest: ...) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
