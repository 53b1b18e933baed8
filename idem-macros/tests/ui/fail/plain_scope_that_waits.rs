include!("../support.rs");

#[idempotent(scope = tenant_of(id).await, key = id)]
async fn charge(tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
