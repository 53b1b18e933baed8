//! What a retry would get, told by the decisions that answer requests.

use std::time::Duration;

use super::decide::{Decision, decide_on, in_transaction};
use crate::entry::EntryKind;
use crate::error::Kind;
use crate::fingerprint::Fingerprint;
use crate::first_sent::FirstSent;
use crate::operate::Condition;
use crate::operate::Reason;
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Record, State, Timestamp};

/// The retry that an operator asks about. By default it asks the same as the first request did, of a handler in one
/// transaction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retry {
    /// What the retry asks. `None`: the same as the first request.
    pub fingerprint: Option<Fingerprint>,
    /// The terms of a leased handler. `None`: the handler runs in one transaction.
    pub terms: Option<LeaseTerms>,
    /// When the request was first sent, if its handler asks for that. `None`: it begins to run whenever it comes.
    pub sent: Option<Sent>,
}

/// When a request was first sent, for a handler with `first_sent = refuse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The time that the request says.
    pub first: FirstSent,
    /// The `ttl` of the handler.
    pub ttl: Duration,
}

/// What a retry would get now, and why. It has no content of a request or a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// What the retry would get.
    pub expected: Expected,
    /// The record that says so, expired or not. A transaction that is under way has none yet.
    pub record: Option<Seen>,
    /// The time by the store's clock.
    pub now: Timestamp,
    /// Who runs it, if somebody does and the store can see it.
    pub holder: Option<Holder>,
    /// The finished and the started steps of a leased run that is not over, in their order.
    pub steps: Vec<SeenStep>,
    /// The reason for which an operator has [given the run up](crate::operate::Operate::give_up).
    pub reason: Option<Reason>,
    /// True if the reason is sealed, and this store cannot open it.
    pub is_reason_sealed: bool,
    /// The first and the last time at which the retry may begin to run, if it says when it was [first sent](Retry::sent).
    pub may_begin: Option<(Timestamp, Timestamp)>,
}

/// What a store knows of a record beyond what decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// When its run began.
    pub created_at: Option<Timestamp>,
    /// The steps of a leased run.
    pub steps: Vec<SeenStep>,
    /// Why it was given up.
    pub reason: Option<Reason>,
    /// True if this process runs it, or an attempt of it.
    pub is_here: bool,
    /// The session of Postgres whose transaction runs it.
    pub session: Option<Session>,
}

/// Who runs a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// True if this process runs it, or an attempt of it. If it is false, another process does.
    pub is_here: bool,
    /// The session of Postgres whose transaction runs it. A leased run has none: its process may have no connection.
    pub session: Option<Session>,
}

/// A session of Postgres, as `pg_stat_activity` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The process on the server.
    pub pid: i32,
    /// The name that the application has given to its connections.
    pub application: String,
    /// When the transaction began. Only a role that may see the activity of the other role sees it.
    pub since: Option<Timestamp>,
}

/// A step without its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenStep {
    /// The place in the journal of the run: 0 is the first.
    pub position: u32,
    /// What was recorded.
    pub kind: EntryKind,
    /// The step's name. A rejection has none.
    pub name: String,
    /// When it was recorded, if the store knows that.
    pub at: Option<Timestamp>,
}

/// What a retry would get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The handler runs from its beginning.
    Run,
    /// The handler resumes as this attempt, after its finished steps.
    Resume(u32),
    /// The next attempt may not begin yet, for this long: [`Kind::AttemptTooSoon`].
    TooSoon(Duration),
    /// The stored reply.
    Replay,
    /// A refusal. Its [`code`](Kind::code) says why.
    Refuse(Kind),
}

