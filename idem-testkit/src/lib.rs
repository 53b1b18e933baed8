//! The contract that every store keeps, as tests.
//!
//! A store says how it is built, and gets a test for each promise of [`idem_core::store`]:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
//! use idem_testkit::Subject;
//!
//! struct Memory(MemoryStore<u64>);
//!
//! impl Subject for Memory {
//!     type Store = MemoryStore<u64>;
//!     type Tx = MemoryTx<u64>;
//!     type Lease = MemoryLease<u64>;
//!
//!     async fn create() -> Self {
//!         Self(MemoryStore::new(0))
//!     }
//!
//!     fn store(&self) -> &MemoryStore<u64> {
//!         &self.0
//!     }
//!
//!     async fn write(tx: &mut MemoryTx<u64>) {
//!         **tx += 1;
//!     }
//!
//!     async fn written(&self) -> u64 {
//!         self.0.state().await
//!     }
//!
//!     async fn now(&self) -> SystemTime {
//!         self.0.time()
//!     }
//!
//!     async fn pass(&self, time: Duration) {
//!         self.0.advance(time);
//!     }
//!
//!     async fn sweep(&self) -> u64 {
//!         self.0.sweep()
//!     }
//! }
//!
//! idem_testkit::contract!(Memory);
//! # fn main() {}
//! ```
//!
//! # Limitations
//! - What only faults of a wire show, and what a handler can do to the transaction that it is lent, is for the store's
//!   own tests.

use std::future::Future;
use std::time::{Duration, SystemTime};

use idem_core::store::{Context, Lease, Recover, Transaction};

pub mod leased;
pub mod logs;
pub mod redis;
mod support;
pub mod transactional;
pub mod writes;

/// A store of leased runs to be tested, empty. Every [`Subject`] is one. A store without transactions implements this
/// trait alone, and asks for [`leased_contract!`].
pub trait Leases: Sized + Send + Sync + 'static {
    /// The store.
    type Store: Recover;
    /// Its lease.
    type Lease: Lease<Store = Self::Store>;

    /// A new one, which nobody else knows.
    fn create() -> impl Future<Output = Self> + Send;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// The time by the store's clock.
    fn now(&self) -> impl Future<Output = SystemTime> + Send;

    /// Lets this time pass by the store's clock, or makes everything that is stored as much older.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Removes what has expired, and says how many records that was.
    fn sweep(&self) -> impl Future<Output = u64> + Send;
}

impl<S: Subject> Leases for S {
    type Store = <S as Subject>::Store;
    type Lease = <S as Subject>::Lease;

    async fn create() -> Self {
        <S as Subject>::create().await
    }

    fn store(&self) -> &Self::Store {
        Subject::store(self)
    }

    async fn now(&self) -> SystemTime {
        Subject::now(self).await
    }

    async fn pass(&self, time: Duration) {
        Subject::pass(self, time).await;
    }

    async fn sweep(&self) -> u64 {
        Subject::sweep(self).await
    }
}

/// A store to be tested, empty, and what is written beside it.
pub trait Subject: Sized + Send + Sync + 'static {
    /// The store.
    type Store: Recover;
    /// Its transaction.
    type Tx: Context<Store = Self::Store> + Transaction<Store = Self::Store>;
    /// Its lease.
    type Lease: Lease<Store = Self::Store, Tx = Self::Tx>;

    /// A new one, which nobody else knows.
    fn create() -> impl Future<Output = Self> + Send;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Writes something in a transaction.
    fn write(tx: &mut Self::Tx) -> impl Future<Output = ()> + Send;

    /// How often something was written and committed.
    fn written(&self) -> impl Future<Output = u64> + Send;

    /// The time by the store's clock.
    fn now(&self) -> impl Future<Output = SystemTime> + Send;

    /// Lets this time pass by the store's clock, or makes everything that is stored as much older.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Removes what has expired, and says how many records that was.
    fn sweep(&self) -> impl Future<Output = u64> + Send;
}

/// A test for each promise. The crate that asks needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! contract {
    ($subject:ty) => {
        $crate::transactional_contract!($subject);
        $crate::leased_contract!($subject);
        $crate::writes_contract!($subject);
    };
}

/// Each function here, and a macro that makes a test of each.
macro_rules! contracts {
    ($dollar:tt $macro:ident in $module:ident for $bound:ident: $($(#[$doc:meta])* async fn $name:ident($subject:ident) $body:block)*) => {
        $(
            $(#[$doc])*
            pub async fn $name<S: $crate::$bound>() {
                $crate::logs::watch();
                let $subject = S::create().await;
                $body
            }
        )*

        /// A test for each function of this module.
        #[macro_export]
        macro_rules! $macro {
            ($dollar subject:ty) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        $dollar crate::$module::$name::<$dollar subject>().await;
                    }
                )*
            };
        }
    };
}
pub(crate) use contracts;
