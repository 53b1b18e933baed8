include!("../support.rs");

struct Till(u64);

#[forbid(unused_variables, unused_mut, dead_code)]
impl Till {
    #[idempotent(scope = self.0, key = idd, operation = "till.charge")]
    async fn charge(&self, tx: &mut PgTx, id: u64, mut amount: u64) -> Result<u64, idem_core::Error> {
        tx.write().await;
        amount += id;
        Ok(amount)
    }
}

fn main() {
    let _ = async |store: &PgStore| Till(1).charge(store, 1, 2).await;
}
