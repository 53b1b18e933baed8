include!("../support.rs");

struct Till(u64);

impl Till {
    #[idempotent(scope = self.0, key = id)]
    async fn charge(&self, tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
        tx.write().await;
        Ok(id + self.0)
    }
}

fn main() {
    let _ = async |store: &PgStore| Till(1).charge(store, 1).await;
}
