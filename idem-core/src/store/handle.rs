//! A store, and its answer to a request.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Kind;
use crate::hint::Hinted;
use crate::observer::{Observer, Source};
use crate::record::{Reply, Request};
use crate::runs::Runs;

/// Where records are stored. A store is a cheap handle: clones share everything.
pub trait Store: Clone + Send + Sync + 'static {
    /// The size limit of a stored reply, in bytes of its headers and body. A longer reply leaves a tombstone.
    fn reply_limit(&self) -> usize;

    /// The runs in progress in this process. A shutdown waits for them.
    fn runs(&self) -> &Runs;

    /// Who is told what happens to requests.
    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        None
    }

    /// What kind of store this is, as the observer is told.
    fn source(&self) -> Source {
        Source::Sql
    }

    /// What the store's [hints](crate::hint) say to a request, before its identity is claimed. A store without hints
    /// says nothing.
    ///
    /// # Cancel safety
    /// Safe.
    fn hinted(&self, _request: &Request) -> impl Future<Output = Hinted> + Send {
        ready(Hinted::Ask(None))
    }

    /// How long a run may take if its handler has no deadline of its own.
    fn deadline(&self) -> Duration {
        DEFAULT_DEADLINE
    }
}

/// The deadline of a run if neither its handler nor its store says otherwise: a minute.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// How long an answer waits for the release of its run. A statement that the handler gave up may keep the connection
/// busy for long, and the answer need not wait for that.
pub const RELEASE_PATIENCE: Duration = Duration::from_millis(250);

/// A store's answer to a request.
#[derive(Debug)]
pub enum Claimed<T> {
    /// The identity is claimed: run the handler with this value.
    Run(T),
    /// The request has run: answer with this reply. Its run was completed so long ago, if the store knows.
    Replay(Reply, Option<Duration>),
    /// The request must not run now, and there is no reply to give. After [`Kind::KeyInFlight`] ask again.
    Refuse(Kind),
    /// The leased run may go on, but not before this time has passed: attempts that were released are spaced.
    TooSoon(Duration),
}
