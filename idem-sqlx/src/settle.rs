//! The outcome of a run whose COMMIT got no answer, and the poisoning of keys that must not run again.

use std::iter::repeat;
use std::time::Duration;

use idem_core::machine::{Verdict, verdict};
use idem_core::store::Claim;
use idem_core::{Error, Kind, Request};
use tokio::time::{sleep, timeout};

use crate::database::{CommitFailed, Database};
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
            tracing::warn!(target: "idem", %error, "COMMIT did not answer; looking up what became of it");
            // In a box, so that the future of every run does not grow by it.
            let found = Box::pin(look_up(store, request, claim)).await;
            found.map_err(|kind| Error::new(kind).caused_by(error))
        }
        Err(refused) => Err(refused.into()),
    }
}

async fn look_up<D: Database>(store: &D, request: &Request, claim: Claim) -> Result<(), Kind> {
    let found = async {
        for pause in retry::pauses().chain(repeat(Duration::from_millis(100))) {
            match store.find_settled(request, claim).await {
                Ok(record) => return verdict(record.as_ref(), claim),
                Err(error) => tracing::warn!(target: "idem", %error, "the look-up failed; trying again"),
            }
            sleep(pause).await;
        }
        unreachable!("the pauses do not end")
    };
    match timeout(store.commit_deadline(), found).await {
        Ok(Verdict::Kept) => Ok(()),
        Ok(Verdict::NotKept) => Err(Kind::StoreUnavailable),
        Ok(Verdict::Ended) => Err(Kind::TransactionEnded),
        Err(_elapsed) => Err(Kind::OutcomeUnknown),
    }
}

/// Poisons the key of a handler that ended the transaction it was lent: what the handler kept is not known, so the key
/// must not run again. Returns the error to answer with.
pub(crate) async fn ended<D: Database>(store: &D, request: &Request, claim: Claim) -> Error {
    let error = Error::new(Kind::TransactionEnded);
    match poison(store, request, claim).await {
        Ok(()) => error,
        Err(failed) => error.caused_by(failed),
    }
}

/// Makes sure that a record keeps the key from running, within the commit deadline.
async fn poison<D: Database>(store: &D, request: &Request, claim: Claim) -> Result<(), Error> {
    let poisoned = async {
        for pause in retry::pauses().chain(repeat(Duration::from_millis(100))) {
            match try_to_poison(store, request, claim).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Another transaction holds the row and is about to end.
                Err(error) if error.kind() == Kind::RetryLater => {}
                Err(error) => return Err(error),
            }
            sleep(pause).await;
        }
        unreachable!("the pauses do not end")
    };
    timeout(store.commit_deadline(), poisoned).await.unwrap_or_else(|_elapsed| Err(Error::new(Kind::KeyInFlight)))
}

/// Returns true if a record keeps the key from running: the run's own if the handler committed it, another run's if one ran
/// meanwhile, or else the run's claim, which is inserted again and committed.
async fn try_to_poison<D: Database>(store: &D, request: &Request, claim: Claim) -> Result<bool, Error> {
    let mut session = store.begin().await?;
    let mut is_poisoned = store.insert(&mut session, request, claim).await?;
    if !is_poisoned {
        match store.find(&mut session, &request.identity).await? {
            (Some(record), now) if record.expires_at > now => return Ok(true),
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
