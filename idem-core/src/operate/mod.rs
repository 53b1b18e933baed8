//! What an operator asks of a store, and what an operator may change.
//!
//! ```
//! # #[cfg(feature = "memory")] {
//! # use idem_core::memory::{MemoryStore, MemoryTx};
//! use idem_core::operate::{Condition, Inspect, Query};
//! # use idem_core::{Error, idempotent};
//! # #[idempotent(scope = "stock", key = order)]
//! # async fn reserve(tx: &mut MemoryTx<u32>, order: &str) -> Result<u32, Error> {
//! #     **tx -= 1;
//! #     Ok(**tx)
//! # }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # let store = MemoryStore::new(10);
//! reserve(&store, "order-17").await?;
//! let page = store.list(&Query::default()).await?;
//! assert_eq!(page.records[0].seen.condition, Condition::Completed);
//! # Ok::<(), Error>(()) }).unwrap() }
//! ```
//!
//! # Rules
//! - [`Inspect`] only reads. [`Operate`] changes records, too. Whoever gets an `Arc<dyn Inspect>` cannot change one.
//! - Nothing here shows content of a request or a reply. A scope is shown in clear: it is personal data if it names a
//!   person, so let only those see it who may. `Debug` does not show it.
//! - Every answer is as old as its question: a request may change a record at the same time.
//! - Times are by the clock of the database.

mod condition;
mod query;

use std::future::{Future, ready};
use std::pin::Pin;

pub use condition::Condition;
pub use query::{Cursor, Listed, Page, Query};

use crate::error::Error;
use crate::identity::{Identity, Scope};
use crate::machine::{Explanation, Retry};
use crate::observer::Backlog;
use crate::record::Timestamp;

/// The answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What an operator asks. It changes nothing, and stands in no request's way.
///
/// # Errors
/// Each of these fails if the store cannot be reached, or if its tables do not fit.
///
/// # Cancel safety
/// Safe: it only reads.
pub trait Inspect: Send + Sync {
    /// What a retry would get now and why, by the decisions that answer requests.
    ///
    /// The record does not say how many attempts its handler allows: a question about a leased handler has the handler's
    /// `terms`.
    fn explain<'a>(&'a self, identity: &'a Identity, retry: &'a Retry) -> Answer<'a, Explanation>;

    /// A page of records, in the order of scope, operation and key hash.
    ///
    /// The store looks at [`MOST_LOOKED_AT`](Query::MOST_LOOKED_AT) records for a page at most, along the primary key. So
    /// a page can be short, or empty, and not be the last: the last page has no [`next`](Page::next).
    fn list<'a>(&'a self, query: &'a Query) -> Answer<'a, Page>;

    /// How many records there are, by operation and condition.
    ///
    /// The store looks at the [`MOST`](Counts::MOST) records that expire last, at most. With more records than that the
    /// counts are of these, and [`is_complete`](Counts::is_complete) is false.
    fn counts(&self) -> Answer<'_, Counts>;

    /// What is left to do: expired records that are not swept, and leased runs that no process holds.
    fn backlog(&self) -> Answer<'_, Backlog>;
}

/// What an operator changes.
///
/// # Errors
/// Each of these fails if the store cannot be reached, or refuses to write.
///
/// # Cancel safety
/// Safe: each change is one transaction. [`forget`](Self::forget) is one for each batch.
pub trait Operate: Inspect {
    /// Removes the finished records of a scope, or counts what would be removed.
    ///
    /// # Rules
    /// - A finished record is removed with its reply. **A retry of it runs again**: forget a scope whose clients are gone.
    /// - A finished record with `then = refuse(…)` loses its reply and goes on refusing retries. So does a tombstone
    ///   whose `ttl` is over.
    /// - What is not finished stays as it is: a run, an abandoned run, a rejection that is not undone, a poisoned key.
    /// - A record that was [given up](Self::give_up) loses its reason, and goes on refusing retries.
    /// - An expired record is removed, whatever it was. A request that is just replacing one wins.
    /// - No [hint](crate::hint) answers for them: the hints of this and of other processes at most two seconds later.
    /// - It works in batches beside requests. A record that a request finishes meanwhile may be left: call it again.
    /// - What stays has the scope in it, so use an opaque identifier as a scope.
    fn forget<'a>(&'a self, scope: &'a Scope, is_dry: bool) -> Answer<'a, Forgotten>;

    /// Resets the attempts of a leased run that has used up its `attempts`, or whose next attempt may not begin yet. The
    /// next retry resumes the run at once, after its finished steps.
    fn reset_attempts<'a>(&'a self, identity: &'a Identity) -> Answer<'a, Change>;

