include!("../support.rs");

#[idempotent(scope = global)]
async fn create_payment(Path(global): Path<u64>, user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + global })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/{global}/payments", post(create_payment));
}
