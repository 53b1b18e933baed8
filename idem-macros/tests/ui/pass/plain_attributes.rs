use crate::support::*;
use crate::twice::block_on;

use idem_core::Error;

#[idempotent(key = id, scope = "test")]
async fn inside_the_body(tx: &mut PgTx, id: u64) -> Result<u64, Error> {
    #![allow(unused_mut)]
    #![expect(unused_variables)]
    let mut unused = 1;
    tx.write().await;
    Ok(id)
}

#[idempotent(key = id, scope = "test")]
async fn inside_the_body_behind_a_pattern((id, amount): (u64, u64), tx: &mut PgTx) -> Result<u64, Error> {
    #![allow(unused_mut)]
    let mut sum = id + amount;
    tx.write().await;
    Ok(sum)
}

#[idempotent(key = id, scope = "test", fingerprint = id)]
async fn on_the_parameters(
    #[allow(unused_mut)] mut tx: &mut PgTx,
    id: u64,
    #[expect(unused_variables)] clock: u64,
    #[cfg_attr(not(any()), allow(unused_variables))] zone: u64,
    #[expect(unused_variables)] (from, to): (u64, u64),
) -> Result<u64, Error> {
    tx.write().await;
    Ok(id)
}

struct Shelf(u64);

impl Shelf {
    #[idempotent(key = id, scope = self.0, operation = "shelf.take")]
    async fn take(&self, tx: &mut PgTx, id: u64) -> Result<u64, Error> {
        #![allow(unused_mut)]
        let mut amount = self.0;
        tx.write().await;
        Ok(id + amount)
    }
}

#[test]
fn attributes_of_a_plain_function_stay() {
    let store = PgStore::default();
    for _ in 0..2 {
        assert_eq!(block_on(inside_the_body(&store, 1)).unwrap(), 1);
        assert_eq!(block_on(inside_the_body_behind_a_pattern((1, 2), &store)).unwrap(), 3);
        assert_eq!(block_on(on_the_parameters(&store, 1, 2, 3, (4, 5))).unwrap(), 1);
        assert_eq!(block_on(Shelf(1).take(&store, 1)).unwrap(), 2);
    }
    assert_eq!(store.writes(), 4);
}
