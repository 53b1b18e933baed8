include!("../support.rs");

#[idempotent(scope = "test", key = id, fingerprint = none)]
async fn charge(tx: &mut PgTx, id: u64, none: u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    Ok(id + none)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1, 2).await;
}
