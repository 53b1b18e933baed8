//! The sweep: what it removes, and the task that repeats it.

use std::future::Future;
use std::time::{Duration, Instant};

use idem_core::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What a sweep does with expired records.
///
/// ```
/// use std::time::Duration;
/// use idem_sqlx::Sweep;
///
/// let sweep = Sweep::default().every(Duration::from_secs(10)).batch(500);
/// ```
#[derive(Debug, Clone)]
pub struct Sweep {
    pub(crate) every: Duration,
    batch: Option<u32>,
    pub(crate) archive: Option<String>,
}

impl Default for Sweep {
    /// A minute between two sweeps, 200 records in one statement on Postgres and 250 on SQLite, no archive.
    fn default() -> Self {
        Self { every: Duration::from_secs(60), batch: None, archive: None }
    }
}

impl Sweep {
    /// How long the background task pauses when nothing is left. After a full batch it pauses for as long as that took.
    #[must_use]
    pub fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// How many records one statement removes. At least 1.
    ///
    /// While a batch runs, a request whose own record has expired waits for it; on SQLite, every writer does.
    #[must_use]
    pub fn batch(mut self, records: u32) -> Self {
        self.batch = Some(records.max(1));
        self
    }

    pub(crate) fn batch_or(&self, default: u32) -> u32 {
        self.batch.unwrap_or(default)
    }

    /// A table that expired records are moved to instead of being deleted: `schema.archive`, or `archive` in the schema
    /// that has the store's own tables.
    ///
    /// It must exist and have the columns of `idem_records`, in their order (`CREATE TABLE archive (LIKE
    /// idem_records)` in Postgres), and no unique constraint: a key may expire twice.
    #[must_use]
    pub fn archive(mut self, table: impl Into<String>) -> Self {
        self.archive = Some(table.into());
        self
    }
}

/// The parts of a table's name, between its dots, as they are written into a statement: in quotes.
pub(crate) fn parts(table: &str) -> Vec<String> {
    table.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect()
}

/// What one batch of a sweep did.
pub(crate) struct Batch {
    pub(crate) removed: u64,
    /// Whether there is probably more to remove.
    pub(crate) more: bool,
    /// Where it ended, as the database counts time: the next batch of the same pass can begin there.
    pub(crate) reached: Option<i64>,
}

/// Batch by batch through what has expired.
#[derive(Default)]
pub(crate) struct Pass {
    /// Where the last batch ended. What it had to leave, because somebody held it, is taken by the next pass.
    pub(crate) from: Option<i64>,
}

impl Pass {
    /// What to wait after a batch that took so long, or nothing where the pass is over. Half of the time is for the others: on
    /// SQLite they try for the write lock now and then, and have to find it free.
    pub(crate) fn pause(&mut self, batch: &Batch, took: Duration) -> Option<Duration> {
        if !batch.more {
            self.from = None;
            return None;
        }
        self.from = batch.reached.or(self.from);
        Some(took)
    }
}

/// A sweep in the background. It stops when this handle is dropped, or when it is [stopped](Self::stop).
#[derive(Debug)]
pub struct Sweeper {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sweeper {
    /// Repeats `sweep_batch` until told to stop. One that fails is reported and tried again at its time.
    pub(crate) fn spawn<F>(every: Duration, mut sweep_batch: impl FnMut(Option<i64>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Batch, Error>> + Send,
    {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut pass = Pass::default();
            loop {
                let begin = Instant::now();
                let pause = match sweep_batch(pass.from).await {
                    Ok(batch) => {
                        tracing::trace!(target: "idem", records = batch.removed, "swept");
                        pass.pause(&batch, begin.elapsed()).unwrap_or(every)
                    }
                    Err(error) => {
                        tracing::warn!(target: "idem", code = error.code(), "the sweep failed: {error}");
                        pass.from = None;
                        every
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
