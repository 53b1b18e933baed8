//! The condition of a record.

use crate::record::{Record, State, Timestamp};

/// The condition of a record: each record is in exactly one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// A process holds the lease of the run.
    Held,
    /// A leased run that no process holds: it was released after an error, or its process has died. The next retry, or
    /// [`resume_abandoned`](crate::resume_abandoned), resumes it.
    Abandoned,
    /// A rejected run that no process holds and that is not completely undone. The next retry undoes the rest.
    Undoing,
    /// The handler ended its transaction itself. What was kept is not known.
    Poisoned,
    /// Finished, with a reply.
    Completed,
    /// Finished, and the reply was too large to be stored.
    Oversized,
    /// Finished, and its `ttl` is over. It refuses retries.
    Late,
    /// Given up by an operator. It refuses retries.
    GivenUp,
    /// A later release wrote it, or somebody changed it.
    Unreadable,
    /// It counts as absent. The sweep removes it.
    Expired,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Held,
        Self::Abandoned,
        Self::Undoing,
        Self::Poisoned,
        Self::Completed,
        Self::Oversized,
        Self::Late,
        Self::GivenUp,
        Self::Unreadable,
        Self::Expired,
    ];

    /// The conditions that somebody has to look at, unless retries end them.
    pub const STUCK: [Self; 4] = [Self::Abandoned, Self::Undoing, Self::Poisoned, Self::Unreadable];

    /// The stable name.
    ///
    /// ```
    /// use idem_core::operate::Condition;
    ///
    /// assert_eq!(Condition::GivenUp.name(), "given_up");
    /// assert_eq!(Condition::named("given_up"), Some(Condition::GivenUp));
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Abandoned => "abandoned",
            Self::Undoing => "undoing",
            Self::Poisoned => "poisoned",
            Self::Completed => "completed",
            Self::Oversized => "oversized",
            Self::Late => "late",
            Self::GivenUp => "given_up",
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
        }
    }

    /// The condition of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.name() == name)
    }

    /// What it means, and what becomes of the record, in a sentence for an operator.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Held => "a process runs it",
            Self::Abandoned => "it was cut off or has failed; the next retry resumes it after its finished steps",
            Self::Undoing => "it was rejected, and its steps are not all undone; the next retry undoes the rest",
            Self::Poisoned => "its handler ended the transaction itself; look what was kept, retries are refused",
            Self::Completed => "it has run; retries get its reply",
            Self::Oversized => "it has run, and its reply was too large to be stored; retries are refused",
            Self::Late => "it has run, and its ttl is over; retries are refused",
            Self::GivenUp => "an operator has given it up; retries are refused",
            Self::Unreadable => "this release cannot read it; retries are refused",
            Self::Expired => "it counts as absent; a retry runs",
        }
    }

    /// The condition of a record at a time.
    #[must_use]
    pub fn of(record: &Record, now: Timestamp) -> Self {
        if record.has_expired(now) {
            return Self::Expired;
        }
        match record.state {
            State::Leased { until, .. } if until > now => Self::Held,
            State::Leased { is_rejected: true, .. } => Self::Undoing,
            State::Leased { .. } => Self::Abandoned,
            State::Running => Self::Poisoned,
            State::Completed(_) | State::Oversized if record.refuses_retries(now) => Self::Late,
            State::Completed(_) => Self::Completed,
            State::Oversized => Self::Oversized,
            State::Late => Self::Late,
            State::GivenUp => Self::GivenUp,
            State::Unreadable => Self::Unreadable,
        }
    }
}
