//! The store in memory keeps the contract, and so does one that seals what it stores.

use std::time::{Duration, SystemTime};

use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
use idem_core::seal::{Keyring, SealKey};
use idem_testkit::Subject;

macro_rules! subject {
    ($name:ident, $store:expr) => {
        struct $name(MemoryStore<u64>);

        impl Subject for $name {
            type Store = MemoryStore<u64>;
            type Tx = MemoryTx<u64>;
            type Lease = MemoryLease<u64>;

            async fn create() -> Self {
                Self($store)
            }

            fn store(&self) -> &MemoryStore<u64> {
                &self.0
            }

            async fn write(tx: &mut MemoryTx<u64>) {
                **tx += 1;
            }

            async fn written(&self) -> u64 {
                self.0.state().await
            }

            async fn now(&self) -> SystemTime {
                self.0.time()
            }

            async fn pass(&self, time: Duration) {
                self.0.advance(time);
            }

            async fn sweep(&self) -> u64 {
                self.0.sweep()
            }
        }
    };
}

subject!(Memory, MemoryStore::new(0));
subject!(Sealed, MemoryStore::new(0).sealed_by(Keyring::new(1, SealKey::from_bytes([1; 32]))));

mod plain {
    idem_testkit::contract!(super::Memory);
}

mod sealed {
    use idem_core::Kind;
    use idem_core::store::{Claimed, Context, Format, Outcome, Reply};

    use super::{Keyring, MemoryTx, SealKey, Sealed, Subject};

    idem_testkit::contract!(super::Sealed);

    #[tokio::test]
    async fn r35_what_the_store_in_memory_has_sealed_is_read_by_its_key_alone() {
        let subject = Sealed::create().await;
        let identity = idem_core::Identity::new("u1", "pay", "k").expect("an identity");
        let request = idem_core::Request::new(identity, idem_core::Fingerprint::none(), super::Duration::from_secs(60));
        let request = request.expect("a request");
        let reply = Reply { format: Format::VALUE, status: None, headers: "tag".into(), body: "1".into() };
        let Ok(Claimed::Run(tx)) = MemoryTx::claim(subject.store(), &request).await else { panic!("it runs") };
        tx.complete(&Outcome::Reply(reply.clone())).await.expect("kept");
        match MemoryTx::claim(subject.store(), &request).await.expect("an answer") {
            Claimed::Replay(replayed, _) => assert_eq!(replayed, reply),
            _ => panic!("it has run"),
        }
        let other = subject.store().clone().sealed_by(Keyring::new(2, SealKey::from_bytes([2; 32])));
        match MemoryTx::claim(&other, &request).await.expect("an answer") {
            Claimed::Refuse(kind) => assert_eq!(kind, Kind::RecordUnreadable),
            _ => panic!("its key is missing"),
        }
    }
}
