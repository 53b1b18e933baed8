include!("../support.rs");

#[derive(serde::Serialize)]
struct Till(u64);

impl Till {
    #[idempotent(scope = "test", key = till.0)]
    async fn charge(tx: &mut PgTx, till: &Self) -> Result<u64, idem_core::Error> {
        tx.write().await;
        Ok(till.0)
    }
}

fn main() {
    let _ = async |store: &PgStore| Till::charge(store, &Till(1)).await;
}
