#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user, ttl = "24h")]
async fn create_payment(
    user: CurrentUser,
    tx: &mut PgTx,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), StatusCode> {
    tx.write().await;
    let id = user.id.checked_add(order.amount).ok_or(StatusCode::BAD_REQUEST)?;
    if id == 0 {
        return Err(StatusCode::NOT_FOUND);
    }
    Ok((StatusCode::CREATED, Json(Payment { id })))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
