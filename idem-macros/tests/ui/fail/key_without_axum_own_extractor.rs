include!("../support.rs");

#[idempotent(scope = "partner", key = event.id, fingerprint = event.name)]
async fn on_event(tx: &mut PgTx, event: CurrentUser) -> Result<Json<Payment>, idem_core::Error> {
    tx.write().await;
    Ok(Json(Payment { id: event.id }))
}

fn main() {
    let _ = on_event;
}
