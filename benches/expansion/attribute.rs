#[idempotent(scope = user, ttl = "24h")]
async fn NAME(user: User, tx: &mut PgTx, Json(order): Json<Order>) -> Result<(StatusCode, Json<Payment>), Failed> {
    let id = insert(tx, &user, &order).await?;
    Ok((StatusCode::CREATED, Json(Payment { id, amount: order.amount })))
}
