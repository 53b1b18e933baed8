//! Refusals and failures, by kind.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Why a request was not run, or why its run was not committed.
///
/// ```
/// use idem_core::{Error, Kind};
///
/// let error = Error::new(Kind::KeyInFlight);
/// assert_eq!(error.code(), "key_in_flight");
/// assert!(error.retry_after().is_some());
/// ```
///
/// Decide by [`kind`](Error::kind), and show people the message, which holds no secrets. The message does not include
/// the cause: log the [`source`](StdError::source) too, or print the error with `{:?}`. The text may change in any
/// release; the kind's [`code`](Kind::code) does not.
///
/// With the feature `axum` an error is a response: `application/problem+json` with the kind's status.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retry_after: Option<Duration>,
}

/// What went wrong, as far as the caller's next step depends on it.
///
/// Each kind has a stable [`code`](Kind::code). Unless its text says otherwise, nothing of the run was kept, except for
/// the finished steps of a leased run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request has no key, and the handler requires one.
    KeyMissing,
    /// The key is blank, too long or repeated, or has characters that a key cannot have.
    KeyInvalid,
    /// The same request is running now. Ask again later.
    KeyInFlight,
    /// The key belongs to a request with other content. A new request needs a new key.
    KeyReused,
    /// The scope is empty, too long, or has a NUL character. A mistake of the application.
    ScopeInvalid,
    /// The `ttl` is out of its range. A mistake of the application.
    TtlInvalid,
    /// The input of the fingerprint could not be serialised. A mistake of the application.
    FingerprintFailed,
    /// The request's body is over the limit.
    BodyTooLarge,
    /// The request's body ended early or could not be read.
    BodyUnreadable,
    /// The request ran once, but its reply was too large to be stored. It does not run again.
    ReplyTooLarge,
    /// The request ran once, and its reply is no longer kept: the retry came after the record's `ttl`. It does not run
    /// again.
    RetryTooLate,
    /// The request says that it was first sent longer ago than its `ttl`, and there is no record of it: it may have
    /// run. It does not run. See [`FirstSent`](crate::FirstSent).
    FirstSentTooOld,
    /// The time at which the request says that it was first sent cannot be read, or is in the future.
    FirstSentInvalid,
    /// The reply's body failed while it was read, or a result could not be stored.
    ReplyFailed,
    /// The stored record is corrupt or of a newer format. The request does not run again.
    RecordUnreadable,
    /// The outcome of the run is not known: the database did not answer, or a call that the run has made has no answer
    /// yet. A retry resolves this, if it makes the call again.
    OutcomeUnknown,
    /// The handler ended the transaction it was lent, now or in an earlier run. Something may have been committed. The
    /// key does not run again until its record expires.
    TransactionEnded,
    /// A statement of the handler failed, the handler continued as if it had not, and the database refused to commit.
    TransactionAborted,
    /// The database could not order this run among the others (deadlock, serialization failure, busy). Ask again.
    RetryLater,
    /// The database cannot be reached, or cannot work at present: no connection, a full disk, a server that only reads.
    /// The handler was not run, or its run was not committed.
    StoreUnavailable,
    /// The database refused the data of the request: a constraint, or a value that a column cannot hold. The same
    /// request would be refused again.
    DataRefused,
    /// A statement does not fit the database: a missing table or column, a missing right, a feature that the server
    /// does not have. A mistake of the deployment. The same request runs once the mistake is corrected.
    DeploymentBroken,
    /// The database refused a statement for a reason that no other kind covers. An operator must look.
    StoreFailed,
    /// The run took longer than its deadline. It was dropped and rolled back.
    DeadlineExceeded,
    /// The handler panicked.
    Panicked,
    /// A leased run has lost its right to run: another attempt has taken the run over, or the store did not renew the
    /// lease in time. The finished steps stay; the retry resumes after them.
    LeaseLost,
    /// The steps of a leased run do not fit. They differ from the steps that an earlier attempt finished, one occurs
    /// twice, one comes after a failed step, a finished step or a started call is left out, or an undo belongs to no
    /// step. A mistake of the application.
    StepMismatch,
    /// A leased run has used up its attempts: that many ended by a crash or by the loss of their lease. It does not run again until an operator resets its attempts, or its record expires.
    AttemptsExhausted,
    /// An operator has given the run up: it was not finished, and does not run again. What its finished steps have done
    /// was settled by hand, or will be.
    GivenUp,
    /// Attempts of a leased run have failed, and the next one may not begin yet. Ask again after
    /// [`retry_after`](Error::retry_after).
    AttemptTooSoon,
    /// An earlier attempt was rejected and is not undone yet: no further step runs. Let the handler end; its caller
    /// gets the reply of the rejected attempt.
    RunRejected,
    /// A leased run was rejected and is not completely undone yet. The retry undoes the rest.
    UndoFailed,
    /// There is no abandoned run to resume: it is over, or has expired, or its recorded input leads to another key.
    NothingToResume,
}

