include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    let id = std::rc::Rc::new(user.id);
    tx.write().await;
    Json(Payment { id: *id + order.amount })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
