//! What an application is told about its requests, as typed events: for metrics, traces and alerts.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use idem_core::memory::MemoryStore;
//! use idem_core::observer::{Event, Observer, Outcome};
//!
//! #[derive(Default)]
//! struct Replays(AtomicU64);
//!
//! impl Observer for Replays {
//!     fn observe(&self, event: &Event<'_>) {
//!         if let Event::Settled(settled) = event && settled.outcome == Outcome::Replay {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! let store = MemoryStore::new(()).observed_by(Arc::new(Replays::default()));
//! ```
//!
//! The stores of `idem-sqlx` take an observer by their builders. The page [`observability`](crate::docs::observability)
//! has the metrics that are made of these events.
//!
//! # Rules
//! - Each request is told once, when it is [settled](Settled): after its commit, and before its answer is sent. A
//!   request that was dropped before that is told as [`Outcome::Dropped`].
//! - No event has a scope, a key or content in it. The names of operations and of steps are in the program.
//! - An observer is called where the event happens. It must not block; what takes longer belongs in a task of its own.
//! - A panic of an observer is caught and changes no answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::disposition::Disposition;
use crate::error::Kind;
use crate::machine::Verdict;
use crate::store::Store;

mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod outage;
mod teller;
mod trace;
mod watch;

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use metrics::Metrics;
pub(crate) use outage::Outages;
pub(crate) use teller::{StepWatch, Teller};
pub use trace::TraceParent;
pub(crate) use watch::Watch;

/// Is told what happens to requests.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of an event. It is called where the event happens, so it must not block.
    fn observe(&self, event: &Event<'_>);
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A request has claimed its key and runs its handler. Its [`Settled`] follows.
    RunBegan {
        /// The operation.
        operation: &'static str,
        /// The number of the attempt: 1 is the first.
        attempt: u32,
    },
    /// A request is settled.
    Settled(Settled),
    /// A leased run was taken over: this is not its first attempt. The earlier attempt was released, or it ended without
    /// a word, by a crash or by the loss of its lease.
    TakenOver {
        /// The operation.
        operation: &'static str,
        /// The number of the attempt that has taken over.
        attempt: u32,
    },
    /// A run has lost its lease and is given up. It is told once for each run.
    LeaseLost {
        /// The operation.
        operation: &'static str,
    },
    /// A lease was not renewed in one try. The next try follows.
    RenewalFailed {
        /// The operation.
        operation: &'static str,
        /// Why, or `None` if the store did not answer in time.
        kind: Option<Kind>,
    },
    /// A COMMIT got no answer, and its outcome was looked up.
    CommitUnknown {
        /// The operation.
        operation: &'static str,
        /// What the look-up has shown, or `None` if nothing is known: the next attempt resolves it.
        verdict: Option<Verdict>,
    },
    /// A step of a recorded leased run has ended.
    Step {
        /// The operation.
        operation: &'static str,
        /// The step's name.
        step: &'e str,
        /// How it has ended.
        result: StepResult,
        /// How long it took.
        took: Duration,
    },
    /// The undo of a step of a recorded leased run has ended.
    Undo {
        /// The operation.
        operation: &'static str,
        /// The name of the step that it undoes.
        step: &'e str,
        /// How it has ended.
        result: StepResult,
        /// How long it took.
        took: Duration,
    },
    /// A batch of a sweep has removed expired records.
    Swept {
        /// How many.
        removed: u64,
    },
    /// The background sweep has looked what is left, after each of its passes.
    Backlog(Backlog),
}

/// A settled request: what became of it, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// The operation.
    pub operation: &'static str,
    /// What became of the request.
    pub outcome: Outcome,
    /// The error that the caller got, if it got one. [`Kind::code`] is its stable name.
    pub kind: Option<Kind>,
    /// The disposition of the run, if the handler has answered.
    pub disposition: Option<Disposition>,
    /// The number of the attempt, if the handler ran: 1 is the first.
    pub attempt: Option<u32>,
    /// What gave the answer: the store, or a [hint](crate::hint) in front of it.
    pub source: Source,
    /// From the beginning of the request to its claim, or to the answer if there was no claim. Includes a wait for
    /// another run of the request.
    pub claim: Duration,
    /// From the claim to the answer of the handler, if the handler ran.
    pub run: Option<Duration>,
    /// From the answer of the handler to the end of the commit or rollback, if the handler has answered.
    pub commit: Option<Duration>,
    /// How long ago the run was completed whose reply is replayed, by the database's clock.
    pub age: Option<Duration>,
    /// The trace of the run whose reply is replayed, if its request had the header `traceparent`: what a trace of this
    /// request should link to.
    pub first_traceparent: Option<TraceParent>,
    /// The size of the stored reply, in bytes of its headers and body.
    pub reply_size: Option<u64>,
    /// Whether the reply was over the store's limit: a tombstone was stored.
    pub is_oversized: bool,
}

