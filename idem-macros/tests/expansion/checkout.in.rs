#[idempotent(scope = user, lease = "30s", attempts = 5)]
async fn checkout(
    user: CurrentUser,
    steps: &mut PgSteps,
    Json(order): Json<NewOrder>,
) -> Result<Json<Receipt>, ApiError> {
    steps.transaction("reserve", async |tx| reserve(tx, &order).await).await?;
    let charge = steps.call("charge", async |key| charge(&user, &order, key).await).await?;
    steps.finish(async |tx| confirm(tx, &order, &charge).await).await?;
    Ok(Json(Receipt::of(order, charge)))
}
