//! Idempotent handlers: the claim on a client's key, all writes of the handler, and its reply are one commit.
//!
#![cfg_attr(all(feature = "axum", feature = "memory"), doc = "```")]
#![cfg_attr(not(all(feature = "axum", feature = "memory")), doc = "```ignore")]
//! use axum::http::StatusCode;
//! use idem_core::idempotent;
//! use idem_core::memory::{MemoryStore, MemoryTx};
//! # #[derive(Clone)]
//! # struct Payment { user: u64, order: String }
//! # struct CurrentUser(u64);
//! # impl<S: Sync> axum::extract::FromRequestParts<S> for CurrentUser {
//! #     type Rejection = StatusCode;
//! #     async fn from_request_parts(_: &mut http::request::Parts, _: &S) -> Result<Self, StatusCode> { Ok(Self(1)) }
//! # }
//! # impl idem_core::ToScope for CurrentUser {
//! #     fn to_scope(&self) -> Result<idem_core::Scope, idem_core::Error> { self.0.to_scope() }
//! # }
//!
//! #[idempotent(scope = user, ttl = "24h")]
//! async fn create_payment(user: CurrentUser, tx: &mut MemoryTx<Vec<Payment>>, order: String) -> StatusCode {
//!     tx.push(Payment { user: user.0, order });    // over Postgres: `tx: &mut PgTx`, and SQL
//!     StatusCode::CREATED
//! }
//!
//! let app = axum::Router::new()
//!     .route("/payments", axum::routing::post(create_payment))
//!     .with_state(MemoryStore::new(Vec::new()));
//! # let _: axum::Router = app;
//! ```
//!
//! (`memory` is a feature, for examples and tests; an application takes `PgStore` of `idem-sqlx`.)
//!
//! A retry gets the first reply, with `Idempotent-Replayed: true`. A duplicate in flight gets 409 with `Retry-After`.
//! The same key with another body gets 422. One caller never sees another's reply. After a crash either nothing was
//! committed and the retry runs, or everything was and it is replayed.
//!
//! The stores and their contexts (`PgStore` and `PgTx`, `SqliteStore` and `SqliteTx`) are in `idem-sqlx`, and in
//! `idem-redis` is `RedisStore`, for handlers whose effects are all calls; this crate knows no database.
//!
//! # Where to read on
//! | you want to | read |
//! |---|---|
//! | know every argument of the attribute | [`idempotent`] |
//! | know what the caller of an Axum handler sees | [`http`] |
//! | call a provider, and survive a crash | [`docs::leased`], [`Steps`] |
//! | consume messages, run jobs, take webhooks | [`docs::consumers`], [`message`] |
//! | do it without a macro, or tell a replay | [`begin()`], [`observe()`] |
//! | look a code up | [`docs::errors`], [`Kind`] |
//! | run it in production | [`docs::production`] |
//! | look at a record, mend a run, check a database | [`docs::operating`] |
//! | deploy a new release of a handler | [`docs::releases`] |
//! | test a handler | [`docs::testing`] |
//! | understand a compile error | [`docs::compiler`] |
//! | know exactly what is promised | [`docs::rules`] |
//! | watch it: metrics, logs, alerts | [`docs::observability`], [`observer`] |
//! | know what it costs | [`docs::performance`] |
//! | write a store of your own | [`store`] |
//!
//! # Rules
//! - The `&mut` parameter is the context, and its type decides how the handler runs. A handler has exactly one context.
//! - A record is identified by scope, operation and key, in separate columns. Only the key's SHA-256 is stored.
//! - The handler's [`Disposition`] decides what becomes of the writes and the reply.
//!
//! # Limitations
//! - Effects of a handler outside its transaction (a call to another service, a mail) are not undone by a crash. The
//!   retry does them again.
//! - A key counts until its record expires. After that the same request runs again.
//! - A handler that ends the transaction itself (raw `COMMIT` or `ROLLBACK`) is detected when it returns. Its caller
//!   gets `transaction_ended`, and the key does not run again until its record expires; what the handler had committed
//!   stays. Between a raw `ROLLBACK` and the end of the handler the key is free: a duplicate that arrives in that time
//!   runs. A retry runs, too, if the process dies in that time, or if the handler begins another transaction and fails
//!   in it.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bounds;

