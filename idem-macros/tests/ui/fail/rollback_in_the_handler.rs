include!("../support.rs");

#[idempotent(key = id, scope = "test")]
async fn charge(tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    if id == 0 {
        let _ = tx.rollback().await;
    }
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
