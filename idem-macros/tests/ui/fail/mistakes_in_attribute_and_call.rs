include!("../support.rs");

#[idempotent(scope = "test", key = idd)]
async fn charge(tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| charge(store).await;
}
