//! The outcome of a run whose COMMIT got no answer, and the poisoning of keys that must not run again.

use std::future::Future;

use idem_core::machine::{Verdict, verdict};
use idem_core::observer::{self, Event};
use idem_core::store::{Claim, RELEASE_PATIENCE, Store};
use idem_core::{Error, Kind, Request};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::database::{CommitFailed, Database};
use crate::failure::Failure;
use crate::retry;

/// Finds out whether a run was kept: from the answer to its COMMIT or, if no answer came, from its record (rule 16).
pub(crate) async fn find_out<D: Database>(
    store: &D,
    request: &Request,
    claim: Claim,
    committed: Result<(), CommitFailed>,
) -> Result<(), Error> {
    match committed {
        Ok(()) => Ok(()),
        Err(CommitFailed::Unknown(error)) => {
            let error = Failure(error);
            tracing::warn!(target: "idem", %error, "COMMIT did not answer; looking up what became of it");
            // In a box, so that the future of every run does not grow by it.
            let found = Box::pin(look_up(store, request, claim)).await;
            let operation = request.identity.operation.as_str();
            observer::tell(store, || Event::CommitUnknown { operation, verdict: found });
            tracing::error!(target: "idem", operation, verdict = ?found, "COMMIT did not answer; it was looked up");
            meaning(found).map_err(|kind| Error::new(kind).caused_by(error))
        }
        Err(refused) => Err(refused.into()),
    }
}

/// Returns `None` if the record could not be read in time.
async fn look_up<D: Database>(store: &D, request: &Request, claim: Claim) -> Option<Verdict> {
    let found = async {
        for pause in retry::pauses_without_end() {
            match store.find_settled(request, claim).await {
                Ok(record) => return verdict(record.as_ref(), claim),
                Err(error) => tracing::warn!(target: "idem", %error, "the look-up failed; trying again"),
            }
            sleep(pause).await;
        }
        unreachable!("the pauses do not end")
    };
    timeout(store.commit_deadline(), found).await.ok()
}

/// What the caller gets.
fn meaning(found: Option<Verdict>) -> Result<(), Kind> {
    match found {
        Some(Verdict::Kept) => Ok(()),
        Some(Verdict::NotKept) => Err(Kind::StoreUnavailable),
        Some(Verdict::Ended) => Err(Kind::TransactionEnded),
        None => Err(Kind::OutcomeUnknown),
    }
}

/// Runs the end of a run in a task of its own, so that it does not depend on the caller. A shutdown waits for the task.
/// Without a runtime the end is dropped: a connection is closed with it, and a lease ends by itself.
pub(crate) fn in_task<T: Send + 'static>(
    store: &impl Store,
    end: impl Future<Output = T> + Send + 'static,
) -> Option<JoinHandle<T>> {
    let runtime = Handle::try_current().ok()?;
    let counted = store.runs().enter();
    Some(runtime.spawn(async move {
        let _counted = counted;
        end.await
    }))
}

/// Releases a run in a task, and logs an error of it: its caller may be gone.
pub(crate) fn release<F>(store: &impl Store, release: F) -> Option<JoinHandle<Result<(), Error>>>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    in_task(store, async {
        release
            .await
            .inspect_err(|error| tracing::error!(target: "idem", code = error.code(), "a released run: {error}"))
    })
}

/// Releases a run, and waits for it for a short while: a statement that the handler gave up may keep the connection busy
/// (rule 12b).
pub(crate) async fn released<F>(store: &impl Store, end: F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let Some(task) = release(store, end) else { return Ok(()) };
    match timeout(RELEASE_PATIENCE, task).await {
        Ok(released) => released.unwrap_or_else(|_| Err(Error::new(Kind::OutcomeUnknown).caused_by(NO_ANSWER))),
        Err(_elapsed) => Ok(()),
    }
}

/// What became of a task that panicked, or whose runtime shuts down. The error of the task would quote the words of a
/// panic.
const NO_ANSWER: &str = "the task has ended without an answer";

/// Poisons the key in a task: if the caller goes away now, the key must still be poisoned.
pub(crate) async fn ended_in_task(store: &impl Store, ended: impl Future<Output = Error> + Send + 'static) -> Error {
    let error = match in_task(store, ended) {
        Some(task) => task.await.ok(),
        None => None,
    };
    error.unwrap_or_else(|| Error::new(Kind::TransactionEnded).caused_by(NO_ANSWER))
}

/// Poisons the key of a handler that ended the transaction it was lent. Returns the error to answer with.
pub(crate) async fn ended<D: Database>(store: &D, request: &Request, claim: Claim) -> Error {
    poisoned(store, || try_to_poison(store, request, claim)).await
}

/// Repeats `attempt`, which returns whether the key is poisoned, within the commit deadline: what was kept under the
/// key is not known, so it must not run again. Returns the error to answer with.
pub(crate) async fn poisoned<D: Database, F>(store: &D, attempt: impl Fn() -> F) -> Error
where
    F: Future<Output = Result<bool, Error>>,
{
    let mut failed = None;
    let attempts = async {
        for pause in retry::pauses_without_end() {
            match attempt().await {
                Ok(true) => {
                    failed = None;
                    return;
                }
                Ok(false) => {}
                // Another transaction holds the row and is about to end, or the database is away.
                Err(error) if matches!(error.kind(), Kind::RetryLater | Kind::StoreUnavailable) => failed = Some(error),
                Err(error) => {
                    failed = Some(error);
                    return;
                }
            }
            sleep(pause).await;
        }
    };
    let has_ended = timeout(store.commit_deadline(), attempts).await.is_ok();
    let error = Error::new(Kind::TransactionEnded);
    match failed {
        Some(failed) => error.caused_by(failed),
        None if has_ended => error,
        None => error.caused_by(Error::new(Kind::KeyInFlight)),
    }
}

/// Returns true if a record keeps the key from running: the run's own if the handler committed it, another run's if one
/// ran meanwhile, or else the run's claim, which is inserted again and committed.
async fn try_to_poison<D: Database>(store: &D, request: &Request, claim: Claim) -> Result<bool, Error> {
    let mut session = store.begin().await?;
    let mut is_poisoned = store.insert(&mut session, request, claim).await?;
    if !is_poisoned {
        match store.find(&mut session, &request.identity).await? {
            (Some(record), now) if !record.has_expired(now) => return Ok(true),
            (Some(expired), _) => {
                is_poisoned = store.replace(&mut session, request, claim, expired.claim).await?;
            }
            (None, _) => {}
        }
    }
    if is_poisoned {
        store.commit(session).await?;
    }
    Ok(is_poisoned)
}
