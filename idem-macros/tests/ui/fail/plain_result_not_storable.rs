include!("../support.rs");

struct Receipt(u64);

#[idempotent(scope = "test", key = id)]
async fn charge(tx: &mut PgTx, id: u64) -> Result<Receipt, idem_core::Error> {
    tx.write().await;
    Ok(Receipt(id))
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
