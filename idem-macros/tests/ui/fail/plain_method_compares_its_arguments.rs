include!("../support.rs");

struct Till(u64);

impl Till {
    #[idempotent(scope = user.id, key = id, fingerprint = (id, amount), operation = "till.charge")]
    async fn charge(&self, tx: &mut PgTx, user: &CurrentUser, id: u64, amount: u64) -> Result<u64, idem_core::Error> {
        tx.write().await;
        Ok(user.id + id + amount + self.0)
    }
}

fn main() {
    let _ = async |store: &PgStore, user: &CurrentUser| Till(1).charge(store, user, 1, 2).await;
}