/// A record without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// How far its run has come.
    pub stage: Stage,
    /// When it expires.
    pub expires_at: Timestamp,
    /// True if it counts as absent.
    pub has_expired: bool,
    /// What it comes to.
    pub condition: Condition,
    /// When its run began, if the store knows that.
    pub created_at: Option<Timestamp>,
    /// When its run was completed or given up, if that is so.
    pub completed_at: Option<Timestamp>,
    /// Until when it refuses retries after `expires_at`, if it does.
    pub kept_until: Option<Timestamp>,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The handler ended its transaction itself, so the key is poisoned.
    Poisoned,
    /// A leased run that is not over.
    Leased {
        /// When its lease ends, or has ended.
        until: Timestamp,
        /// The number of its latest attempt.
        attempt: u32,
        /// How many of its attempts were released after they had run.
        released: u32,
        /// True for a run that is rejected and not all undone.
        is_rejected: bool,
    },
    /// A stored reply, with its HTTP status if it has one.
    Completed(Option<u16>),
    /// A tombstone: the reply was too large to be stored.
    Oversized,
    /// A finished run whose reply was removed after its `ttl`. Retries are refused until the record expires.
    Late,
    /// An operator has given the run up.
    GivenUp,
    /// A later release wrote it, or somebody changed it.
    Unreadable,
}

/// Explains what a retry would get. `in_flight` is the refusal by a run that is under way and has no record yet.
#[must_use]
pub fn explain(record: Option<&Record>, in_flight: Option<Kind>, retry: &Retry, now: Timestamp) -> Explanation {
    let decision = decide_on(record, retry.fingerprint, now);
    // A run that is under way may have begun when its request still could.
    let refused = in_flight.or_else(|| retry.sent.and_then(|sent| sent.first.refused_at(now, sent.ttl)));
    let expected = match &retry.terms {
        Some(terms) => {
            let decision = decision.within(terms, Intent::Run).unless(refused);
            expected(decision, |resumed| resumed.attempt.saturating_add(1))
        }
        None => expected(in_transaction(decision).unless(refused), |never| match never {}),
    };
    let record = record.map(|record| Seen::of(record, now));
    let may_begin = retry.sent.map(|sent| sent.first.window(sent.ttl));
    let (holder, steps, reason) = (None, Vec::new(), None);
    Explanation { expected, record, now, holder, steps, reason, is_reason_sealed: false, may_begin }
}

impl Explanation {
    /// The same explanation with what the store knows beyond the decision.
    #[must_use]
    pub fn with(self, details: Details) -> Self {
        let Details { created_at, steps, reason, is_here, session } = details;
        let record = self.record.map(|seen| Seen { created_at, ..seen });
        // The record of a transaction is committed at its end: there is none yet, or an expired one.
        let is_held = match &record {
            Some(seen) if !seen.has_expired => seen.condition == Condition::Held,
            _ => is_here || session.is_some(),
        };
        Self { record, steps, reason, holder: is_held.then_some(Holder { is_here, session }), ..self }
    }
}

fn expected<R>(decision: Decision<R>, attempt: impl FnOnce(R) -> u32) -> Expected {
    match decision {
        Decision::Claim | Decision::Replace(_) => Expected::Run,
        Decision::Resume(earlier) => Expected::Resume(attempt(earlier)),
        Decision::TooSoon(_, rest) => Expected::TooSoon(rest),
        Decision::Replay(..) => Expected::Replay,
        Decision::Refuse(kind) => Expected::Refuse(kind),
    }
}

impl Seen {
    /// The same, of a run that began at this time.
    #[must_use]
    pub fn begun_at(self, created_at: Option<Timestamp>) -> Self {
        Self { created_at, ..self }
    }

    /// A record as it is seen at a time.
    #[must_use]
    pub fn of(record: &Record, now: Timestamp) -> Self {
        let stage = match &record.state {
            State::Running => Stage::Poisoned,
            &State::Leased { until, attempt, released, is_rejected } => {
                Stage::Leased { until, attempt, released, is_rejected }
            }
            State::Completed(reply) => Stage::Completed(reply.status),
            State::Oversized => Stage::Oversized,
            State::Late => Stage::Late,
            State::GivenUp => Stage::GivenUp,
            State::Unreadable => Stage::Unreadable,
        };
        Self {
            stage,
            expires_at: record.expires_at,
            has_expired: record.has_expired(now),
            condition: Condition::of(record, now),
            created_at: None,
            completed_at: record.completed_at,
            kept_until: record.kept_until,
        }
    }
}
