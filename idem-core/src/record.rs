//! What is stored about a request.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::first_sent::FirstSent;
use crate::identity::Identity;
use crate::policy::{Retention, Then};
use crate::redacted::{Beginning, Redacted};

/// A request to run something once: its identity, its fingerprint, and how long its record is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The scope, the operation and the key.
    pub identity: Identity,
    /// The fingerprint of what was asked.
    pub fingerprint: Fingerprint,
    /// How long the finished record is replayed: from its completion on, less at most a hundredth. See
    /// [`lateness`](crate::machine::lateness).
    pub ttl: Duration,
    /// What a retry gets when the `ttl` is over.
    pub then: Then,
    /// When the client says that it first sent the request. `None`: nothing is known of that.
    pub first_sent: Option<FirstSent>,
    /// Whether the client says that it has sent the request before. It decides nothing: a [hint](crate::hint) outside of
    /// the process is asked for such a request.
    pub is_retry: bool,
    /// The input that [`resume_abandoned`](crate::resume_abandoned) gives to the handler when it resumes the run. Only
    /// leased runs record it.
    pub input: Option<Input>,
}

impl Request {
    /// The shortest `ttl`.
    pub const MIN_TTL: Duration = Duration::from_secs(1);

    /// The longest `ttl`: 3650 days. A longer one is a wrong unit, or means "for ever".
    pub const MAX_TTL: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

    /// A request whose record is replayed for this long.
    ///
    /// ```
    /// use std::time::Duration;
    /// use idem_core::{Fingerprint, Identity, Request};
    ///
    /// let identity = Identity::new("inventory", "inventory.reserve", "order-17")?;
    /// let request = Request::new(identity, Fingerprint::of_value(&17)?, Duration::from_secs(24 * 60 * 60))?;
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::TtlInvalid`] if the `ttl` is shorter than [`MIN_TTL`](Self::MIN_TTL) or longer than
    /// [`MAX_TTL`](Self::MAX_TTL).
    pub fn new(identity: Identity, fingerprint: Fingerprint, ttl: Duration) -> Result<Self, Error> {
        let request =
            Self { identity, fingerprint, ttl, then: Then::Run, first_sent: None, is_retry: false, input: None };
        request.check_ttl()?;
        Ok(request)
    }

    /// Checks the range of the `ttl`, and of the time for which a later retry is refused. Whoever holds a request can
    /// change the fields, so a store checks them at each claim.
    ///
    /// # Errors
    /// [`Kind::TtlInvalid`].
    pub fn check_ttl(&self) -> Result<(), Error> {
        let is_valid = |time| (Self::MIN_TTL..=Self::MAX_TTL).contains(&time);
        if is_valid(self.ttl) && self.refused_for().is_none_or(is_valid) {
            Ok(())
        } else {
            Err(Error::new(Kind::TtlInvalid))
        }
    }

    /// The same request, with what a retry gets when the `ttl` is over.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use idem_core::{Fingerprint, Identity, Request, Then};
    /// # let identity = Identity::new("inventory", "inventory.reserve", "order-17")?;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let request = Request::new(identity, Fingerprint::none(), DAY)?.then(Then::Refuse(30 * DAY))?;
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::TtlInvalid`] if the time of [`Then::Refuse`] is shorter than [`MIN_TTL`](Self::MIN_TTL) or longer than
    /// [`MAX_TTL`](Self::MAX_TTL).
    pub fn then(self, then: Then) -> Result<Self, Error> {
        let request = Self { then, ..self };
        request.check_ttl()?;
        Ok(request)
    }

    /// For how long after its `ttl` a finished record refuses retries. `None`: they run.
    #[must_use]
    pub fn refused_for(&self) -> Option<Duration> {
        match self.then {
            Then::Run => None,
            Then::Refuse(time) => Some(time),
        }
    }

    /// How long the record of this request lives at least once it has finished, from the time at which the request begins
    /// to run.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use idem_core::{Fingerprint, Identity, Request, Then};
    /// # let identity = Identity::new("inventory", "inventory.reserve", "order-17")?;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let request = Request::new(identity, Fingerprint::none(), DAY)?.then(Then::Refuse(30 * DAY))?;
    /// assert_eq!(request.retention().replayed, DAY);
    /// assert_eq!(request.retention().kept, 31 * DAY);
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention::new(self.ttl, self.then)
    }

    /// The same request, first sent at this time: see [`FirstSent`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use idem_core::{Fingerprint, FirstSent, Identity, Request};
    /// # let identity = Identity::new("inventory", "inventory.reserve", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f")?;
    /// # let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60))?;
    /// let first_sent = FirstSent::of_key(&request.identity.key);
    /// let request = request.with_first_sent(first_sent);
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_first_sent(self, first_sent: Option<FirstSent>) -> Self {
        Self { first_sent, ..self }
    }

    /// The same request, of which its client says that it has sent it before, or for the first time.
    #[must_use]
    pub fn with_retry(self, is_retry: bool) -> Self {
        Self { is_retry, ..self }
    }

    /// The first and the last time, by the store's clock, at which the request may begin to run. A store that inserts a
    /// record before it has looked for one puts this into the condition of its insert.
    #[must_use]
    pub fn may_begin(&self) -> (Timestamp, Timestamp) {
        match self.first_sent {
            // Not for as long as a finished record is kept: what is left of a run that did not finish lives for the `ttl`.
            Some(first_sent) => first_sent.window(self.ttl),
            None => (Timestamp(0), Timestamp(i64::MAX)),
        }
    }

    /// Why the request may not begin to run at this time.
    pub(crate) fn refused_at(&self, now: Timestamp) -> Option<Kind> {
        self.first_sent.and_then(|first_sent| first_sent.refused_at(now, self.ttl))
    }

    /// The same request with the input that [`resume_abandoned`](crate::resume_abandoned) gives to its handler.
    #[must_use]
    pub fn with_input(self, input: Input) -> Self {
        Self { input: Some(input), ..self }
    }
}

