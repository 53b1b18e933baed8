//! What a failed operation means, and its cause without the words of the server.

use std::error::Error as StdError;
use std::fmt;

use idem_core::{Error, Kind};
use redis::{ErrorKind, RedisError};

/// Why an operation has no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It was not carried out.
    NotDone(Kind, Cause),
    /// It may have been carried out, or will be.
    Unknown(Cause),
}

/// The cause of an error, as it may be logged: a server's own words may quote what it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause(pub(crate) String);

impl Failed {
    /// The error of an operation that changes nothing, or that may be carried out late without harm.
    pub(crate) fn harmless(self) -> Error {
        match self {
            Self::NotDone(kind, cause) => Error::new(kind).caused_by(cause),
            Self::Unknown(cause) => Error::new(Kind::StoreUnavailable).caused_by(cause),
        }
    }

    /// The error of an operation whose result somebody has to know.
    pub(crate) fn in_doubt(self) -> Error {
        match self {
            Self::NotDone(kind, cause) => Error::new(kind).caused_by(cause),
            Self::Unknown(cause) => Error::new(Kind::OutcomeUnknown).caused_by(cause),
        }
    }

    /// The failure of a message that came after one of the same operation that may have been carried out.
    pub(crate) fn after(self, is_in_doubt: bool) -> Self {
        match self {
            Self::NotDone(_, cause) if is_in_doubt => Self::Unknown(cause),
            failed => failed,
        }
    }

    pub(crate) fn unknown(why: &str) -> Self {
        Self::Unknown(Cause(why.to_owned()))
    }

    /// An answer that no script of this release gives.
    pub(crate) fn strange() -> Self {
        Self::NotDone(Kind::StoreFailed, Cause("the server's answer is none that a script of this store gives".into()))
    }
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        let code = error.code().map(str::to_owned);
        let cause = Cause(match (&code, error.kind()) {
            (Some(code), _) => format!("Redis answered {code}"),
            (None, kind) => format!("no answer from Redis: {kind:?}"),
        });
        // A server that answers with an error has not begun to write: a script's first write is the one that is refused.
        let done = |kind| Self::NotDone(kind, cause.clone());
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => of_code(code.as_deref(), cause),
            ErrorKind::AuthenticationFailed => done(Kind::DeploymentBroken),
            ErrorKind::ClusterConnectionNotFound => done(Kind::StoreUnavailable),
            ErrorKind::InvalidClientConfig => done(Kind::DeploymentBroken),
            ErrorKind::Io if error.is_connection_refusal() => done(Kind::StoreUnavailable),
            ErrorKind::UnexpectedReturnType | ErrorKind::Client => done(Kind::StoreFailed),
            _ => Self::Unknown(cause),
        }
    }
}

fn of_code(code: Option<&str>, cause: Cause) -> Failed {
    let kind = match code {
        // Somebody else's value under our name.
        Some("WRONGTYPE") => Kind::RecordUnreadable,
        // A full memory, a full disk, too few replicas, a slow script of somebody else's.
        Some(
            "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "READONLY"
            | "TRYAGAIN" | "MOVED" | "ASK",
        ) => Kind::StoreUnavailable,
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Kind::DeploymentBroken,
        _ => Kind::StoreFailed,
    };
    Failed::NotDone(kind, cause)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}
