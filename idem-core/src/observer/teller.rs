//! Tells the events of one run or step.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Event, Observer, StepResult, tell_to};
use crate::identity::Operation;
use crate::store::Store;

/// Tells the observer of a store about a run of one operation.
#[derive(Clone)]
pub(crate) struct Teller {
    observer: Option<Arc<dyn Observer>>,
    operation: Operation,
}

impl Teller {
    pub(crate) fn of(store: &impl Store, operation: Operation) -> Self {
        Self { observer: store.observer().cloned(), operation }
    }

    /// A run that nobody observes.
    #[cfg(test)]
    pub(crate) fn unobserved() -> Self {
        Self { observer: None, operation: Operation::new("test") }
    }

    /// Tells the event, which is made for the operation's name.
    pub(crate) fn tell<'e>(&self, event: impl FnOnce(&'static str) -> Event<'e>) {
        if let Some(observer) = &self.observer {
            tell_to(observer, &event(self.operation.as_str()));
        }
    }

    /// Watches a step or an undo until its end.
    pub(crate) fn step<'s>(&self, name: &'s str, is_undo: bool) -> StepWatch<'s> {
        StepWatch { teller: self.clone(), name, is_undo, began: Instant::now(), result: StepResult::Failed }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("operation", &self.operation.as_str()).finish_non_exhaustive()
    }
}

/// A step that is being made. When it is dropped, it is told: as failed, unless it was noted otherwise.
pub(crate) struct StepWatch<'s> {
    teller: Teller,
    name: &'s str,
    is_undo: bool,
    began: Instant,
    result: StepResult,
}

impl StepWatch<'_> {
    pub(crate) fn ended(mut self, result: StepResult) {
        self.result = result;
    }
}

impl Drop for StepWatch<'_> {
    fn drop(&mut self) {
        let (step, result, took): (_, _, Duration) = (self.name, self.result, self.began.elapsed());
        self.teller.tell(|operation| match self.is_undo {
            false => Event::Step { operation, step, result, took },
            true => Event::Undo { operation, step, result, took },
        });
    }
}
