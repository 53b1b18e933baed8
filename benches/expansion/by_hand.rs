async fn NAME(
    State(store): State<PgStore>,
    user: User,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> Result<(StatusCode, Json<Payment>), Failed> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let request = Request::new(Identity::new(&user, "NAME", &key)?, Fingerprint::of_value(&order)?, Duration::from_secs(86400))?;
    let mut run = match store.begin(&request).await? {
        Start::Run(run) => run,
        Start::Stored(Stored::Completed(value) | Stored::Rejected(value)) => {
            return Ok((StatusCode::CREATED, Json(value.read()?)));
        }
    };
    let id = insert(&mut run, &user, &order).await?;
    let payment = Payment { id, amount: order.amount };
    Ok((StatusCode::CREATED, Json(run.complete(&payment).await?)))
}
