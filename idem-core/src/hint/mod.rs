//! A hint in front of a database: what this process or its neighbours know of finished requests, so that a retry is
//! answered without a connection.
//!
//! ```
//! # trait Builder: Sized { fn hint(self, hint: impl idem_core::hint::Hint) -> Self { self } }
//! # fn example(builder: impl Builder) {
//! use idem_core::hint::Memory;
//!
//! // 64 MiB of replies.
//! let store = builder.hint(Memory::new(64 * 1024 * 1024));
//! # }
//! ```
//!
//! The page [`hints`](crate::docs::hints) says what a hint is worth, and what it costs.
//!
//! # Rules
//! - A hint answers a replay, or that the request is running. It never says that a request may run, nor refuses it for
//!   another reason: that is for the database.
//! - It answers only what is proven. Each entry has a [tag](Secret) over its content, its identity and its fingerprint,
//!   names the [epoch](Epoch) of the database in which it was true, and ends before its record does by the database's
//!   clock. The database has confirmed epoch and clock at most [two seconds](Confirmed::LIFE) ago.
//! - Everything else is a miss: another program's value, one of a later release, a silent server.
//!
//! # For authors of stores
//! A store keeps the [entries](Entry) of its replies as they are stored, so sealed contents stay sealed, and answers
//! [`Store::hinted`](crate::store::Store::hinted) by [`judge`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

mod confirmed;
mod entry;
mod judge;
mod memory;
mod secret;
mod turns;

pub use confirmed::{Confirmed, Epoch, Known, Moment};
pub use entry::{Content, Entry};
pub use judge::{Answer, judge};
pub use memory::Memory;
pub use secret::{Name, Secret};
pub use turns::{Turn, Turns};

use crate::observer::Source;

/// A place for entries that may be lost at any time.
///
/// It need not be right: what it returns is checked. It must not take long. A store asks no longer than some
/// milliseconds, and does not wait for a write.
pub trait Hint: Send + Sync + 'static {
    /// The value of a name, if there is one.
    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Option<Bytes>>;

    /// Keeps a value for so long at most.
    fn put<'a>(&'a self, name: &'a Name, value: Bytes, lifetime: Duration) -> BoxFuture<'a, ()>;

    /// Removes a value.
    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, ()>;

    /// What names and tags are made with. All processes that share the entries have the same.
    fn secret(&self) -> &Secret;

    /// What the observer is told of an answer. A hint in [memory](Source::Memory) is asked for each request, another
    /// one only for a request that is probably a retry.
    fn source(&self) -> Source;
}

/// What a store's hints say to a request.
#[derive(Debug)]
pub enum Hinted {
    /// The answer, and where it is from.
    Answer(Answer, Source),
    /// The database decides. The turn, if there is one, ends with the claim.
    Ask(Option<Turn>),
}