pub mod docs {
    //! The pages for users. They are also in the repository, in `idem-core/docs`.
    //!
    //! | page | what it is about |
    //! |---|---|
    //! | [`rules`] | the contract: every rule by its number |
    //! | [`leased`] | steps, foreign calls, undo, and what survives a crash |
    //! | [`consumers`] | Kafka, SQS, webhooks, jobs |
    //! | [`errors`] | every code, and what to do |
    //! | [`production`] | rights, deploys, growth, backups, poolers, logs, shutdown |
    //! | [`operating`] | the command `idem`: its commands, exit codes, and what `doctor` checks |
    //! | [`encryption`] | what is encrypted, with which keys, and how they are rotated |
    //! | [`observability`] | events, metrics, logs, a dashboard, alert rules |
    //! | [`hints`] | answering retries from memory or Redis |
    //! | [`releases`] | what a new release of a handler may change |
    //! | [`testing`] | testing a handler without a database |
    //! | [`performance`] | what it costs, measured |
    //! | [`compiler`] | every compile error, and what to write instead |

    #[doc = include_str!("../docs/rules.md")]
    pub mod rules {}

    // Pages that name a store are tested with the stores, in `idem-sqlx`.
    #[cfg_attr(not(doctest), doc = include_str!("../docs/leased.md"))]
    pub mod leased {}
    #[cfg_attr(not(doctest), doc = include_str!("../docs/consumers.md"))]
    pub mod consumers {}

    #[doc = include_str!("../docs/errors.md")]
    pub mod errors {}

    #[cfg_attr(not(doctest), doc = include_str!("../docs/production.md"))]
    pub mod production {}
    #[doc = include_str!("../docs/operating.md")]
    pub mod operating {}
    #[cfg_attr(not(doctest), doc = include_str!("../docs/encryption.md"))]
    pub mod encryption {}
    #[cfg_attr(not(doctest), doc = include_str!("../docs/hints.md"))]
    pub mod hints {}
    #[cfg_attr(not(doctest), doc = include_str!("../docs/observability.md"))]
    pub mod observability {}
    #[cfg_attr(not(doctest), doc = include_str!("../docs/releases.md"))]
    pub mod releases {}

    #[cfg_attr(any(not(doctest), all(feature = "axum", feature = "memory")), doc = include_str!("../docs/testing.md"))]
    pub mod testing {}

    #[doc = include_str!("../docs/performance.md")]
    pub mod performance {}

    #[doc = include_str!("../docs/compiler.md")]
    pub mod compiler {}
}
#[doc(no_inline)]
pub use docs::compiler;

mod asked;
mod begin;
#[cfg(feature = "console")]
#[cfg_attr(docsrs, doc(cfg(feature = "console")))]
pub mod console;
mod function;
pub mod hint;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod http;
#[cfg(feature = "memory")]
#[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
pub mod memory;
pub mod message;
mod observe;
pub mod observer;
pub mod operate;
mod resume;

mod steps;

pub mod seal;
pub mod store;

mod catch;
mod claim;
mod cut;
mod renewal;
mod runs;

mod encoding;
mod value;

pub mod machine;

mod entry;
mod policy;
mod record;
mod redacted;

mod disposition;
mod fingerprint;
#[cfg(test)]
mod fuzz;
mod identity;
mod json;

mod error;
mod first_sent;
mod hex;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

pub use begin::{Guard, Settled, Start, Stored, begin};
pub use disposition::Disposition;
pub use error::{Error, Kind};
pub use fingerprint::{Fingerprint, Unordered, unordered};
pub use first_sent::FirstSent;
#[doc(alias = "exactly-once")]
#[doc(inline)]
pub use idem_macros::idempotent;
pub use identity::{Identity, Key, Operation, Scope, ToKey, ToScope};
pub use observe::{Observed, observe};
pub use policy::{Retention, Then};
pub use record::Request;
pub use resume::{Resumed, resume_abandoned};
pub use steps::{StepKey, Steps};
pub use value::Value;
