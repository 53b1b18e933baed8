//! The runs in progress, for a shutdown that waits for them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::observer::Outages;

/// Counts the runs in progress in this process.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let runs = idem_core::store::Runs::default();
/// let run = runs.enter();
/// assert_eq!(runs.count(), 1);
/// assert!(!runs.drain(std::time::Duration::from_millis(10)).await);
/// drop(run);
/// runs.drained().await;
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    count: AtomicUsize,
    /// Told each time the count becomes zero.
    none: Notify,
    /// Those that the runs have met. Kept here because all clones of a store share it.
    outages: Outages,
}

impl Runs {
    /// Counts a run until the returned value is dropped.
    #[must_use]
    pub fn enter(&self) -> Run {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Run(self.clone())
    }

    /// The number of runs in progress.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    pub(crate) fn outages(&self) -> &Outages {
        &self.0.outages
    }

    /// Waits until no run is in progress. Call it when the server has stopped accepting requests: it also waits for
    /// runs that begin meanwhile.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drained(&self) {
        loop {
            // Listens before it looks, so that no end of a run is missed in between.
            let mut none = pin!(self.0.none.notified());
            none.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }

    /// Waits until no run is in progress, but no longer than the limit. Returns false if runs were in progress then.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drain(&self, limit: Duration) -> bool {
        let drained = timeout(limit, self.drained()).await.is_ok();
        if !drained {
            tracing::warn!(target: "idem", runs = self.count(), "runs were in progress at the end of the drain");
        }
        drained
    }
}

/// A run in progress, until it is dropped.
#[derive(Debug)]
pub struct Run(Runs);

impl Drop for Run {
    fn drop(&mut self) {
        let Self(Runs(counter)) = self;
        if counter.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            counter.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn r12_a_drain_ends_with_the_last_run() {
        let runs = Runs::default();
        let (first, second) = (runs.enter(), runs.enter());
        let mut drained = pin!(runs.drained());
        assert!((&mut drained).now_or_never().is_none());
        drop(first);
        assert!((&mut drained).now_or_never().is_none(), "one is in progress");
        drop(second);
        assert!((&mut drained).now_or_never().is_some());
        // It is told, and not only asked again.
        let run = runs.enter();
        let drained = tokio::spawn({
            let runs = runs.clone();
            async move { runs.drained().await }
        });
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(run);
        timeout(Duration::from_secs(10), drained).await.expect("it is told").expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn r12_a_drain_waits_no_longer_than_its_limit() {
        let (runs, limit) = (Runs::default(), Duration::from_secs(30));
        let run = runs.enter();
        let began = tokio::time::Instant::now();
        assert!(!runs.drain(limit).await);
        assert_eq!(began.elapsed(), limit);
        drop(run);
        assert!(runs.drain(limit).await);
        assert_eq!(began.elapsed(), limit);
    }
}
