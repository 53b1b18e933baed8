//! What a sweep removes.

use std::time::Duration;

use idem_core::observer::Backlog;

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
    rest: Option<f64>,
    pub(crate) archive: Option<String>,
}

impl Default for Sweep {
    /// A minute between two sweeps, 1000 records in one statement on Postgres and 250 on SQLite, no archive.
    fn default() -> Self {
        Self { every: Duration::from_secs(60), batch: None, rest: None, archive: None }
    }
}

impl Sweep {
    /// How long the background task pauses when nothing is left to remove. After a full batch it [rests](Self::rest).
    #[must_use]
    pub fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// How many records one statement removes. At least 1.
    ///
    /// While a batch runs, a request whose own record has expired waits for the batch. On SQLite, every writer waits.
    #[must_use]
    pub fn batch(mut self, records: u32) -> Self {
        self.batch = Some(records.max(1));
        self
    }

    /// How long the sweep rests after a full batch, in parts of the time that the batch took. From 0 to 1000; other
    /// numbers count as the nearest of these. By default 0.5, on SQLite 1.0.
    ///
    /// A longer rest removes fewer records a second, and slows the requests beside it less. The page
    /// [`performance`](idem_core::docs::performance) has the figures.
    #[must_use]
    pub fn rest(mut self, parts: f64) -> Self {
        self.rest = Some(if parts.is_nan() { 0.0 } else { parts.clamp(0.0, 1000.0) });
        self
    }

    pub(crate) fn rest_or(&self, default: f64) -> f64 {
        self.rest.unwrap_or(default)
    }

    pub(crate) fn batch_or(&self, default: u32) -> u32 {
        self.batch.unwrap_or(default)
    }

    /// A table to which expired records are moved instead of being deleted: `schema.archive`, or `archive` in the
    /// schema that has the store's own tables.
    ///
    /// It must exist and have the columns of `idem_records`, in their order (`CREATE TABLE archive (LIKE
    /// idem_records)` in Postgres), and no unique constraint: a key may expire twice.
    #[must_use]
    pub fn archive(mut self, table: impl Into<String>) -> Self {
        self.archive = Some(table.into());
        self
    }
}

/// The parts of a table's name between its dots, each in quotes, as a statement needs them.
pub(crate) fn parts(table: &str) -> Vec<String> {
    table.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect()
}

/// What one batch of a sweep did.
#[derive(Debug)]
pub struct Batch {
    pub(crate) removed: u64,
    /// Whether more records have probably expired.
    pub(crate) more: bool,
    /// Where the batch ended, in the database's time. The next batch of the same pass can begin there.
    pub(crate) reached: Option<i64>,
}

/// The number of expired records, the age of the oldest in seconds, and the number of abandoned runs.
pub(crate) fn backlog((expired, oldest, abandoned): (i64, Option<f64>, i64)) -> Backlog {
    // An operator may have set a time that no duration holds.
    let oldest = Duration::try_from_secs_f64(oldest.unwrap_or(0.0).max(0.0)).unwrap_or(Duration::MAX);
    Backlog::new(expired.unsigned_abs(), oldest, abandoned.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r32_a_rest_is_a_time() {
        for (asked, rest) in [(2.0, 2.0), (0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (f64::INFINITY, 1000.0)] {
            let rested = Sweep::default().rest(asked).rest_or(0.5);
            assert!((rested - rest).abs() < f64::EPSILON, "{asked}: {rested}");
        }
        assert!((Sweep::default().rest_or(0.5) - 0.5).abs() < f64::EPSILON);
    }
}
