include!("../support.rs");

#[idempotent(scope = "test", key = id)]
async fn charge(tx: &mut PgTx, id: u64, clock: impl Fn() -> u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    Ok(id + clock())
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1, || 2).await;
}
