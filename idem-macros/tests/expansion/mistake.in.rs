#[idempotent(scope = usr, ttl = "24")]
async fn create_payment(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> Reply {
    insert_payment(tx, &user, &order).await
}
