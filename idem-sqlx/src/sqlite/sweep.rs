//! The sweep.

use idem_core::Error;
use idem_core::observer::Backlog;
use sqlx::{AssertSqlSafe, FromRow, SqliteConnection};

use super::session::{Reader, Session};
use super::store::SqliteStore;
use crate::database::Database;
use crate::error::{into_idem_error, store_error};
use crate::row::{self, LATE};
use crate::sweep::{self, Batch, Sweep, parts};
use crate::sweeper::{self, Sweeper};

/// Every writer waits for a batch, and sleeps up to a tenth of a second before it tries again.
const BATCH: u32 = 250;

impl SqliteStore {
    /// Removes expired records, batch by batch, and returns how many. An expired record has no effect even if it is not
    /// swept: the sweep only frees space.
    ///
    /// Requests and other sweepers wait for one batch at most.
    ///
    /// # Errors
    /// The database cannot be reached, or has no such archive. Finished batches stay done.
    ///
    /// # Cancel safety
    /// Safe: each batch is one transaction.
    pub async fn sweep(&self, sweep: &Sweep) -> Result<u64, Error> {
        sweeper::sweep(self, sweep).await
    }

    /// Sweeps in a background task until the returned handle is dropped.
    #[must_use = "the sweep stops when this handle is dropped"]
    pub fn sweeper(&self, sweep: Sweep) -> Sweeper {
        Sweeper::spawn(self.clone(), sweep)
    }

    /// What is left to do: expired records that are not swept, and leased runs that no process holds.
    ///
    /// The background [`sweeper`](Self::sweeper) tells the store's observer the same after each of its passes.
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn backlog(&self) -> Result<Backlog, Error> {
        self.count_backlog().await
    }

    pub(super) async fn look_at_backlog(&self) -> Result<Backlog, Error> {
        let mut reader = Reader::acquire(self.pool()).await?;
        let query = || sqlx::query(BACKLOG).bind(Backlog::MOST.cast_signed()).bind(row::LEASED);
        let rows = reader.fetch_all(query).await.map_err(store_error)?;
        let counted = rows.first().map(FromRow::from_row).transpose().map_err(store_error)?;
        Ok(counted.map(sweep::backlog).unwrap_or_default())
    }

    pub(super) async fn sweep_one_batch(&self, sweep: &Sweep) -> Result<Batch, Error> {
        let batch = sweep.batch_or(BATCH);
        let mut session = Session::begin(self.pool()).await?;
        let now = now(session.connection()).await.map_err(store_error)?;
        if let Some(archive) = archive(sweep) {
            // The archive is the application's.
            let copy =
                format!("INSERT INTO {archive} SELECT * FROM main.idem_records WHERE state <> {LATE} AND {EXPIRED}");
            run(session.connection(), copy, now, batch).await.map_err(into_idem_error)?;
        }
        // Those that lose their reply no longer count as expired, so the rest of the batch is what is removed.
        let keep = format!("{KEEP} AND {EXPIRED}");
        let kept = run(session.connection(), keep, now, batch).await.map_err(store_error)?;
        let rest = batch.saturating_sub(u32::try_from(kept).unwrap_or(batch));
        let forget = format!("DELETE FROM main.idem_journal WHERE {EXPIRED}");
        run(session.connection(), forget, now, rest).await.map_err(store_error)?;
        let delete = format!("DELETE FROM main.idem_records WHERE {EXPIRED}");
        let removed = run(session.connection(), delete, now, rest).await.map_err(store_error)?;
        session.commit().await?;
        // Deleted rows are no longer in the index, so each batch can begin at its start.
        Ok(Batch { removed, more: removed + kept >= u64::from(batch), reached: None })
    }
}

/// The archive as a statement names it. A name without a schema is in the store's file, not in an attached one.
fn archive(sweep: &Sweep) -> Option<String> {
    let table = sweep.archive.as_ref()?;
    let parts = parts(table);
    Some(if parts.len() == 1 { format!("main.{}", parts[0]) } else { parts.join(".") })
}

pub(super) async fn now(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)")
        .fetch_one(connection)
        .await
}

async fn run(connection: &mut SqliteConnection, statement: String, now: i64, batch: u32) -> sqlx::Result<u64> {
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(now).bind(i64::from(batch));
    Ok(query.execute(connection).await?.rows_affected())
}

/// What still refuses retries loses its reply, and expires when it refuses them no longer.
const KEEP: &str = "
UPDATE main.idem_records
SET state = 0,
    status = NULL,
    headers = NULL,
    body = NULL,
    expires_at = kept_until,
    kept_until = NULL
WHERE kept_until > ?1";

/// The same rows for the copy and for the deletions: the time is bound, and no other process writes in between.
const EXPIRED: &str = "
(scope, operation, key_hash) IN (
    SELECT scope, operation, key_hash
    FROM main.idem_records
    WHERE expires_at <= ?1
    ORDER BY expires_at, scope, operation, key_hash
    LIMIT ?2
)";

/// What is left to sweep, how old that is, and the abandoned runs. The counting stops at ?1. Abandoned runs are found
/// through the journal, which has only runs that are not over: no index has the end of a lease.
const BACKLOG: &str = "
SELECT
    (SELECT count(*) FROM (
        SELECT 1 FROM main.idem_records WHERE expires_at <= time.now ORDER BY expires_at LIMIT ?1
    )),
    (
        SELECT CAST(time.now - max(expires_at, 0) AS REAL) / 1000000
        FROM main.idem_records
        WHERE expires_at <= time.now
        ORDER BY expires_at
        LIMIT 1
    ),
    (SELECT count(*) FROM (
        SELECT DISTINCT record.scope, record.operation, record.key_hash
        FROM main.idem_journal AS entry
        JOIN main.idem_records AS record
            ON record.scope = entry.scope
            AND record.operation = entry.operation
            AND record.key_hash = entry.key_hash
        WHERE record.state >= ?2
            AND record.lease_until <= time.now
            AND record.expires_at > time.now
        LIMIT ?1
    ))
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time";
