//! The pass over the expired records, and the task that repeats it.

use std::time::{Duration, Instant};

use idem_core::Error;
use idem_core::observer::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::database::Database;
use crate::sweep::{Batch, Sweep};

/// A pass over the expired records, batch by batch.
#[derive(Default)]
struct Pass {
    /// Where the last batch ended. Rows that were locked then are left to the next pass.
    from: Option<i64>,
}

impl Pass {
    /// How long to pause after a batch that took `took`, or `None` if the pass is over.
    fn pause(&mut self, batch: &Batch, took: Duration, rest: f64) -> Option<Duration> {
        if !batch.more {
            self.from = None;
            return None;
        }
        self.from = batch.reached.or(self.from);
        Some(took.mul_f64(rest))
    }
}

/// Removes expired records, batch by batch, and returns how many.
pub(crate) async fn sweep<D: Database>(store: &D, sweep: &Sweep) -> Result<u64, Error> {
    let (mut pass, mut removed) = (Pass::default(), 0);
    loop {
        let begin = Instant::now();
        let batch = store.sweep_batch(sweep, pass.from).await?;
        removed += batch.removed;
        observer::tell(store, || Event::Swept { removed: batch.removed });
        match pass.pause(&batch, begin.elapsed(), sweep.rest_or(D::SWEEP_REST)) {
            Some(pause) => sleep(pause).await,
            None => return Ok(removed),
        }
    }
}

/// A sweep in the background. It stops when this handle is dropped, or when it is [stopped](Self::stop).
#[derive(Debug)]
pub struct Sweeper {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sweeper {
    /// Sweeps until it is stopped. A failed batch is logged, and tried again after `every`.
    pub(crate) fn spawn<D: Database>(store: D, sweep: Sweep) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut pass = Pass::default();
            loop {
                let begin = Instant::now();
                let pause = match store.sweep_batch(&sweep, pass.from).await {
                    Ok(batch) => {
                        tracing::trace!(target: "idem", records = batch.removed, "swept");
                        observer::tell(&store, || Event::Swept { removed: batch.removed });
                        match pass.pause(&batch, begin.elapsed(), sweep.rest_or(D::SWEEP_REST)) {
                            Some(rest) => rest,
                            None => {
                                tell_backlog(&store).await;
                                sweep.every
                            }
                        }
                    }
                    Err(error) => {
                        tracing::warn!(target: "idem", code = error.code(), "the sweep failed: {error}");
                        pass.from = None;
                        sweep.every
                    }
                };
                // Continue only if the pause runs out. A stop message or a dropped handle ends the task.
                if timeout(pause, stopped.changed()).await.is_ok() {
                    return;
                }
            }
        });
        Self { stop, task }
    }

    /// Stops after the current batch, and waits for it.
    pub async fn stop(self) {
        let Self { stop, task } = self;
        stop.send_replace(true);
        // The task ends only by this message or by a panic, which the runtime has reported.
        let _ended = task.await;
    }
}

/// Counts what is left and tells it. Without an observer nothing is counted.
async fn tell_backlog<D: Database>(store: &D) {
    if store.observer().is_none() {
        return;
    }
    match store.count_backlog().await {
        Ok(backlog) => observer::tell(store, || Event::Backlog(backlog)),
        Err(error) => tracing::warn!(target: "idem", code = error.code(), "the backlog was not counted: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r32_a_full_batch_is_followed_by_a_rest_and_the_last_one_by_none() {
        let took = Duration::from_millis(10);
        let mut pass = Pass::default();
        for (more, reached, rest, pause, from) in [
            (true, Some(5), 0.5, Some(5), Some(5)),
            (true, Some(7), 1.0, Some(10), Some(7)),
            // Nothing of the batch had an expiry that is a number: the next batch begins where this one did.
            (true, None, 1.0, Some(10), Some(7)),
            // The next pass begins at the oldest record again, which may have been locked.
            (false, Some(9), 0.5, None, None),
        ] {
            let batch = Batch { removed: 3, more, reached };
            assert_eq!(pass.pause(&batch, took, rest), pause.map(Duration::from_millis));
            assert_eq!(pass.from, from);
        }
    }
}
