include!("../support.rs");

struct Declined;

#[idempotent(scope = "test", key = id)]
async fn charge(tx: &mut PgTx, id: u64) -> Result<u64, Declined> {
    tx.write().await;
    if id == 0 { Err(Declined) } else { Ok(id) }
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
