//! Rule 36: a plain function whose key is a UUID of version 7.
#![cfg(feature = "memory")]

use std::time::{Duration, UNIX_EPOCH};

use idem_core::memory::{MemoryStore, MemoryTx};
use idem_core::{Error, Kind, idempotent};

#[idempotent(key = id, scope = "stock", ttl = "1h", first_sent = refuse)]
async fn reserve(tx: &mut MemoryTx<u32>, id: &str) -> Result<u32, Error> {
    **tx += 1;
    Ok(**tx)
}

#[idempotent(key = id, scope = "stock", ttl = "1h", first_sent = ignore)]
async fn ignoring(tx: &mut MemoryTx<u32>, id: &str) -> Result<u32, Error> {
    **tx += 1;
    Ok(**tx)
}

#[idempotent(key = id, scope = "stock", ttl = "1h")]
async fn by_default(tx: &mut MemoryTx<u32>, id: &str) -> Result<u32, Error> {
    **tx += 1;
    Ok(**tx)
}

/// A UUID of version 7 that was made so long before the store's time.
fn uuid(store: &MemoryStore<u32>, ago: Duration) -> String {
    let since = (store.time() - ago).duration_since(UNIX_EPOCH).expect("after 1970");
    let hex = format!("{:012x}", since.as_millis());
    format!("{}-{}-7000-8000-000000000000", &hex[..8], &hex[8..])
}

#[tokio::test]
async fn r36_a_key_says_when_a_plain_function_was_first_called() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let store = MemoryStore::new(0);
    let kind = |result: Result<u32, Error>| result.map_err(|error| error.kind());
    let key = uuid(&store, Duration::ZERO);
    assert_eq!(kind(reserve(&store, &key).await), Ok(1));
    assert_eq!(kind(reserve(&store, &key).await), Ok(1), "it is replayed");
    store.advance(HOUR + Duration::from_secs(1));
    for is_swept in [false, true] {
        assert_eq!(kind(reserve(&store, &key).await), Err(Kind::FirstSentTooOld), "{is_swept}");
        assert_eq!(store.sweep(), u64::from(!is_swept));
    }
    let ahead = uuid(&store, Duration::ZERO).replacen('0', "f", 1);
    assert_eq!(kind(reserve(&store, &ahead).await), Err(Kind::FirstSentInvalid));
    assert_eq!(kind(reserve(&store, "order-17").await), Ok(2), "a key that says nothing");
    assert_eq!(kind(ignoring(&store, &key).await), Ok(3));
    assert_eq!(kind(by_default(&store, &key).await), Ok(4));
    assert_eq!(store.state().await, 4);
}
