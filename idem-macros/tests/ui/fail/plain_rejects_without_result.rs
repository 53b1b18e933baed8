include!("../support.rs");

#[idempotent(scope = "test", key = id, rejects = is_final)]
async fn charge(tx: &mut PgTx, id: u64) -> u64 {
    tx.write().await;
    id
}

fn is_final(_: &idem_core::Error) -> bool {
    true
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
