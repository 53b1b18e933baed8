include!("../support.rs");

#[idempotent(scope = user)]
#[axum::debug_handler(state = App)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[derive(Clone)]
struct App;

fn main() {}
