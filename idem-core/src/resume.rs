//! Runs that were begun and abandoned, for a process to go on with where no client comes again.

use std::cell::Cell;
use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catch::catch;
use crate::encoding::{self, Unsuitable};
use crate::error::{Error, Kind};
use crate::identity::Identity;
use crate::policy::Intent;
use crate::record::Input;
use crate::store::{Abandoned, Place, Recover};

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
    /// Why it was refused, or what has ended it.
    refusal: Cell<Option<Kind>>,
}

impl Resuming {
    fn is(&self, identity: &Identity) -> bool {
        identity.operation.as_str() == self.operation
            && identity.scope.as_str() == self.place.scope
            && identity.key.hash().as_slice() == self.place.key_hash
    }
}

/// How the run may be claimed. A process that resumes abandoned runs begins none: the run may be over by now, or expired.
pub(crate) fn intent_of(identity: &Identity) -> Result<Intent, Error> {
    let of = |resuming: &Resuming| {
        if resuming.is(identity) {
            // However often the handler asks.
            resuming.is_met.set(true);
            return Ok(Intent::Resume);
        }
        if resuming.is_met.get() {
            return Ok(Intent::Run);
        }
        let words = "what `record_input` recorded leads to another operation, scope or key than the run's own";
        Err(Error::new(Kind::NothingToResume).caused_by(words))
    };
    RESUMING.try_with(of).unwrap_or(Ok(Intent::Run))
}

/// Notes why the claim of the run that is resumed was refused, for the log. What its body calls is another run.
pub(crate) fn note_refusal_of(identity: &Identity, kind: Kind) {
    // Most calls resume nothing.
    let _not_resuming = RESUMING.try_with(|resuming| {
        // What leads to another run than the recorded one is refused before it is met.
        if resuming.is(identity) || !resuming.is_met.get() {
            resuming.refusal.set(Some(kind));
        }
    });
}

/// Notes what has ended the steps or the result of a run.
pub(crate) fn note_end(kind: Kind) {
    let _not_resuming = RESUMING.try_with(|resuming| resuming.refusal.set(Some(kind)));
}

/// What `record_input` records, encoded like a result. That it can be read again is for its reader to say.
pub(crate) fn written<T: Serialize + ?Sized>(input: &T) -> Result<Input, Error> {
    encoding::stored(input).map(|text| Input(text.into())).map_err(|error| {
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
            match resume(operation, run, &handler).await {
                Ok(()) => resumed.succeeded += 1,
                Err(why) => {
                    why.log(operation);
                    resumed.failed += 1;
                }
            }
        }
    }
}

/// Gives one run to the handler. Whatever becomes of it, the others are resumed, too.
async fn resume<T, F, R, E>(operation: &str, run: Abandoned, handler: &impl Fn(T) -> F) -> Result<(), NotResumed>
where
    T: DeserializeOwned,
    F: Future<Output = Result<R, E>>,
{
    let resuming = Resuming {
        operation: operation.to_owned(),
        place: run.place,
        is_met: Cell::new(false),
        refusal: Cell::new(None),
    };
    let handled = async {
        // Not only its future may panic, but the handler itself, and what reads the input.
        let ended = catch(async {
            match encoding::read::<T>(&run.input.0) {
                Ok(input) => Ok(handler(input).await.is_ok()),
                Err(why) => Err(why),
            }
        });
        let ended = ended.await;
        match (ended, RESUMING.with(|resuming| resuming.refusal.get())) {
            (Ok(Ok(true)), _) => Ok(()),
            (Ok(Ok(false)), Some(kind)) => Err(NotResumed::Refused(kind)),
            (Ok(Ok(false)), None) => Err(NotResumed::Failed),
            (Ok(Err(why)), _) => Err(NotResumed::Unreadable(why)),
            (Err(_), _) => Err(NotResumed::Refused(Kind::Panicked)),
        }
    };
    RESUMING.scope(resuming, handled).await
}

/// Why an abandoned run was not resumed to its end.
enum NotResumed {
    /// Its recorded input is not what the handler takes.
    Unreadable(Unsuitable),
    /// The library said so, or the handler panicked.
    Refused(Kind),
    /// The handler answered with an error of its own.
    Failed,
}

impl NotResumed {
    /// Says it to an operator, without a word of the run's scope, key or input.
    fn log(&self, operation: &str) {
        match self {
            Self::Unreadable(why) => {
                let code = Kind::RecordUnreadable.code();
                tracing::error!(target: "idem", code, operation, %why, "the input of an abandoned run cannot be read");
            }
            Self::Refused(Kind::KeyInFlight | Kind::LeaseLost) => {
                tracing::debug!(target: "idem", operation, "another process has resumed an abandoned run");
            }
            Self::Refused(kind) => {
                tracing::error!(target: "idem", code = kind.code(), operation, "an abandoned run was not resumed");
            }
            Self::Failed => {
                tracing::warn!(target: "idem", operation, "an abandoned run was resumed, and its handler has failed");
            }
        }
    }
}
