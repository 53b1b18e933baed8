//! The SQLite store.

mod accepted;
mod epoch;
pub(crate) mod error;
mod intents;
mod lease;
mod leases;
mod mark;
mod migrate;
mod operate;
mod records;
mod session;
mod store;
mod sweep;
mod tx;

pub use lease::{SqliteLease, SqliteSteps};
pub use store::{SqliteStore, SqliteStoreBuilder};
pub use tx::SqliteTx;
