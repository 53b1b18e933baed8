//! Postgres and SQLite stores for [`idem_core`]: the claim, the handler's writes and its reply in one commit.
//!
//! ```no_run
//! use axum::extract::FromRef;
//! use axum::http::StatusCode;
//! use idem_core::{Error, idempotent};
//! use idem_sqlx::{PgStore, PgTx};
//! # use idem_core::{Scope, ToScope};
//! # struct CurrentUser(u64);
//! # impl<S: Sync> axum::extract::FromRequestParts<S> for CurrentUser {
//! #     type Rejection = StatusCode;
//! #     async fn from_request_parts(_: &mut axum::http::request::Parts, _: &S) -> Result<Self, StatusCode> {
//! #         Ok(Self(1))
//! #     }
//! # }
//! # impl ToScope for CurrentUser { fn to_scope(&self) -> Result<Scope, Error> { self.0.to_scope() } }
//!
//! #[idempotent(scope = user, ttl = "24h")]
//! async fn create_note(user: CurrentUser, tx: &mut PgTx, text: String) -> Result<StatusCode, Error> {
//!     let insert = sqlx::query("INSERT INTO notes (author, text) VALUES ($1, $2)").bind(user.0 as i64).bind(text);
//!     insert.execute(&mut *tx).await.map_err(idem_sqlx::into_idem_error)?;
//!     Ok(StatusCode::CREATED)
//! }
//!
//! #[derive(Clone)]
//! struct App { store: PgStore }
//!
//! impl FromRef<App> for PgStore {
//!     fn from_ref(app: &App) -> Self { app.store.clone() }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PgStore::new(sqlx::PgPool::connect("postgres://localhost/notes").await?);
//! store.migrate().await?;
//! let app: axum::Router = axum::Router::new()
//!     .route("/notes", axum::routing::post(create_note))
//!     .with_state(App { store });
//! # Ok(()) }
//! ```
//!
//! Features: `postgres` and `axum` (default), `sqlite`, and `seal` (a keyring that encrypts what is stored). The two databases have the same API: a program moves from one
//! to the other by changing names.
//!
//! Tested on PostgreSQL 15 and 18, and on the SQLite that sqlx bundles.
//!
//! # Tables
//! [`PgStore::migrate`] creates `idem_records`, `idem_journal`, `idem_epoch`, which is for [hints](idem_core::docs::hints),
//! and `idem_migrations`, which has the names of the migrations that have been run. On Postgres it also creates `idem_secret`, which has the value from which advisory locks
//! are computed. The SQL is in `migrations/` of this crate. You may copy the files among your
//! application's own migrations instead.
//!
//! # What a run costs
//! On Postgres a run takes three more round trips than the bare transaction: the claim and a savepoint after `BEGIN`,
//! and the completion before `COMMIT`. A replay takes one round trip if this process finished the run a short while
//! ago, and four otherwise.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
compile_error!("`idem-sqlx` has no database: switch on its feature `postgres` (the default) or `sqlite`");

mod accepted;
mod database;
mod error;
mod failure;
#[cfg(feature = "axum")]
mod for_axum;
mod hints;
mod lease;
mod migrate;
mod migrations;
mod operate;
#[cfg(feature = "postgres")]
mod postgres;
mod recent;
mod release_on_drop;
mod retry;
mod row;
mod running;
mod settle;
mod spare;
#[cfg(feature = "sqlite")]
mod sqlite;
mod sweep;
mod sweeper;

pub use accepted::{Migrations, Naming, RefusedStatement};
pub use error::into_idem_error;
pub use failure::sqlx_error;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::{Distance, Isolation, Locks, PgLease, PgSteps, PgStore, PgStoreBuilder, PgTx};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteLease, SqliteSteps, SqliteStore, SqliteStoreBuilder, SqliteTx};
pub use sweep::Sweep;
pub use sweeper::Sweeper;

/// Doc tests of the README, and of the pages of `idem-core` that name a store.
#[cfg(all(doctest, feature = "postgres"))]
pub mod pages {
    #[doc = include_str!("../../README.md")]
    pub struct Readme;

    #[doc = include_str!("../../idem-core/docs/consumers.md")]
    pub struct Consumers;

    #[doc = include_str!("../../idem-core/docs/encryption.md")]
    pub struct Encryption;

    #[doc = include_str!("../../idem-core/docs/hints.md")]
    pub struct Hints;

    #[doc = include_str!("../../idem-core/docs/leased.md")]
    pub struct Leased;

    #[doc = include_str!("../../idem-core/docs/production.md")]
    pub struct Production;

    #[doc = include_str!("../../idem-core/docs/releases.md")]
    pub struct Releases;
}
