//! An open step, and how it ends.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument;

use crate::catch::no_answer;
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::renewal::OpenStep;
use crate::store::Lease;
use crate::store::Transaction;

/// An open step, with its transaction if it has one.
///
/// It ends in a task of its own, even if its caller is dropped meanwhile: what a step has committed must be known
/// before another process may get the lease.
pub(super) struct Open<L: Lease> {
    /// `Some` until the step ends, if the step has a transaction.
    tx: Option<L::Tx>,
    /// `None` in a request that is not recorded.
    of: Option<Turn<L>>,
}

/// The part of the run that the step holds while it is open.
pub(super) struct Turn<L> {
    pub(super) lease: L,
    /// While this guard is held the lease is not released. It is not released afterwards either if a step has ended its
    /// transaction itself.
    pub(super) busy: OwnedMutexGuard<bool>,
    pub(super) _open: Option<OpenStep>,
}

impl<L: Lease> Open<L> {
    pub(super) fn new(tx: Option<L::Tx>, of: Option<Turn<L>>) -> Self {
        Self { tx, of }
    }

    pub(super) fn tx(&mut self) -> &mut L::Tx {
        self.tx.as_mut().expect("a transaction until it is ended")
    }

    pub(super) async fn undo(self) -> Result<(), Error> {
        let undo = |lease: L, tx| async move {
            match tx {
                Some(tx) => lease.roll_back(tx).await,
                None => Ok(()),
            }
        };
        self.end(Disposition::Release, undo).await
    }

    /// Ends the step by `how`. If nothing is recorded, ends its transaction by the disposition.
    pub(super) async fn end<F>(
        mut self,
        disposition: Disposition,
        how: impl FnOnce(L, Option<L::Tx>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let tx = self.tx.take();
        let Some(mut of) = self.of.take() else {
            return match tx {
                Some(tx) => tx.end(disposition).await,
                None => Ok(()),
            };
        };
        let end = how(of.lease.clone(), tx);
        let task = async move {
            let ended = end.await;
            of.note(&ended);
            ended
        };
        let ended = tokio::spawn(task.in_current_span()).await;
        ended.unwrap_or_else(|error| Err(Error::new(Kind::OutcomeUnknown).caused_by(no_answer(&error))))
    }
}

impl<L> Turn<L> {
    fn note(&mut self, ended: &Result<(), Error>) {
        *self.busy |= ended.as_ref().is_err_and(|error| error.kind() == Kind::TransactionEnded);
    }
}

impl<L: Lease> Drop for Open<L> {
    fn drop(&mut self) {
        // Without a runtime the transaction is rolled back with its connection.
        if let (Some(tx), Some(mut of), Ok(runtime)) = (self.tx.take(), self.of.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let undone = of.lease.roll_back(tx).await;
                of.note(&undone);
                if let Err(error) = undone {
                    tracing::error!(target: "idem", code = error.code(), "a dropped step: {error}");
                }
            });
        }
    }
}
