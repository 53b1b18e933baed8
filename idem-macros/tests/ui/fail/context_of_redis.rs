include!("../support.rs");

#[idempotent(scope = "mails", key = id)]
async fn send(tx: &mut RedisTx, id: u64) -> Result<u64, idem_core::Error> {
    let _ = tx;
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| send(store, 1).await;
}
