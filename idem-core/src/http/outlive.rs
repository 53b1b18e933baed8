//! A run that its client cannot end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::runtime::Handle;

/// Polls a run in the caller's own task, and moves it into a task of its own where the caller goes away (rule 12).
///
/// A task for every run would be simpler, but it costs two hand-overs between threads on each request, and almost no
/// client hangs up.
pub(crate) struct Outlive<F: Future<Output: Send> + Send + Unpin + 'static> {
    /// There until it has ended.
    run: Option<F>,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Outlive<F> {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn new(run: F) -> Self {
        Self { run: Some(run), runtime: Handle::current() }
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Future for Outlive<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out, so that one that panics is not moved anywhere.
        let mut run = self.run.take().expect("not polled after its end");
        let output = run.poll_unpin(context);
        if output.is_pending() {
            self.run = Some(run);
        }
        output
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Drop for Outlive<F> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.runtime.spawn(run);
        }
    }
}
