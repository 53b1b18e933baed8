include!("../support.rs");

#[idempotent(scope = "partner", key = event.id, fingerprint = event.name)]
async fn on_event(tx: &mut PgTx, event: CurrentUser) -> Result<String, StatusCode> {
    tx.write().await;
    Ok(event.name)
}

fn main() {
    let _ = on_event;
}
