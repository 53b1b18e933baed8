//! The runs in progress, for a shutdown that waits for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

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
#[derive(Debug, Clone)]
pub struct Runs(Arc<watch::Sender<usize>>);

impl Default for Runs {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Runs {
    /// Counts a run until the returned value is dropped.
    #[must_use]
    pub fn enter(&self) -> Run {
        self.0.send_modify(|count| *count += 1);
        Run(Self(Arc::clone(&self.0)))
    }

    /// The number of runs in progress.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until no run is in progress. Call it when the server has stopped accepting requests: it also waits for
    /// runs that begin meanwhile.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drained(&self) {
        let mut count = self.0.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _closed = count.wait_for(|count| *count == 0).await;
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
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
