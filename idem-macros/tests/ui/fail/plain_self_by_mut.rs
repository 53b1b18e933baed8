include!("../support.rs");

struct Till(u64);

impl Till {
    #[idempotent(scope = self.0, key = id, operation = "till.charge")]
    async fn charge(&mut self, tx: &mut PgTx, id: u64) -> Result<u64, idem_core::Error> {
        tx.write().await;
        self.0 += id;
        Ok(id)
    }
}

fn main() {
    let _ = async |store: &PgStore| Till(1).charge(store, 1).await;
}
