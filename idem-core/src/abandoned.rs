//! Runs that were begun and abandoned, for a process to go on with where no client comes again.

use std::cell::Cell;
use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catch::catch;
use crate::error::{Error, Kind};
use crate::identity::Identity;
use crate::policy::Lease;
use crate::record::Input;
use crate::store::Store;

/// A store that finds abandoned runs.
pub trait Recover: Store {
    /// A page of the leased runs of this operation that are not over, whose lease is, and whose input was recorded:
    /// those behind the place, in the order of their places. No run, no further page.
    ///
    /// # Errors
    /// The store could not be asked.
    fn abandoned(
        &self,
        operation: &str,
        after: Option<Place>,
    ) -> impl Future<Output = Result<Vec<Abandoned>, Error>> + Send;
}

/// An abandoned run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// Where it stands among the others.
    pub place: Place,
    /// What its first attempt recorded with `record_input`.
    pub input: Input,
}

/// Where a run stands among those of its operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its scope.
    pub scope: String,
    /// The SHA-256 of its key.
    pub key_hash: Vec<u8>,
}

/// What came of abandoned runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// How many the handler answered with `Ok`.
    pub succeeded: u64,
    /// How many it answered with `Err`, final ones included, or panicked in, or could not be given, since their input
    /// cannot be read.
    pub failed: u64,
}

tokio::task_local! {
    /// The run that is to be gone on with.
    static RESUMING: Resuming;
}

struct Resuming {
    operation: String,
    place: Place,
    /// Whether it was asked for. From then on, what its body calls may begin.
    is_met: Cell<bool>,
}

impl Resuming {
    fn is(&self, identity: &Identity) -> bool {
        identity.operation.as_str() == self.operation
            && identity.scope.as_str() == self.place.scope
            && identity.key.hash().as_slice() == self.place.key_hash
    }
}

/// How the run may be claimed. Whoever goes on with abandoned runs begins none: the run may be over by now, or expired.
pub(crate) fn lease_for(identity: &Identity, lease: &Lease) -> Result<Lease, Error> {
    let of = |resuming: &Resuming| {
        if resuming.is(identity) {
            // However often the handler asks.
            resuming.is_met.set(true);
            return Ok(Lease { may_begin: false, ..*lease });
        }
        if resuming.is_met.get() {
            return Ok(*lease);
        }
        let words = "what `record_input` recorded leads to another operation, scope or key than the run's own";
        Err(Error::new(Kind::NothingToResume).caused_by(words))
    };
    RESUMING.try_with(of).unwrap_or(Ok(*lease))
}

/// What `record_input` records: JSON. That it can be read again is for the one to say who reads it.
pub(crate) fn written<T: Serialize + ?Sized>(input: &T) -> Result<Input, Error> {
    let json = serde_json::to_vec(input);
    json.map(|json| Input(json.into())).map_err(|error| {
        Error::new(Kind::ReplyFailed).caused_by(error).because("the input could not be recorded; nothing was run")
    })
}

/// Gives the recorded input of each abandoned run of an operation to the handler, one after the other.
///
/// The stores have this as a method, with an example: `PgStore::resume_abandoned`.
///
/// # Errors
/// The store could not be asked for abandoned runs. Those before were given to the handler.
///
/// # Cancel safety
/// Dropped, the run at hand is what the handler's own cancel safety says.
pub async fn resume_abandoned<S, T, F, R, E>(
    store: &S,
    operation: &str,
    handler: impl Fn(T) -> F,
) -> Result<Resumed, Error>
where
    S: Recover,
    T: DeserializeOwned,
    F: Future<Output = Result<R, E>>,
{
    let mut resumed = Resumed::default();
    let mut after = None;
    loop {
        let page = store.abandoned(operation, after).await?;
        after = page.last().map(|last| last.place.clone());
        if after.is_none() {
            return Ok(resumed);
        }
        for run in page {
            let is_ok = match serde_json::from_slice::<T>(&run.input.0) {
                Ok(input) => {
                    let (operation, is_met) = (operation.to_owned(), Cell::new(false));
                    let resuming = Resuming { operation, place: run.place, is_met };
                    // One that panics must not keep the others from being gone on with.
                    let handled = catch(async { handler(input).await.is_ok() });
                    RESUMING.scope(resuming, handled).await.unwrap_or(false)
                }
                Err(error) => {
                    // Not its words, which may quote the input.
                    let (line, column) = (error.line(), error.column());
                    let code = Kind::RecordUnreadable.code();
                    tracing::error!(target: "idem", code, operation, line, column, "an abandoned run's input is unreadable");
                    false
                }
            };
            if is_ok {
                resumed.succeeded += 1;
            } else {
                resumed.failed += 1;
            }
        }
    }
}
