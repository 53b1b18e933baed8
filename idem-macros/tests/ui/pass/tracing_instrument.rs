#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user)]
#[tracing::instrument(skip_all, fields(user = user.id))]
async fn below(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + order.amount })
}

#[tracing::instrument(skip_all)]
#[idempotent(scope = user)]
async fn above(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Result<Json<Payment>, StatusCode> {
    tx.write().await;
    Ok(Json(Payment { id: user.id + order.amount }))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/below", post(below)).route("/above", post(above));
}
