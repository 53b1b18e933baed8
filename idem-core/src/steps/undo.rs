//! The undo of a finished step.

use std::error::Error as StdError;
use std::future::Future;

use futures_util::future::BoxFuture;

use super::key::StepKey;
use crate::bounds::UndoIn;

/// The error of an undo. It is logged, and never shown to a client.
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
