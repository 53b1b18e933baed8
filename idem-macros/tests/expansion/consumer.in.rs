#[idempotent(key = event.id, scope = "inventory", ttl = "7d", rejects = StockError::is_final)]
/// Takes what was shipped out of the stock.
pub async fn on_shipped(tx: &mut PgTx, event: &Shipped) -> Result<Stock, StockError> {
    let stock = take_out(tx, event).await?;
    Ok(stock)
}
