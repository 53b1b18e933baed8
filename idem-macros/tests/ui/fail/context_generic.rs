include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment<C: idem_core::store::Context>(user: CurrentUser, tx: &mut C) -> Json<Payment> {
    let _ = tx;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment::<PgTx>));
}
