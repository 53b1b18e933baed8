//! Undoes the steps of a rejected run.

use std::future::Future;

use tokio::time::Instant;

use super::key::digest;
use super::undo::{Failure, Undo};
use super::{StepKey, Steps, ended};
use crate::catch::catch;
use crate::cut::{cut, within};
use crate::entry::{Entry, EntryKind};
use crate::error::{Error, Kind};
use crate::machine::Journal;
use crate::observer::StepResult;
use crate::record::{Claim, Outcome};
use crate::store::{Context, Lease};

impl<L: Lease> Steps<L> {
    /// Undoes the finished steps that are not undone yet, within the deadline of the run, counted anew. Returns the outcome
    /// that counts: an earlier attempt may have recorded one.
    pub(super) async fn undo_steps(&mut self, outcome: &Outcome) -> Result<Outcome, Error> {
        let cut = cut(self.lost(), self.deadline);
        within(cut, self.undo_recorded(outcome)).await.unwrap_or_else(|kind| Err(Error::new(kind)))
    }

    async fn undo_recorded(&mut self, outcome: &Outcome) -> Result<Outcome, Error> {
        self.check_lease()?;
        self.may(Journal::may_reject)?;
        if self.journal.rejected_with().is_none() {
            let undoes = self.undo_order();
            if undoes.is_empty() {
                return Ok(outcome.clone());
            }
            self.record_in_tries(&self.journal.rejection(outcome, undoes.clone())).await?;
            self.journal.rejected(outcome.clone(), undoes);
        }
        while let Some(undone) = self.journal.next_undo() {
            let name = undone.name.clone();
            let watch = self.watch(&name, true);
            self.undo_step(undone).await?;
            self.journal.undone();
            ended(watch, StepResult::Finished, ());
        }
        Ok(self.journal.rejected_with().unwrap_or(outcome).clone())
    }

    /// Undoes the steps of a request that is not recorded. No retry could resume, so an undo that fails does not stop
    /// the others.
    pub(super) async fn undo_unrecorded(&mut self) -> Result<(), Error> {
        let cut = cut(self.lost(), self.deadline);
        within(cut, self.undo_all()).await.unwrap_or_else(|kind| Err(Error::new(kind)))
    }

    async fn undo_all(&mut self) -> Result<(), Error> {
        // Reports a mistake of the handler, which is reported nowhere else.
        let mut undone = self.may(|journal| journal.check());
        for name in self.undo_order() {
            undone = undone.and(self.undo_step(Entry::new(0, EntryKind::UNDO, name)).await);
        }
        undone
    }

    fn undo_order(&mut self) -> Vec<String> {
        let with_undo: Vec<_> = self.undos().iter().map(|(step, _)| step.clone()).collect();
        self.journal.undo_order(|step| with_undo.iter().any(|with| with == step))
    }

    /// Renews the lease, so that a process that has lost it does not call. Returns the seed of the key.
    async fn before_undo_call(&mut self) -> Result<[u8; 32], Error> {
        let Some(run) = &self.run else { return Ok(digest([Claim::random()?.as_bytes()])) };
        let (asked, seed) = (Instant::now(), run.seed);
        let renewed = run.lease.renew().await;
        if renewed.is_ok() {
            run.renewal.renewed(asked);
        }
        self.noted(renewed).map(|()| seed)
    }

    async fn undo_step(&mut self, undone: Entry) -> Result<(), Error> {
        let name = undone.name.clone();
        let failed = |failure: Failure| {
            let failed = Error::new(Kind::UndoFailed);
            // An error that is not ours may quote what the undo works on, so it is not passed on: a cause may be logged.
            let Ok(error) = failure.downcast::<Error>() else {
                tracing::error!(target: "idem", step = name, "a step was not undone, by an error of the undo's own");
                return failed;
            };
            tracing::error!(target: "idem", step = name, code = error.code(), %error, "a step was not undone");
            failed.caused_by(error)
        };
        let Some(at) = self.undos().iter().position(|(step, _)| *step == name) else {
            let error = Error::new(Kind::StepMismatch).because("this attempt has not registered its undo");
            return Err(failed(error.into()));
        };
        let (_, undo) = self.undos().swap_remove(at);
        match undo {
            Undo::Transaction(body) => {
                let mut open = self.begin().await?;
                match caught(async { body(open.tx()).await }).await {
                    Ok(()) => self.record(open, undone).await.map_err(|error| match error.kind() {
                        // The undo ignored a failed statement of its own, or left a savepoint open.
                        Kind::TransactionAborted | Kind::DataRefused | Kind::DeploymentBroken | Kind::StoreFailed => {
                            failed(error.into())
                        }
                        _ => error,
                    }),
                    Err(failure) => {
                        self.roll_back(open).await?;
                        Err(failed(failure))
                    }
                }
            }
            Undo::Call(body) => {
                let seed = self.before_undo_call().await?;
                caught(async { body(StepKey::of_undo(&seed, &name)).await }).await.map_err(failed)?;
                self.record_in_tries(&undone).await
            }
        }
    }
}

/// Turns a panic in an undo into an error, so that the retry runs the undo again.
async fn caught(undo: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    catch(undo).await.unwrap_or_else(|panic| Err(panic.into()))
}
