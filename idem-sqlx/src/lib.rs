//! Postgres and SQLite stores for [`idem_core`].
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod recent;
mod retry;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod sweeper;

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::{Isolation, PgStore, PgStoreBuilder, PgTx};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteStore, SqliteStoreBuilder, SqliteTx};
pub use sweeper::{Sweep, Sweeper};
