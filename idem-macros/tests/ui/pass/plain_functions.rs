use crate::support::*;
use crate::twice::block_on;

use std::marker::PhantomData;

use idem_core::Error;

#[derive(serde::Serialize, Clone)]
pub struct Event {
    id: String,
    amount: u64,
}

/// Documented.
#[idempotent(key = event.id, scope = "inventory", ttl = "7d")]
pub async fn by_reference(tx: &mut PgTx, event: &Event) -> Result<u64, Error> {
    tx.write().await;
    Ok(event.amount)
}

#[idempotent(key = key, scope = store, operation = "names")]
async fn names(request: u64, context: &mut PgTx, key: Option<&str>, store: &str) -> Result<(), Error> {
    context.write().await;
    let response = request + key.map_or(0, str::len) as u64 + store.len() as u64;
    if response == 0 {
        return Ok(());
    }
    Ok(())
}

#[idempotent(key = id, scope = (tenant, "transfers"), fingerprint = (id, &from.amount))]
#[allow(clippy::needless_lifetimes)]
async fn patterns<'a, T: Send + Sync>(
    Event { id, .. }: Event,
    tx: &'a mut PgTx,
    (from, _to): (&Event, T),
    mut tenant: u32,
) -> Result<String, Error> {
    tenant += 1;
    tx.write().await;
    Ok(format!("{id} {} {tenant}", from.amount))
}

#[idempotent(key = id, scope = "test")]
async fn counts(tx: &mut PgTx, id: u64, mut count: u32) -> Result<(), Error> {
    while count > 0 {
        tx.write().await;
        count -= 1;
    }
    Ok(())
}

/// Two types with a context's name in them, and no context of their own.
#[idempotent(key = id, scope = "test", fingerprint = id)]
async fn given<F>(work: F, tx: &mut PgTx, id: u64, _of: PhantomData<PgTx>) -> Result<u64, Error>
where
    F: AsyncFnOnce(&mut PgTx) -> u64,
{
    Ok(work(tx).await)
}

#[idempotent(key = id, scope = "test", fingerprint = none)]
async fn asked(work: impl Fn(&mut PgTx) -> u64, tx: &mut PgTx, id: u64) -> Result<u64, Error> {
    tx.write().await;
    Ok(work(tx))
}

/// A field and a word in a string that are called as a parameter is, and are none.
#[idempotent(key = event.id, scope = "shippings", fingerprint = (event.amount, "x"))]
async fn alike(tx: &mut PgTx, event: &Event, id: u64, (amount, shipping): (u64, u64)) -> Result<u64, Error> {
    tx.write().await;
    Ok(event.amount + id + amount + shipping)
}

struct Shelf(u64);

impl Shelf {
    #[idempotent(key = id, scope = self.0, operation = "shelf.take", rejects = Self::is_final)]
    async fn take(&self, tx: &mut PgTx, id: u64) -> Result<u64, Text> {
        tx.write().await;
        Self::ok(id)
    }

    fn ok(id: u64) -> Result<u64, Text> {
        if id == 0 { Err(Text(String::new())) } else { Ok(id) }
    }

    fn is_final(error: &Text) -> bool {
        error.0.is_empty()
    }

    #[idempotent(key = id, scope = global)]
    async fn no_self(tx: &mut PgTx, id: u64) -> Result<u64, Text> {
        tx.write().await;
        Self::ok(id)
    }
}

#[derive(serde::Serialize, serde::Deserialize, Debug)]
struct Text(String);

impl From<Error> for Text {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

trait Ship {
    async fn ship(&self, store: &PgStore, id: u64) -> Result<u64, Error>;
}

impl Ship for Shelf {
    #[idempotent(key = id, scope = self.0, operation = "shelf.ship")]
    #[tracing::instrument(skip(self, tx))]
    async fn ship(&self, tx: &mut PgTx, id: u64) -> Result<u64, Error> {
        tx.write().await;
        Ok(id)
    }
}

async fn write(tx: &mut PgTx) -> u64 {
    tx.write().await;
    2
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn a_call_is_answered_as_the_first_was() {
    let store = PgStore::default();
    let event = Event { id: "e1".to_owned(), amount: 1 };
    let calls = async || {
        (
            is_send(by_reference(&store, &event)).await.unwrap(),
            is_send(names(1, &store, Some("k"), "s")).await.unwrap(),
            is_send(patterns(event.clone(), &store, (&event, 1_u8), 7)).await.unwrap(),
            is_send(counts(&store, 1, 3)).await.unwrap(),
            is_send(Shelf(1).take(&store, 1)).await.unwrap(),
            is_send(Shelf::no_self(&store, 1)).await.unwrap(),
            Shelf(1).ship(&store, 1).await.unwrap(),
            given(write, &store, 1, PhantomData).await.unwrap(),
            asked(|_| 3, &store, 1).await.unwrap(),
            alike(&store, &event, 1, (1, 1)).await.unwrap(),
        )
    };
    let first = block_on(calls());
    assert_eq!(first, (1, (), "e1 1 8".to_owned(), (), 1, 1, 1, 2, 3, 4));
    assert_eq!(store.writes(), 12);
    assert_eq!(block_on(calls()), first);
    assert_eq!(store.writes(), 12);
}
