include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: Option<&mut PgTx>) -> Json<Payment> {
    drop(tx);
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
