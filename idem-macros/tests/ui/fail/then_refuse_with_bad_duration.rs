include!("../support.rs");

#[idempotent(scope = user, then = refuse("0d"))]
async fn zero(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[idempotent(scope = user, then = refuse("30"))]
async fn no_unit(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[idempotent(scope = user, then = refuse("3651d"))]
async fn too_long(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[idempotent(scope = user, then = refuse(30))]
async fn number(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

fn main() {}
