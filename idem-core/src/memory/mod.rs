//! A store in memory: for examples, for unit tests of handlers, and as a short example of what a store must provide.
//!
//! ```
//! use idem_core::memory::{MemoryStore, MemoryTx};
//! use idem_core::{Error, idempotent};
//!
//! #[idempotent(scope = "stock", key = order)]
//! async fn reserve(tx: &mut MemoryTx<u32>, order: &str) -> Result<u32, Error> {
//!     **tx -= 1;
//!     Ok(**tx)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
//! let store = MemoryStore::new(10);
//! assert_eq!(reserve(&store, "order-17").await?, 9);
//! assert_eq!(reserve(&store, "order-17").await?, 9, "a retry gets the first result");
//! assert_eq!(store.state().await, 9, "and takes nothing more");
//! # Ok(()) }
//! ```
//!
//! # Rules
//! - The state is the application's own: any `S: Clone + Send`. A transaction lends it to the handler, and restores it
//!   unless it commits.
//! - One transaction runs at a time, and the others wait for it. So each transaction sees what the earlier ones have
//!   committed.
//! - Leases, steps, undos and expiry work as in the other stores, by a clock that [`advance`](MemoryStore::advance)
//!   moves.
//!
//! # Limitations
//! - The store dies with its process, and other processes do not see it: it does not protect against a second charge.
//! - A transaction copies the whole state when it begins. What clones share, such as an `Arc<Mutex<_>>`, is not put back.
//! - A transaction that waits for another one of the same store, or for [`state`](MemoryStore::state), waits for ever.

mod handle;
mod lease;
mod rows;
mod tx;

pub use handle::MemoryStore;
pub use lease::{MemoryLease, MemorySteps};
pub use tx::MemoryTx;
