include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: 1 })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
