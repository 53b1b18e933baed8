//! The pass through what has expired, and the task that repeats it.

use std::time::{Duration, Instant};

use idem_core::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::database::Database;
use crate::sweep::{Batch, Sweep};

/// Batch by batch through what has expired.
#[derive(Default)]
struct Pass {
    /// Where the last batch ended. What it had to leave, because somebody held it, is taken by the next pass.
    from: Option<i64>,
}

impl Pass {
    /// What to wait after a batch that took so long, or nothing where the pass is over. Half of the time is for the others: on
    /// SQLite they try for the write lock now and then, and have to find it free.
    fn pause(&mut self, batch: &Batch, took: Duration) -> Option<Duration> {
        if !batch.more {
            self.from = None;
            return None;
        }
        self.from = batch.reached.or(self.from);
        Some(took)
    }
}

/// Removes expired records, batch by batch, and says how many.
pub(crate) async fn sweep<D: Database>(store: &D, sweep: &Sweep) -> Result<u64, Error> {
    let (mut pass, mut removed) = (Pass::default(), 0);
    loop {
        let begin = Instant::now();
        let batch = store.sweep_batch(sweep, pass.from).await?;
        removed += batch.removed;
        match pass.pause(&batch, begin.elapsed()) {
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
    /// Sweeps until told to stop. A batch that fails is reported, and tried again at its time.
    pub(crate) fn spawn<D: Database>(store: D, sweep: Sweep) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut pass = Pass::default();
            loop {
                let begin = Instant::now();
                let pause = match store.sweep_batch(&sweep, pass.from).await {
                    Ok(batch) => {
                        tracing::trace!(target: "idem", records = batch.removed, "swept");
                        pass.pause(&batch, begin.elapsed()).unwrap_or(sweep.every)
                    }
                    Err(error) => {
                        tracing::warn!(target: "idem", code = error.code(), "the sweep failed: {error}");
                        pass.from = None;
                        sweep.every
                    }
                };
                // Only a pause that runs out goes on; a word or a lost handle ends it.
                if timeout(pause, stopped.changed()).await.is_ok() {
                    return;
                }
            }
        });
        Self { stop, task }
    }

    /// Stops after the batch that is under way, and waits for it.
    pub async fn stop(self) {
        let Self { stop, task } = self;
        stop.send_replace(true);
        // Its only ends are this word and a panic, which the runtime has reported.
        let _ended = task.await;
    }
}