/// The recorded input of a function, encoded like a result (see [`Value`](crate::Value)).
#[derive(Clone, PartialEq, Eq)]
pub struct Input(pub Bytes);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Input").field(&Redacted(self.0.len())).finish()
    }
}

/// The stored row of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The fingerprint, or `None` if it was written by rules that this release does not know.
    pub fingerprint: Option<Fingerprint>,
    /// The state of its run.
    pub state: State,
    /// The claim of the run.
    pub claim: Claim,
    /// When the `ttl` is over.
    pub expires_at: Timestamp,
    /// Until when a finished record refuses retries after its `ttl`. `None`: it does not refuse them.
    pub kept_until: Option<Timestamp>,
    /// When its run was completed, if it is over and the store knows that.
    pub completed_at: Option<Timestamp>,
}

impl Record {
    /// A record from the columns of its row.
    #[must_use]
    pub fn new(fingerprint: Option<Fingerprint>, state: State, claim: Claim, expires_at: Timestamp) -> Self {
        Self { fingerprint, state, claim, expires_at, kept_until: None, completed_at: None }
    }

    /// The same record, refusing retries after its `ttl` until this time.
    #[must_use]
    pub fn kept_until(self, kept_until: Option<Timestamp>) -> Self {
        Self { kept_until, ..self }
    }

    /// The same record, whose run was completed at this time.
    #[must_use]
    pub fn with_completed_at(self, completed_at: Option<Timestamp>) -> Self {
        Self { completed_at, ..self }
    }

    /// How long ago the run was completed.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let micros = now.0.saturating_sub(self.completed_at?.0);
        // A clock may have been set back.
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// Whether the record has expired, and so counts as none.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now && self.kept_until.is_none_or(|kept_until| kept_until <= now)
    }

    /// Whether the `ttl` is over and the record has not [expired](Self::has_expired): a retry is refused.
    #[must_use]
    pub fn refuses_retries(&self, now: Timestamp) -> bool {
        self.expires_at <= now && !self.has_expired(now)
    }
}

/// The state of a record's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Claimed, not completed, and yet visible: the handler ended the transaction it was lent. What it committed is not
    /// known, so the request is refused until the record expires.
    Running,
    /// A leased run that is not over. It may be taken over when its lease ends.
    Leased {
        /// When the lease ends.
        until: Timestamp,
        /// The number of the attempt that holds the lease, or held it last: 1 is the first.
        attempt: u32,
        /// How many of the attempts were released after they had run. The others ended without a word, or one of them
        /// runs.
        released: u32,
        /// Whether the run is rejected and still to be undone.
        is_rejected: bool,
    },
    /// Completed. Its reply is replayed.
    Completed(Reply),
    /// Completed with a reply over the limit, which was not stored. The request is refused and does not run again.
    Oversized,
    /// Completed, and its `ttl` is over: the sweep has removed its reply. A retry is refused until the record expires.
    Late,
    /// An operator has given the run up. The request is refused and does not run again.
    GivenUp,
    /// A format or state that this release cannot read. The request is refused and does not run again.
    Unreadable,
}

/// A stored reply. The store does not look inside.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The format of `headers` and `body`.
    pub format: Format,
    /// The HTTP status; `None` for the value of a plain function.
    pub status: Option<u16>,
    /// The encoded headers.
    pub headers: Bytes,
    /// The body.
    pub body: Bytes,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("format", &self.format)
            .field("status", &self.status)
            .field("headers", &Redacted(self.headers.len()))
            .field("body", &Redacted(self.body.len()))
            .finish()
    }
}

/// The format of a reply. A later release may add numbers, and never gives a number another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format(pub i16);

impl Format {
    /// An HTTP response: status, length-prefixed headers, body.
    pub const HTTP: Self = Self(1);

    /// The result of a plain function. Its type's name is stored as the headers, its text (see [`Value`](crate::Value))
    /// as the body.
    pub const VALUE: Self = Self(2);

    /// The final error of a plain function, written like a result.
    pub const ERROR: Self = Self(3);

    /// Marks a format as sealed.
    const SEALED: i16 = 0x100;

    /// The format of a content that is written in this format and then [sealed](crate::seal).
    #[must_use]
    pub fn sealed(self) -> Self {
        Self(self.0 | Self::SEALED)
    }

    /// The format of the content, if it is sealed.
    #[must_use]
    pub fn opened(self) -> Option<Self> {
        (self.0 >= 0 && self.0 & Self::SEALED != 0).then_some(Self(self.0 & !Self::SEALED))
    }
}

/// The outcome to store when a run is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The reply of the run.
    Reply(Reply),
    /// The reply was over the limit: a tombstone is stored.
    Oversized,
}

/// A random token: the right to run one attempt, and the proof of having run it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim([u8; 16]);

impl Claim {
    /// A new random token.
    ///
    /// # Errors
    /// [`Kind::StoreUnavailable`] if the system provides no randomness.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Error::new(Kind::StoreUnavailable).caused_by(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// A stored token.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Claim").field(&Beginning(&self.0)).finish()
    }
}

/// A moment by the database's clock, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);
