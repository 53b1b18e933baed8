include!("../support.rs");

struct Shelf(u64);

impl Shelf {
    #[idempotent(scope = self.0, key = id, operation = "stock.reserve")]
    fn reserve<'a>(&'a self, tx: &'a mut PgTx, id: u64) -> ::core::pin::Pin<Box<dyn ::core::future::Future<Output = Result<u64, idem_core::Error>> + ::core::marker::Send + 'a>> {
        Box::pin(async move {
            tx.write().await;
            Ok(id)
        })
    }
}

fn main() {
    let _ = async |store: &PgStore| Shelf(1).reserve(store, 1).await;
}
