include!("../support.rs");

struct Shelf;

impl Shelf {
    #[idempotent(scope = "stock")]
    async fn reserve(&self, tx: &mut PgTx, order: &NewPayment) -> Result<u64, idem_core::Error> {
        tx.write().await;
        Ok(order.amount)
    }
}

fn main() {
    let _ = async |store: &PgStore, order: &NewPayment| Shelf.reserve(store, order).await;
}
