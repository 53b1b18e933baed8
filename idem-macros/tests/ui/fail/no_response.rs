include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Payment {
    tx.write().await;
    Payment { id: user.id + order.amount }
}
fn main() {}
