include!("../support.rs");

#[idempotent(scope = "test", key = id)]
async fn charge(out: &mut Vec<u8>, tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
    tx.write().await;
    out.push(1);
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore, out: &mut Vec<u8>| charge(out, store, 1).await;
}
