include!("../support.rs");

struct Shelf;

impl Shelf {
    #[idempotent(scope = "stock", key = id, operation = "stock.reserve")]
    fn reserve<'a>(&'a self, tx: &'a mut PgTx, id: u64) -> ::core::pin::Pin<Box<dyn ::core::future::Future<Output = Result<u64, idem_core::Error>> + ::core::marker::Send + 'a>> {
        Box::pin(async move {
            tx.write().await;
            Ok(id)
        })
    }
}

fn main() {
    let _ = async |store: &PgStore| Shelf.reserve(store, 1).await;
}
