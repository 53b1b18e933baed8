include!("../support.rs");

#[idempotent(key = id, scope = "test")]
async fn ids(tx: &mut PgTx, id: u64) -> Result<Option<(u64, &'static [u64])>, idem_core::Error> {
    tx.write().await;
    Ok(Some((id, &[1, 2])))
}

fn main() {
    let _ = async |store: &PgStore| ids(store, 1).await.is_ok();
}
