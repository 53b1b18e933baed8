async fn NAME(State(pool): State<sqlx::PgPool>, user: User, Json(order): Json<Order>) -> Result<(StatusCode, Json<Payment>), Failed> {
    let mut tx = pool.begin().await?;
    let id = insert(&mut tx, &user, &order).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(Payment { id, amount: order.amount })))
}
