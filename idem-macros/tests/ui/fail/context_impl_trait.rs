include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut impl idem_core::store::Context) -> Json<Payment> {
    let _ = tx;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
