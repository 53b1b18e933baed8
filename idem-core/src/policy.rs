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
    pub lease: LeaseTerms,
}

/// How a leased run holds its right to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseTerms {
    /// How long the right lives without a renewal. It is renewed every third of this time.
    pub duration: Duration,
    /// How often the run may be begun, the first time included. After that it is refused.
    pub attempts: u32,
}

impl LeaseTerms {
    /// 30 seconds, and ten attempts.
    pub const DEFAULT: Self = Self { duration: Duration::from_secs(30), attempts: 10 };

    /// The same terms with a lease of this length.
    #[must_use]
    pub const fn lasting(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    /// The same terms with so many attempts.
    #[must_use]
    pub const fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a run is claimed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// To run, be it for the first time or behind an earlier attempt.
    Run,
    /// Only to resume what an earlier attempt has begun and abandoned.
    Resume,
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
