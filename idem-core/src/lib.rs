//! Idempotent handlers: the claim on a client's key, everything the handler writes, and its reply are one commit.
//!
//! ```
//! use axum::extract::FromRef;
//! use axum::http::StatusCode;
//! use idem_core::idempotent;
//! # use idem_core::store::{Claimed, Context, Outcome, Rejected, Runs, Store};
//! # use idem_core::{Disposition, Error, Request};
//! # #[derive(Clone)] struct PgStore(Runs);
//! # impl Store for PgStore {
//! #     fn reply_limit(&self) -> usize { 0 }
//! #     fn runs(&self) -> &Runs { &self.0 }
//! # }
//! # struct PgTx;
//! # impl Context for PgTx {
//! #     type Store = PgStore;
//! #     async fn claim(_: &PgStore, _: &Request) -> Result<Claimed<Self>, Error> { Ok(Claimed::Run(Self)) }
//! #     async fn complete(self, _: &Outcome) -> Result<(), Error> { Ok(()) }
//! #     async fn reject(self, _: &Outcome) -> Result<Rejected, Error> { Ok(Rejected::Stored) }
//! #     async fn release(self) -> Result<(), Error> { Ok(()) }
//! #     async fn begin_unrecorded(_: &PgStore) -> Result<Self, Error> { Ok(Self) }
//! #     async fn finish_unrecorded(self, _: Disposition) -> Result<(), Error> { Ok(()) }
//! # }
//! # struct CurrentUser(u64);
//! # impl<S: Sync> axum::extract::FromRequestParts<S> for CurrentUser {
//! #     type Rejection = StatusCode;
//! #     async fn from_request_parts(_: &mut http::request::Parts, _: &S) -> Result<Self, StatusCode> { Ok(Self(1)) }
//! # }
//! # impl idem_core::ToScope for CurrentUser {
//! #     fn to_scope(&self) -> Result<idem_core::Scope, idem_core::Error> { self.0.to_scope() }
//! # }
//! # async fn insert_payment(_: &mut PgTx, _: &CurrentUser, _: &str) {}
//!
//! #[idempotent(scope = user, ttl = "24h")]
//! async fn create_payment(user: CurrentUser, tx: &mut PgTx, order: String) -> StatusCode {
//!     insert_payment(tx, &user, &order).await;
//!     StatusCode::CREATED
//! }
//!
//! # #[derive(Clone)]
//! # struct App { store: PgStore }
//! # impl FromRef<App> for PgStore { fn from_ref(app: &App) -> Self { app.store.clone() } }
//! # let store = PgStore(Runs::default());
//! let app = axum::Router::new()
//!     .route("/payments", axum::routing::post(create_payment))
//!     .with_state(App { store });
//! # let _: axum::Router = app;
//! ```
//!
//! A retry gets the first reply, with `Idempotent-Replayed: true`. A duplicate in flight gets 409 with `Retry-After`,
//! the same key with another body 422. One caller never sees another's reply. A crash leaves all or nothing.
//!
//! Off the web, the same attribute with a `key = …` goes on any async function: a consumer, a webhook's worker, a job.
//! [`message`] says what a consumer does with its result, [`observe`] whether it was replayed, and [`begin`] is the same
//! without a macro.
//!
//! What cannot be one transaction, such as a charge at a provider, runs leased, in recorded [`Steps`].
//!
//! The stores and their contexts (`PgStore` and `PgTx`, `SqliteStore` and `SqliteTx`) are in `idem-sqlx`; this crate
//! knows no database. [`idempotent`] lists the attribute's arguments, [`http`] what an Axum handler's caller sees,
//! [`store`] what another store would owe, [`compiler`] what the compiler says to each mistake.
//!
//! # Rules
//! - The `&mut` parameter is the context, and its type decides how the handler runs. There is exactly one.
//! - A record is found by scope, operation and key, side by side. Only the key's SHA-256 is kept.
//! - What becomes of the writes and the reply is the handler's [`Disposition`].
//!
//! # Limitations
//! - What a handler does outside of its transaction (a call to another service, a mail) is not undone by a crash and
//!   is done again by the retry.
//! - A key counts until its record expires. After that the same request runs again.
//! - A handler that ends the transaction itself (raw `COMMIT` or `ROLLBACK`) is found out when it returns, its caller
//!   gets `transaction_ended`, and its key does not run again until it expires; what it had committed stays. Between a
//!   raw `ROLLBACK` and the handler's end the key is free: a duplicate that comes just then runs, and so does a retry
//!   where the process dies there, or where the handler begins another transaction and fails in it.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bounds;
#[doc = include_str!("../docs/compiler.md")]
pub mod compiler {}

mod asked;
mod begin;
mod function;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod http;
#[cfg(feature = "memory")]
#[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
pub mod memory;
pub mod message;
mod observe;
mod resume;

mod steps;

pub mod store;

mod catch;
mod claim;
mod renewal;
mod runs;

mod encoding;
mod value;

pub mod machine;

mod entry;
mod policy;
mod record;

mod disposition;
mod fingerprint;
mod identity;
mod json;

mod error;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

pub use begin::{Guard, Settled, Start, Stored, begin};
pub use disposition::Disposition;
pub use error::{Error, Kind};
pub use fingerprint::{Fingerprint, Unordered, unordered};
pub use idem_macros::idempotent;
pub use identity::{Identity, Key, Operation, Scope, ToKey, ToScope};
pub use observe::{Observed, observe};
pub use record::Request;
pub use resume::{Resumed, resume_abandoned};
pub use steps::{StepKey, Steps};
pub use value::Value;
