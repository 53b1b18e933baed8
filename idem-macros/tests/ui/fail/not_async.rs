include!("../support.rs");

#[idempotent(scope = user)]
fn create_payment(user: CurrentUser, _tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    Json(Payment { id: user.id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
