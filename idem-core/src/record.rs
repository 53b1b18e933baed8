//! What is stored about a request.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;

/// A request to run something once: its identity, what was asked, and how long its record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks, by which key.
    pub identity: Identity,
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// How long the finished record is replayed, counted from its completion.
    pub ttl: Duration,
    /// What [`resume_abandoned`](crate::resume_abandoned) gives to a handler that goes on with the run. Recorded by leased
    /// runs only.
    pub input: Option<Input>,
}

/// What a function was called with, encoded like a result (see [`Value`](crate::Value)).
#[derive(Clone, PartialEq, Eq)]
pub struct Input(pub Bytes);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may hold the raw key, and whatever else is nobody's business.
        write!(f, "Input({} bytes)", self.0.len())
    }
}

/// The stored row of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was asked, or `None` where it was written by rules that this release does not know.
    pub fingerprint: Option<Fingerprint>,
    /// How far its run came.
    pub state: State,
    /// Who had the right to run.
    pub claim: Claim,
    /// When it stops to count.
    pub expires_at: Timestamp,
}

/// How far the run of a record came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Claimed, not completed, and yet visible: the handler ended the transaction it was lent. Nobody knows what it
    /// kept, so it is refused until it expires.
    Running,
    /// A leased run that is not over: it runs until the lease ends, and may then be taken over.
    Leased {
        /// When the lease ends.
        until: Timestamp,
        /// Which attempt holds it, or held it last: 1 is the first.
        attempt: u32,
        /// Whether it is rejected, and is to be undone.
        is_rejected: bool,
    },
    /// Completed, with its reply. It is replayed.
    Completed(Reply),
    /// Completed, with a reply over the limit, which was not kept. It is refused and does not run again.
    Oversized,
    /// Of a format or state that this release cannot read. It is refused and does not run again.
    Unreadable,
}

/// A reply as it is stored. The store does not look inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How `headers` and `body` are written.
    pub format: Format,
    /// The HTTP status; `None` for the value of a plain function.
    pub status: Option<u16>,
    /// The encoded headers.
    pub headers: Bytes,
    /// The body.
    pub body: Bytes,
}

/// How a reply is written: a number that a later release may add to, and never gives another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format(pub i16);

impl Format {
    /// An HTTP response: status, length-prefixed headers, body.
    pub const HTTP: Self = Self(1);

    /// The result of a plain function: its type's name in place of headers, its text (see [`Value`](crate::Value)) in place of a body.
    pub const VALUE: Self = Self(2);

    /// The final error of a plain function, written like a result.
    pub const ERROR: Self = Self(3);
}

/// What to store when a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its reply.
    Reply(Reply),
    /// That its reply was over the limit.
    Oversized,
}

/// A random token: the right to run one attempt, and the proof of having run it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim([u8; 16]);

impl Claim {
    /// A token that nobody else has.
    ///
    /// # Errors
    /// [`Kind::StoreUnavailable`] where the system has no randomness to give.
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
        // A token is a right: logs get enough of it to tell two apart.
        write!(f, "Claim({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// A moment by the database's clock, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);
