//! Resumes abandoned runs whose client does not come again.

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

/// How many abandoned runs were resumed, and how many failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// The number of runs for which the handler returned `Ok`.
    pub succeeded: u64,
    /// The number of runs for which the handler returned `Err` (final errors included) or panicked, or whose input
    /// could not be read. A run whose next attempt [may not begin yet](Kind::AttemptTooSoon) is in neither number.
    pub failed: u64,
}

tokio::task_local! {
    /// The run that is being resumed.
    static RESUMING: Resuming;
}

struct Resuming {
    operation: String,
    place: Place,
    /// The place at which the store has an identity.
    place_of: Box<dyn Fn(&Identity) -> Place + Send>,
    /// Whether the handler has asked for this run. From then on, other functions that its body calls may begin runs.
    is_met: Cell<bool>,
    /// Why the run was refused, or what has ended it.
    refusal: Cell<Option<Kind>>,
}

impl Resuming {
    fn is(&self, identity: &Identity) -> bool {
        identity.operation.as_str() == self.operation && (self.place_of)(identity) == self.place
    }
}

/// The intent with which the run may be claimed. A process that resumes abandoned runs begins none, since the run may
/// be over or expired by now.
pub(crate) fn intent_of(identity: &Identity) -> Result<Intent, Error> {
    let of = |resuming: &Resuming| {
        if resuming.is(identity) {
            // The intent stays the same however often the handler asks.
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

/// Notes for the log why the claim of the resumed run was refused. Other runs that its body calls are not noted.
pub(crate) fn note_refusal_of(identity: &Identity, kind: Kind) {
    // Most calls resume nothing.
    let _not_resuming = RESUMING.try_with(|resuming| {
        // An input that leads to another run is refused before the recorded run is met.
        if resuming.is(identity) || !resuming.is_met.get() {
            resuming.refusal.set(Some(kind));
        }
    });
}

/// Notes the error that ended the steps of a run, or made its result impossible to store.
pub(crate) fn note_end(kind: Kind) {
    let _not_resuming = RESUMING.try_with(|resuming| resuming.refusal.set(Some(kind)));
}

/// Encodes the input for `record_input` as a result is encoded. Whether it can be read again is not checked here.
pub(crate) fn written<T: Serialize + ?Sized>(input: &T) -> Result<Input, Error> {
    encoding::stored(input).map(|text| Input(text.into())).map_err(|error| {
        Error::new(Kind::ReplyFailed).caused_by(error).because("the input could not be recorded; nothing was run")
    })
}

/// Gives the recorded input of each abandoned run of an operation to the handler, one run after the other.
///
/// The stores offer this as a method, with an example: `PgStore::resume_abandoned`.
///
/// # Errors
/// The store could not be asked for abandoned runs. The runs of earlier pages were given to the handler.
///
/// # Cancel safety
/// Dropped, the current run ends as the handler's own cancel safety says.
#[doc(alias = "outbox")]
#[doc(alias = "recover")]
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
            match resume(store, operation, run, &handler).await {
                Ok(()) => resumed.succeeded += 1,
                Err(NotResumed::Refused(Kind::AttemptTooSoon)) => {
                    tracing::debug!(target: "idem", operation, "an abandoned run may not be resumed yet");
                }
                Err(why) => {
                    why.log(operation);
                    resumed.failed += 1;
                }
            }
        }
    }
}

/// Gives one run to the handler. A failure does not stop the other runs from being resumed.
async fn resume<S, T, F, R, E>(
    store: &S,
    operation: &str,
    run: Abandoned,
    handler: &impl Fn(T) -> F,
) -> Result<(), NotResumed>
where
    S: Recover,
    T: DeserializeOwned,
    F: Future<Output = Result<R, E>>,
{
    let store = store.clone();
    let resuming = Resuming {
        operation: operation.to_owned(),
        place: run.place,
        place_of: Box::new(move |identity| store.place(identity)),
        is_met: Cell::new(false),
        refusal: Cell::new(None),
    };
    let handled = async {
        // Caught here: the handler's future, the handler itself, and the code that reads the input may panic.
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

/// Why an abandoned run was not resumed successfully.
enum NotResumed {
    /// The recorded input cannot be read as the handler's input type.
    Unreadable(Unsuitable),
    /// The library refused the run, or the handler panicked.
    Refused(Kind),
    /// The handler answered with an error of its own.
    Failed,
}

impl NotResumed {
    /// Logs the reason for an operator, without the run's scope, key or input.
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
