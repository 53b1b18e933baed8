//! What undoes the finished steps of a run that is rejected.

use std::error::Error as StdError;
use std::future::Future;

use futures_util::future::BoxFuture;

use super::rejection::Rejection;
use super::{StepKey, Steps, nothing};
use crate::bounds::UndoIn;
use crate::catch::catch;
use crate::claim::unless;
use crate::error::{Error, Kind};
use crate::record::Outcome;
use crate::store::Context;
use crate::store::{Lease, Step, StepForm};

/// What an undo fails with. It is logged, and never shown to a client.
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

type InTransaction<T> = Box<dyn for<'t> FnOnce(&'t mut T) -> BoxFuture<'t, Result<(), Failure>> + Send>;

/// What undoes a finished step.
pub(super) enum Undo<T> {
    /// In a transaction in the store's database.
    Transaction(InTransaction<T>),
    /// By a call of the outside world.
    Call(Box<dyn FnOnce(StepKey) -> BoxFuture<'static, Result<(), Failure>> + Send>),
}

impl<T: 'static> Undo<T> {
    pub(super) fn transaction<E, F>(body: F) -> Self
    where
        E: Into<Failure> + 'static,
        F: for<'t> UndoIn<'t, T, E> + Send + 'static,
    {
        Self::Transaction(Box::new(move |tx| {
            let undone = body.undo(tx);
            Box::pin(async move { undone.await.map_err(Into::into) })
        }))
    }

    pub(super) fn call<E, F, R>(body: F) -> Self
    where
        E: Into<Failure>,
        F: FnOnce(StepKey) -> R + Send + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
    {
        Self::Call(Box::new(move |key| {
            let undone = body(key);
            Box::pin(async move { undone.await.map_err(Into::into) })
        }))
    }
}

impl<L: Lease> Steps<L> {
    /// Undoes what the finished steps have done, as far as it is not undone. The answer is the outcome that counts: an
    /// earlier attempt may have recorded one.
    pub(super) async fn undo_steps(&mut self, outcome: &Outcome) -> Result<Outcome, Error> {
        let lost = self.lost();
        unless(lost, self.undo_recorded(outcome)).await.unwrap_or_else(|| Err(Error::new(Kind::LeaseLost)))
    }

    async fn undo_recorded(&mut self, outcome: &Outcome) -> Result<Outcome, Error> {
        self.check()?;
        if self.in_the_air.is_some() && !self.is_rejected() {
            let words = "a call that may have happened is not finished, so it cannot be undone";
            return Err(Error::new(Kind::OutcomeUnknown).caused_by(words));
        }
        self.check_all_passed()?;
        let undos = self.undo_order();
        if !undos.is_empty() && !self.is_rejected() {
            let next = u32::try_from(self.passed.len() + 1).unwrap_or(u32::MAX);
            let rejection = Rejection { outcome: outcome.clone(), undos, next };
            self.keep_in_tries(&rejection.step()?).await?;
            self.set_rejection(rejection);
        }
        let Some(rejection) = self.run.as_ref().and_then(|run| run.rejection.clone()) else {
            return Ok(outcome.clone());
        };
        for (position, name) in (rejection.next..).zip(&rejection.undos) {
            self.undo_step(position, name).await?;
        }
        Ok(rejection.outcome)
    }

    fn set_rejection(&mut self, rejection: Rejection) {
        if let Some(run) = &mut self.run {
            run.rejection = Some(rejection);
        }
    }

    /// Without a record there is no retry that could go on: one that fails does not keep the others from being done.
    pub(super) async fn undo_unrecorded(&mut self) -> Result<(), Error> {
        // A mistake in the handler, which has no other place to be told.
        let mut undone = self.check();
        for name in self.undo_order() {
            undone = undone.and(self.undo_step(0, &name).await);
        }
        undone
    }

    /// The steps that this attempt has come past and has an undo for, the last first.
    fn undo_order(&mut self) -> Vec<String> {
        let with_undo: Vec<_> = self.undos().iter().map(|(step, _)| step.clone()).collect();
        self.passed.iter().rev().filter(|step| with_undo.contains(step)).cloned().collect()
    }

    async fn undo_step(&mut self, position: u32, name: &str) -> Result<(), Error> {
        let failed = |failure: Failure| {
            tracing::error!(target: "idem", step = name, error = %failure, "a step was not undone");
            Error::new(Kind::UndoFailed).caused_by(failure)
        };
        let Some(at) = self.undos().iter().position(|(step, _)| step == name) else {
            return Err(failed("this attempt has not registered its undo".into()));
        };
        let (_, undo) = self.undos().swap_remove(at);
        let undone = Step { position, name: name.to_owned(), form: StepForm::UNDO, result: nothing() };
        match undo {
            Undo::Transaction(body) => {
                let mut open = self.begin().await?;
                match caught(async { body(open.tx()).await }).await {
                    Ok(()) => self.keep(open, undone).await.map_err(|error| match error.kind() {
                        // The undo went on as if a statement of its own had not failed, or left a savepoint open.
                        Kind::TransactionAborted | Kind::StoreFailed => failed(error.into()),
                        _ => error,
                    }),
                    Err(failure) => {
                        self.roll_back(open).await?;
                        Err(failed(failure))
                    }
                }
            }
            Undo::Call(body) => {
                let seed = self.before_call(None).await?;
                caught(async { body(StepKey::of_undo(&seed, name)).await }).await.map_err(failed)?;
                self.keep_in_tries(&undone).await
            }
        }
    }
}

/// A panic in an undo leaves it to the retry, as an error does.
async fn caught(undo: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    catch(undo).await.unwrap_or_else(|panic| Err(panic.into()))
}
