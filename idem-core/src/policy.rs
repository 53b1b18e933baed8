//! What the attribute said about a handler.

use std::time::Duration;

use crate::identity::Operation;

/// How one handler is to be run: the attribute's arguments that are known when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The handler's stable name.
    pub operation: Operation,
    /// How long a finished record is replayed, counted from its completion.
    pub ttl: Duration,
    /// What a duplicate gets while the first still runs.
    pub in_flight: InFlight,
    /// What a request without a key gets.
    pub missing_key: MissingKey,
    /// How a leased handler holds its right to run. Transactional ones have no use for it.
    pub lease: Lease,
}

/// How a leased run holds its right to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// How long the right lives without a renewal. It is renewed every third of this time.
    pub duration: Duration,
    /// How often the run may be begun, the first time included. After that it is refused.
    pub attempts: u32,
    /// Whether a run may begin. If not, only one that was begun and abandoned is gone on with.
    pub may_begin: bool,
}

impl Lease {
    /// 30 seconds, and ten attempts.
    pub const DEFAULT: Self = Self { duration: Duration::from_secs(30), attempts: 10, may_begin: true };
}

impl Default for Lease {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a duplicate gets while the first still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// 409 with `Retry-After`, at once.
    Conflict,
    /// The first one's reply, if it comes within this time, else 409. No connection is held while it waits.
    Wait(Duration),
    /// 202 with `Retry-After`, at once.
    Accepted,
}

/// What a request without a key gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// 400.
    Reject,
    /// An ordinary run in a transaction, with nothing recorded.
    Run,
}
