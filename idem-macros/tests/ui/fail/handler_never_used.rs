#![deny(dead_code)]
include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {}