    /// Ends a leased run that cannot go on: its attempts are used up, its undo fails, or a call of it has no answer.
    ///
    /// # Rules
    /// - No attempt of the run changes anything from then on. A retry gets
    ///   [`given_up`](crate::Kind::GivenUp) and never runs, for a hundred years.
    /// - Nothing is undone. What the finished steps have done is for the operator to settle by hand:
    ///   [`explain`](Inspect::explain) lists them, and they are removed with this change.
    /// - A run that a process holds is not given up ([`Change::Held`]): the process may be waiting for the answer of a
    ///   call. Stop the process, or wait until the lease has ended.
    /// - The reason is sealed, as contents are, if the store has a [`Seal`](crate::seal::Seal).
    fn give_up<'a>(&'a self, identity: &'a Identity, reason: &'a Reason) -> Answer<'a, Change>;

    /// Has all [hints](crate::hint) forget what they know: call it after the database was restored from a backup, or
    /// after finished records were removed by hand. The hints of every process are empty at most two seconds later.
    ///
    /// A store without hints has nothing to do.
    fn new_epoch(&self) -> Answer<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}

/// What a change of a run has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is made.
    Made,
    /// Nothing has changed: a process holds the run until this time, or longer.
    Held(Timestamp),
    /// Nothing has changed: there is no leased run that is not over.
    NoRun,
}

/// Why an operator gives a run up: 1 to 500 characters, none of them NUL. It begins and ends with none that is blank or a
/// control character.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// The longest reason, in characters.
    pub const MAX_CHARS: usize = 500;

    /// A reason, without the blanks and the control characters around it. `None` if it is empty or too long, or has a NUL.
    ///
    /// ```
    /// use idem_core::operate::Reason;
    ///
    /// assert_eq!(Reason::new(" refunded by hand, see TICKET-12\n").unwrap().as_str(), "refunded by hand, see TICKET-12");
    /// assert!(Reason::new(" ").is_none());
    /// ```
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter.is_control());
        let is_valid = (1..=Self::MAX_CHARS).contains(&text.chars().count()) && !text.contains('\0');
        is_valid.then(|| Self(text.to_owned()))
    }

    /// A reason that was stored.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reason").field(&crate::redacted::Redacted(self.0.len())).finish()
    }
}

/// What [`forget`](Operate::forget) has done to the records of a scope, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Removed.
    pub removed: u64,
    /// Kept, without the reply or the reason that they had: they go on refusing retries.
    pub emptied: u64,
    /// Kept as they are.
    pub kept: u64,
}

impl Forgotten {
    /// These numbers.
    #[must_use]
    pub fn new(removed: u64, emptied: u64, kept: u64) -> Self {
        Self { removed, emptied, kept }
    }

    /// Whether a record has lost its reply.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.removed + self.emptied > 0
    }
}

impl std::ops::AddAssign for Forgotten {
    fn add_assign(&mut self, other: Self) {
        self.removed += other.removed;
        self.emptied += other.emptied;
        self.kept += other.kept;
    }
}

/// How many records there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The counts, in the order of operation and condition. None of them is of no record.
    pub counted: Vec<Counted>,
    /// False if there are more than [`MOST`](Self::MOST) records, so that others were not counted.
    pub is_complete: bool,
    /// The time by the store's clock.
    pub now: Timestamp,
}

impl Counts {
    /// The most records that are looked at. On Postgres they are read by an index, which takes about a tenth of a second.
    pub const MOST: u32 = 20_000;

    /// Counts from groups, some of which may be of the same operation and condition.
    #[must_use]
    pub fn new(groups: impl IntoIterator<Item = Counted>, now: Timestamp) -> Self {
        let mut counted: Vec<Counted> = Vec::new();
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|one, other| (&one.operation, one.condition).cmp(&(&other.operation, other.condition)));
        for group in groups {
            match counted.last_mut().filter(|last| last.is_of(&group)) {
                Some(last) => (last.records, last.today) = (last.records + group.records, last.today + group.today),
                None => counted.push(group),
            }
        }
        let all: u64 = counted.iter().map(|counted| counted.records).sum();
        Self { counted, is_complete: all < u64::from(Self::MOST), now }
    }
}

/// How many records of an operation are in a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The handler's stable name.
    pub operation: String,
    /// The condition of these records.
    pub condition: Condition,
    /// How many there are.
    pub records: u64,
    /// How many of them began in the last 24 hours.
    pub today: u64,
}

impl Counted {
    fn is_of(&self, other: &Self) -> bool {
        self.operation == other.operation && self.condition == other.condition
    }
}
