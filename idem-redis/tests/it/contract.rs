//! The contract of leased runs, on one server and on a cluster. What the rest of the contract asks for, Redis cannot have:
//! see the page `redis`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use idem_core::seal::{Keyring, SealKey};
use idem_redis::{RedisLease, RedisStore};
use idem_testkit::Leases;

use crate::support::{Clustered, Fresh, Single};

macro_rules! subject {
    ($name:ident, $server:ty, $set:expr) => {
        struct $name(Fresh);

        impl Leases for $name {
            type Store = RedisStore;
            type Lease = RedisLease;

            async fn create() -> Self {
                Self(Fresh::with::<$server>($set).await)
            }

            fn store(&self) -> &RedisStore {
                &self.0.store
            }

            async fn now(&self) -> SystemTime {
                let mut connection = self.0.connections().await.remove(0);
                let time = redis::cmd("TIME").query_async(&mut connection).await;
                let (seconds, micros): (u64, u32) = time.expect("the time");
                UNIX_EPOCH + Duration::new(seconds, micros * 1000)
            }

            async fn pass(&self, time: Duration) {
                self.0.pass(time).await;
            }

            async fn sweep(&self) -> u64 {
                self.0.sweep().await
            }
        }
    };
}

subject!(OnOne, Single, |builder| builder);
subject!(OnMany, Clustered, |builder| builder);
subject!(Sealed, Single, |builder| builder.seal(Keyring::new(1, SealKey::from_bytes([1; 32]))));
// A cluster of one machine has its replicas at once.
subject!(Waiting, Clustered, |builder| builder.wait(1, Duration::from_secs(5)));

mod redis_single {
    idem_testkit::leased_contract!(super::OnOne);
}

mod redis_cluster {
    idem_testkit::leased_contract!(super::OnMany);
}

mod redis_sealed {
    idem_testkit::leased_contract!(super::Sealed);
}

mod redis_waiting {
    idem_testkit::leased_contract!(super::Waiting);
}

/// What the store does not take part in is on its page by name, and nothing else is.
#[test]
fn r40_redis_the_page_names_what_the_store_cannot_pass() {
    let page = include_str!("../../docs/redis.md");
    let contracts = [
        include_str!("../../../idem-testkit/src/transactional.rs"),
        include_str!("../../../idem-testkit/src/writes.rs"),
    ];
    let names = |text: &'static str| {
        let functions = text.lines().filter_map(|line| line.trim().strip_prefix("async fn "));
        functions.filter_map(|line| line.strip_suffix("(subject) {"))
    };
    let expected: Vec<_> = contracts.into_iter().flat_map(names).collect();
    let named = page.lines().filter_map(|line| line.strip_prefix("- `r")?.strip_suffix('`'));
    let named: Vec<_> = named.map(|name| format!("r{name}")).collect();
    assert!(expected.len() > 10);
    assert_eq!(named, expected);
}
