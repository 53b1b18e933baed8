//! Records of [`idem_core`] in Redis or Valkey, for handlers whose effects are all calls; what they promise holds **while
//! Redis loses no acknowledged write**.
//!
//! ```no_run
//! use idem_core::{Error, idempotent};
//! use idem_redis::{RedisSteps, RedisStore};
//! # async fn deliver(_: &str, _: &str) -> Result<String, Error> { Ok(String::new()) }
//!
//! #[idempotent(key = id, scope = "mails", ttl = "24h")]
//! async fn send(steps: &mut RedisSteps, id: &str, to: &str) -> Result<String, Error> {
//!     steps.call("deliver", async |key| deliver(to, key.as_str()).await).await
//! }
//! ```
//!
//! The page [`redis`](docs::redis) has what is promised and what is not. The handler's steps are those of
//! [`idem_core::Steps`], and the page [`leased`](idem_core::docs::leased) says how to write them.
//!
//! # Features
//! | feature | what it brings | default |
//! |---|---|---|
//! | `axum` | the store in a router's state that is an `Arc` | on |
//! | `seal` | `idem_core::seal::Keyring`, for [`RedisStoreBuilder::seal`] | off |
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod docs {
    //! Pages for users. They are also in the repository, in `idem-redis/docs`.

    #[doc = include_str!("../docs/redis.md")]
    pub mod redis {}
}

// The store: its handle, its lease, and what an operator asks of it.
mod builder;
mod lease;
mod operate;
mod store;
mod tx;

// The hint in front of a database.
mod hint;

// What is stored, and under which names.
mod keys;
mod record;
mod running;

// The server: what it is sent, and what its failures mean.
mod connection;
mod failure;
mod scripts;

pub use builder::{ConnectError, RedisStoreBuilder};
pub use hint::RedisHint;
pub use lease::{RedisLease, RedisSteps};
pub use store::RedisStore;
pub use tx::RedisTx;
