//! The store in memory keeps the contract.

use std::time::{Duration, SystemTime};

use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
use idem_testkit::Subject;

struct Memory(MemoryStore<u64>);

impl Subject for Memory {
    type Store = MemoryStore<u64>;
    type Tx = MemoryTx<u64>;
    type Lease = MemoryLease<u64>;

    async fn create() -> Self {
        Self(MemoryStore::new(0))
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

idem_testkit::contract!(Memory);
