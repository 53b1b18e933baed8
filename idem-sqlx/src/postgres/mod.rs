//! The Postgres store.

mod accepted;
mod connect;
mod epoch;
pub(crate) mod error;
mod far;
mod fitness;
mod in_time;
mod intents;
mod lease;
mod leases;
pub(crate) mod mark;
mod migrate;
mod operate;
#[cfg(test)]
mod portable;
mod records;
mod schema;
mod session;
mod statements;
mod store;
mod sweep;
mod sweeps;
mod timer;
mod tx;

pub use far::Distance;
pub use lease::{PgLease, PgSteps};
pub use store::{Isolation, Locks, PgStore, PgStoreBuilder};
pub use tx::PgTx;
