include!("../support.rs");

#[idempotent(scope = "test", key = id.parse::<u64>()?)]
async fn charge(tx: &mut PgTx, id: String) -> Result<u64, idem_core::Error> {
    tx.write().await;
    Ok(0)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, String::new()).await;
}
