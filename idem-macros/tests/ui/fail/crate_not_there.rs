include!("../support.rs");

#[idempotent(scope = user, crate = nowhere::idem)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

fn main() {}
