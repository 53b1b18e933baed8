//! A handler is tested without a database: a store in memory runs it.

use idem_core::memory::{MemoryStore, MemoryTx};
use idem_core::{Error, idempotent};

#[idempotent(key = order, scope = "stock", operation = "stock.reserve")]
async fn reserve(tx: &mut MemoryTx<u32>, order: &str) -> Result<u32, Error> {
    **tx -= 1;
    Ok(**tx)
}

#[tokio::test]
async fn a_redelivery_takes_nothing() {
    let store = MemoryStore::new(5);
    assert_eq!(reserve(&store, "order-17").await.expect("reserved"), 4);
    assert_eq!(reserve(&store, "order-17").await.expect("replayed"), 4);
    assert_eq!(store.state().await, 4);
}
