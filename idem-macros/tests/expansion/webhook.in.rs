#[idempotent(
    scope = ("webhooks", shop.id),
    operation = "shipments.note",
    ttl = "7d",
    axum,
    key = event.id,
    fingerprint = (event.order, event.at),
    in_flight = wait("500ms"),
    missing_key = run,
    crate = app::idempotency
)]
#[tracing::instrument(skip_all)]
#[axum::debug_handler(state = App)]
async fn shipped<'tx, C: Carrier>(
    tx: &'tx mut SqliteTx,
    State(mut carrier): State<C>,
    shop: Shop,
    Json(event): Json<Shipped>,
) -> impl IntoResponse {
    note(tx, &mut carrier, event).await
}