impl Kind {
    /// The stable name of this kind: what a client or a log query may compare.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::KeyMissing => "key_missing",
            Self::KeyInvalid => "key_invalid",
            Self::KeyInFlight => "key_in_flight",
            Self::KeyReused => "key_reused",
            Self::ScopeInvalid => "scope_invalid",
            Self::TtlInvalid => "ttl_invalid",
            Self::FingerprintFailed => "fingerprint_failed",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyUnreadable => "body_unreadable",
            Self::ReplyTooLarge => "reply_too_large",
            Self::RetryTooLate => "retry_too_late",
            Self::FirstSentTooOld => "first_sent_too_old",
            Self::FirstSentInvalid => "first_sent_invalid",
            Self::ReplyFailed => "reply_failed",
            Self::RecordUnreadable => "record_unreadable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::TransactionEnded => "transaction_ended",
            Self::TransactionAborted => "transaction_aborted",
            Self::RetryLater => "retry_later",
            Self::StoreUnavailable => "store_unavailable",
            Self::DataRefused => "data_refused",
            Self::DeploymentBroken => "deployment_broken",
            Self::StoreFailed => "store_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Panicked => "handler_panicked",
            Self::LeaseLost => "lease_lost",
            Self::StepMismatch => "step_mismatch",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::GivenUp => "given_up",
            Self::AttemptTooSoon => "attempt_too_soon",
            Self::RunRejected => "run_rejected",
            Self::UndoFailed => "undo_failed",
            Self::NothingToResume => "nothing_to_resume",
        }
    }

    /// What the kind means and what to do about it, in one or two sentences.
    const fn detail(self) -> &'static str {
        match self {
            Self::KeyMissing => "this operation needs an idempotency key; send one, and the same one on every retry",
            Self::KeyInvalid => "the idempotency key is not usable; send one key of 1 to 255 visible ASCII characters",
            Self::KeyInFlight => "a request with this idempotency key is still running; retry it later, unchanged",
            Self::KeyReused => {
                "this idempotency key was used for a request with other content; use a new key for a new request"
            }
            Self::ScopeInvalid => "the scope is empty, longer than 255 bytes, or has a NUL character",
            Self::TtlInvalid => {
                "the time for which a record is replayed, or kept after that, is not between 1 second and 3650 days"
            }
            Self::FingerprintFailed => "what the fingerprint is made of could not be serialised",
            Self::BodyTooLarge => "the request's body is over the limit of this server",
            Self::BodyUnreadable => "the request's body could not be read",
            Self::ReplyTooLarge => {
                "this request has run, and its reply was too large to be kept for a retry; look its result up instead"
            }
            Self::RetryTooLate => {
                "this request has run, and its reply is no longer kept; look its result up, it will not run again"
            }
            Self::FirstSentTooOld => {
                "this request was first sent too long ago to begin now, and may have run; look its result up"
            }
            Self::FirstSentInvalid => {
                "the time at which this request was first sent cannot be read, or is more than five minutes in the future"
            }
            Self::ReplyFailed => "the reply's body failed while it was produced; retry the request",
            Self::RecordUnreadable => {
                "this request has run, but its record cannot be read by this version; it will not run again"
            }
            Self::OutcomeUnknown => {
                "whether this request took effect is not known yet; send it again, unchanged, under the same key"
            }
            Self::TransactionEnded => {
                "the handler ended the transaction it was lent; the request may have taken effect and will not run again"
            }
            Self::TransactionAborted => "a statement failed, and the transaction could not commit; retry the request",
            Self::RetryLater => "the database was too busy to order this request; retry it later, unchanged",
            Self::StoreUnavailable => "the database cannot be reached or cannot take this request now; retry it later",
            Self::DataRefused => {
                "the database refused the data of this request; nothing was kept, and the same data is refused again"
            }
            Self::DeploymentBroken => {
                "this deployment does not fit its database; nothing was kept, retry the request when that is corrected"
            }
            Self::StoreFailed => "a statement of this request failed; nothing was kept, an operator has to look at it",
            Self::DeadlineExceeded => {
                "the run took longer than its deadline and was given up; retry it later, unchanged"
            }
            Self::Panicked => "the handler failed; retry the request, unchanged",
            Self::LeaseLost => "another attempt of this request has taken over; retry it later, unchanged",
            Self::StepMismatch => {
                "the steps of this request are not those of its earlier attempt, or put together wrongly; it cannot go on"
            }
            Self::AttemptsExhausted => {
                "this request was cut off as often as it may be tried; an operator has to look at it before it runs again"
            }
            Self::GivenUp => "an operator has given this request up; it will not run again, ask what became of it",
            Self::AttemptTooSoon => "this request has failed, and may not run again yet; retry it later, unchanged",
            Self::RunRejected => "an earlier attempt of this request was rejected; what it did is being undone",
            Self::UndoFailed => {
                "this request was rejected, and what it did is not all undone yet; retry it later, unchanged"
            }
            Self::NothingToResume => "there is no abandoned run with this key; nothing was run",
        }
    }

    /// How long to wait before asking again, if asking again can help.
    const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::KeyInFlight
            | Self::RetryLater
            | Self::StoreUnavailable
            | Self::DeadlineExceeded
            | Self::LeaseLost
            | Self::RunRejected
            | Self::UndoFailed
            | Self::AttemptTooSoon => Some(Duration::from_secs(1)),
            Self::KeyMissing
            | Self::KeyInvalid
            | Self::KeyReused
            | Self::ScopeInvalid
            | Self::TtlInvalid
            | Self::FingerprintFailed
            | Self::BodyTooLarge
            | Self::BodyUnreadable
            | Self::ReplyTooLarge
            | Self::RetryTooLate
            | Self::FirstSentTooOld
            | Self::FirstSentInvalid
            | Self::ReplyFailed
            | Self::RecordUnreadable
            | Self::OutcomeUnknown
            | Self::TransactionEnded
            | Self::TransactionAborted
            | Self::DataRefused
            | Self::DeploymentBroken
            | Self::StoreFailed
            | Self::Panicked
            | Self::StepMismatch
            | Self::AttemptsExhausted
            | Self::GivenUp
            | Self::NothingToResume => None,
        }
    }

    /// Whether no retry of the same request can help.
    ///
    /// ```
    /// use idem_core::Kind;
    ///
    /// assert!(Kind::KeyReused.is_final());
    /// assert!(!Kind::StoreUnavailable.is_final());
    /// ```
    ///
    /// If it is false, send the same request with the same key again: after [`retry_after`](Error::retry_after) if
    /// there is one, and otherwise later and less often. If it is true, the request is refused again as long as its
    /// record lives and nobody changes the application. The page [`errors`](crate::docs::errors) says what to do then.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::KeyMissing
            | Self::KeyInvalid
            | Self::KeyReused
            | Self::ScopeInvalid
            | Self::TtlInvalid
            | Self::FingerprintFailed
            | Self::BodyTooLarge
            | Self::ReplyTooLarge
            | Self::RetryTooLate
            | Self::FirstSentTooOld
            | Self::FirstSentInvalid
            | Self::RecordUnreadable
            | Self::TransactionEnded
            | Self::DataRefused
            | Self::AttemptsExhausted
            | Self::GivenUp => true,
            Self::KeyInFlight
            | Self::BodyUnreadable
            | Self::ReplyFailed
            | Self::OutcomeUnknown
            | Self::TransactionAborted
            | Self::RetryLater
            | Self::StoreUnavailable
            | Self::DeploymentBroken
            | Self::StoreFailed
            | Self::DeadlineExceeded
            | Self::Panicked
            | Self::LeaseLost
            | Self::AttemptTooSoon
            // An instance of the release that began the run can still end it.
            | Self::StepMismatch
            | Self::RunRejected
            | Self::UndoFailed
            | Self::NothingToResume => false,
        }
    }
}

impl Error {
    /// An error of this kind, with the kind's own words.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: Cow::Borrowed(kind.detail()),
            source: None,
            retry_after: kind.retry_after(),
        }))
    }

    /// The refusal of an attempt that may not begin before this time has passed.
    pub(crate) fn too_soon(rest: Duration) -> Self {
        let mut error = Self::new(Kind::AttemptTooSoon);
        error.0.retry_after = Some(rest);
        error
    }

    /// The same error with its cause, for logs and never for a client.
    ///
    /// A refusal over HTTP is logged with its cause: give it nothing that quotes a key, a request, a reply or a row.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with a more exact message. It may reach a client: no secrets, no key, no row.
    #[must_use]
    pub fn because(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// What went wrong, for decisions.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The kind's stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// The message for a client. It holds no secrets.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// How long to wait before asking again, if asking again can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
