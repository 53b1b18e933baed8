include!("../support.rs");

#[idempotent(scope = user)]
#[axum::debug_handler(state = PgStore)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, order: NewPayment) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {}
