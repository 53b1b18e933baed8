//! The Postgres store.

pub(crate) mod error;
mod fitness;
mod in_time;
mod intents;
mod lease;
mod leases;
mod migrate;
mod records;
mod schema;
mod session;
mod statements;
mod store;
mod sweep;
mod sweeps;
mod timer;
mod tx;

pub use lease::{PgLease, PgSteps};
pub use store::{Isolation, PgStore, PgStoreBuilder};
pub use tx::PgTx;