impl Settled {
    /// A request with this outcome and nothing else, from an SQL store: for the test of an observer, which sets the
    /// fields that it asks for.
    #[must_use]
    pub const fn new(operation: &'static str, outcome: Outcome) -> Self {
        Self {
            operation,
            outcome,
            kind: None,
            disposition: None,
            attempt: None,
            source: Source::Sql,
            claim: Duration::ZERO,
            run: None,
            commit: None,
            age: None,
            first_traceparent: None,
            reply_size: None,
            is_oversized: false,
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler ran, and its writes and its reply are committed.
    Run,
    /// The handler ran and was rejected: its reply is stored, and its writes are undone.
    Rejected,
    /// The handler ran and was released: nothing is stored, and a retry runs.
    Released,
    /// The handler ran without a record, because the request needs none or has no key.
    Unrecorded,
    /// The handler ran, and the run ended by an error.
    Failed,
    /// The stored reply of an earlier run was the answer.
    Replay,
    /// The same request is running.
    InFlight,
    /// The key belongs to another request.
    KeyReused,
    /// The request has no key.
    KeyMissing,
    /// The retry came after the reply's `ttl`, and late retries are refused.
    TooLate,
    /// The store cannot be reached, or is busy. Nothing has run.
    Unavailable,
    /// Another refusal. Nothing has run.
    Refused,
    /// The caller went away before the request was settled.
    Dropped,
}

impl Outcome {
    /// The value of the attribute `outcome`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Rejected => "rejected",
            Self::Released => "released",
            Self::Unrecorded => "unrecorded",
            Self::Failed => "failed",
            Self::Replay => "replay",
            Self::InFlight => "in_flight",
            Self::KeyReused => "key_reused",
            Self::KeyMissing => "key_missing",
            Self::TooLate => "too_late",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }

    /// The outcome of a request that was refused before its handler ran.
    fn of_refusal(kind: Kind) -> Self {
        match kind {
            Kind::KeyInFlight => Self::InFlight,
            Kind::KeyReused => Self::KeyReused,
            Kind::KeyMissing => Self::KeyMissing,
            Kind::RetryTooLate | Kind::FirstSentTooOld => Self::TooLate,
            Kind::StoreUnavailable | Kind::RetryLater => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// The kind of store that gives an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// An SQL database.
    Sql,
    /// The memory of the process.
    Memory,
    /// A Redis server or cluster.
    Redis,
}

impl Source {
    /// The value of the attribute `source`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// How a step or an undo has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepResult {
    /// It ran, and that is recorded.
    Finished,
    /// An earlier attempt had finished it: its result was read.
    Replayed,
    /// It ended by an error, or was dropped.
    Failed,
}

impl StepResult {
    /// The value of the attribute `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Replayed => "replayed",
            Self::Failed => "failed",
        }
    }
}

/// What a store has left to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// The number of expired records that are not swept yet. Counted up to [`Backlog::MOST`].
    pub expired: u64,
    /// For how long the oldest of these has been expired. Zero if there is none.
    pub oldest: Duration,
    /// The number of leased runs that are not over and that no process holds. Counted up to [`Backlog::MOST`].
    pub abandoned: u64,
}

impl Backlog {
    /// Where the counting stops: it should not cost more than the sweep itself.
    pub const MOST: u64 = 100_000;

    /// The numbers as a store has counted them.
    #[must_use]
    pub const fn new(expired: u64, oldest: Duration, abandoned: u64) -> Self {
        Self { expired, oldest, abandoned }
    }
}

/// Tells the store's observer. Without an observer the event is not made.
pub fn tell<'e>(store: &impl Store, event: impl FnOnce() -> Event<'e>) {
    if let Some(observer) = store.observer() {
        tell_to(observer, &event());
    }
}

/// A panic of an observer must not change the answer to a request whose commit is done.
fn tell_to(observer: &Arc<dyn Observer>, event: &Event<'_>) {
    let observed = catch_unwind(AssertUnwindSafe(|| observer.observe(event)));
    if let Err(panic) = observed {
        tracing::error!(target: "idem", "the observer has panicked");
        // The payload is the observer's. To drop it may panic again.
        std::mem::forget(panic);
    }
}
