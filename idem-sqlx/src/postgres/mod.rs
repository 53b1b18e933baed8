//! The Postgres store.

pub(crate) mod error;
mod lease;
mod leases;
mod migrate;
mod records;
mod session;
mod statements;
mod store;
mod sweep;
mod tx;

pub use lease::{PgLease, PgSteps};
pub use store::{Isolation, PgStore, PgStoreBuilder};
pub use tx::PgTx;
