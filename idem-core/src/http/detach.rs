//! A run that continues when its client is gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::runtime::Handle;

/// Polls a run in the caller's own task, and moves it into a task of its own if the caller is dropped (rule 12).
///
/// A task for every run would be simpler, but would cost two thread switches on each request, and few clients hang up.
pub(crate) struct DetachOnDrop<F: Future<Output: Send> + Send + Unpin + 'static> {
    /// `Some` until the run has ended.
    run: Option<F>,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> DetachOnDrop<F> {
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub(crate) fn new(run: F) -> Self {
        Self { run: Some(run), runtime: Handle::current() }
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Future for DetachOnDrop<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out, so that a run that panics is not moved into a task.
        let mut run = self.run.take().expect("not polled after its end");
        let output = run.poll_unpin(context);
        if output.is_pending() {
            self.run = Some(run);
        }
        output
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Drop for DetachOnDrop<F> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.runtime.spawn(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::{Notify, oneshot};

    use super::*;

    tokio::task_local! {
        static TENANT: u8;
    }

    #[tokio::test]
    async fn r12_a_run_that_is_not_dropped_answers_in_place() {
        let caller = tokio::spawn(async {
            let run = DetachOnDrop::new(Box::pin(async { tokio::task::id() }));
            run.await == tokio::task::id()
        });
        assert!(caller.await.expect("no panic"), "it ran in another task");
    }

    #[tokio::test]
    async fn r12_a_dropped_run_goes_on_in_a_task_of_its_own_without_task_locals() {
        let (told, tell) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (answer, answered) = oneshot::channel();
        let run = {
            let (told, tell) = (Arc::clone(&told), Arc::clone(&tell));
            async move {
                let before = TENANT.try_with(|tenant| *tenant).ok();
                told.notify_one();
                tell.notified().await;
                let after = TENANT.try_with(|tenant| *tenant).ok();
                answer.send((before, after)).expect("somebody waits");
            }
        };
        TENANT
            .scope(7, async {
                tokio::select! {
                    () = DetachOnDrop::new(Box::pin(run)) => panic!("it waits"),
                    () = told.notified() => {}
                }
            })
            .await;
        tell.notify_one();
        assert_eq!(answered.await.expect("the run goes on"), (Some(7), None));
    }

    #[tokio::test]
    async fn a_run_that_panicked_is_not_polled_again() {
        let polls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&polls);
        let run = std::future::poll_fn(move |_| -> Poll<()> {
            *counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
            panic!("told to");
        });
        let caller = tokio::spawn(DetachOnDrop::new(Box::pin(run)));
        assert!(caller.await.expect_err("a panic").is_panic());
        tokio::task::yield_now().await;
        assert_eq!(*polls.lock().expect("no poison"), 1);
    }
}
