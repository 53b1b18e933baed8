/// Charges a customer.
#[idempotent(scope = user, ttl = "24h")]
pub async fn create_payment(
    user: CurrentUser,
    tx: &mut PgTx,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), ApiError> {
    let payment = insert_payment(tx, &user, &order).await?;
    Ok((StatusCode::CREATED, Json(payment)))
}
