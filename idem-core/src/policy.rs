//! The policy: the attribute's arguments for a handler.

use std::time::Duration;

use crate::identity::Operation;

/// How one handler runs: the attribute's arguments that are known at compile time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The handler's stable name.
    pub operation: Operation,
    /// How long a finished record is replayed: from its completion on, less at most a hundredth.
    pub ttl: Duration,
    /// What a retry gets when the record's `ttl` is over.
    pub then: Then,
    /// What becomes of a request that says when it was first sent.
    pub first_sent: OnFirstSent,
    /// What a duplicate gets while the first request still runs.
    pub in_flight: InFlight,
    /// What a request without a key gets.
    pub missing_key: MissingKey,
    /// How long a run may take. `None`: as the store says.
    pub deadline: Option<Duration>,
    /// The terms of a leased handler's lease. A transactional handler has no use for them.
    pub lease: LeaseTerms,
}

/// The terms of a leased run's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseTerms {
    /// How long the lease lasts without a renewal. It is renewed every third of this time.
    pub duration: Duration,
    /// How many attempts may end without a word, by a crash or by the loss of their lease. After that the run is
    /// refused. An attempt that is released (an error, a panic) is not counted: the next attempts wait instead.
    pub attempts: u32,
}

impl LeaseTerms {
    /// 30 seconds, and ten attempts.
    pub const DEFAULT: Self = Self { duration: Duration::from_secs(30), attempts: 10 };

    /// The same terms with a lease of this length.
    ///
    /// # Panics
    /// If it is shorter than a second, which a slow answer loses, or longer than an hour, for which no next attempt
    /// waits. In a `const`, that is a compile error.
    #[must_use]
    pub const fn lasting(self, duration: Duration) -> Self {
        let milliseconds = duration.as_millis();
        assert!(milliseconds >= 1000 && milliseconds <= 60 * 60 * 1000, "a lease lasts from 1 second to 1 hour");
        Self { duration, ..self }
    }

    /// The same terms with this number of attempts.
    ///
    /// # Panics
    /// If it is 0. In a `const`, that is a compile error.
    #[must_use]
    pub const fn attempts(self, attempts: u32) -> Self {
        assert!(attempts > 0, "a run has at least one attempt");
        Self { attempts, ..self }
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a retry gets when the record's `ttl` is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// It runs, as a new request.
    #[default]
    Run,
    /// It is refused for this time, counted from the end of the `ttl`: see [`Kind::RetryTooLate`].
    ///
    /// [`Kind::RetryTooLate`]: crate::Kind::RetryTooLate
    Refuse(Duration),
}

/// How long the record of a finished request lives.
///
/// With the layer [`Lifetime`](crate::http::Lifetime) it is an extension of each answer of an annotated handler to a
/// request with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// How long the reply is replayed: the `ttl`.
    pub replayed: Duration,
    /// How long the record is kept: as long as that, and then as long as it refuses retries.
    pub kept: Duration,
}

impl Retention {
    /// That of a record with this `ttl`.
    #[must_use]
    pub const fn new(ttl: Duration, then: Then) -> Self {
        let kept = match then {
            Then::Run => ttl,
            Then::Refuse(time) => ttl.saturating_add(time),
        };
        Self { replayed: ttl, kept }
    }
}

/// What becomes of a request that says when it was first sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFirstSent {
    /// Nothing: the time is not looked at.
    Ignore,
    /// It does not begin to run if that is longer ago than the `ttl`: see [`FirstSent`](crate::FirstSent).
    Refuse,
}

/// The purpose of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// To run, for the first time or after an earlier attempt.
    Run,
    /// Only to resume a run that an earlier attempt began and abandoned.
    Resume,
}

/// What a duplicate gets while the first request still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// 409 with `Retry-After`, at once.
    Conflict,
    /// The first request's reply, if it comes within this time, else 409. No connection is held during the wait.
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

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn r25_terms_that_no_lease_can_have_are_refused() {
        let lasting = |milliseconds| {
            catch_unwind(move || LeaseTerms::DEFAULT.lasting(Duration::from_millis(milliseconds))).is_ok()
        };
        assert_eq!([999, 1000, 3_600_000, 3_600_001].map(lasting), [false, true, true, false]);
        assert_eq!(
            [0, 1].map(|attempts| catch_unwind(|| LeaseTerms::DEFAULT.attempts(attempts)).is_ok()),
            [false, true]
        );
    }
}
