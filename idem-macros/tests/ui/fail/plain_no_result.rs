include!("../support.rs");

#[idempotent(scope = "test", key = id)]
async fn charge(tx: &mut PgTx, id: u64) -> u64 {
    tx.write().await;
    id
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
