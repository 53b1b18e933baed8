//! The sweep.

use idem_core::Error;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::session::Session;
use super::store::SqliteStore;
use crate::error::classify;
use crate::sweeper::{Batch, Sweep, Sweeper, quoted};

impl SqliteStore {
    /// Removes expired records, batch by batch, and says how many. Expired records count for nothing whether they
    /// are swept or not: this is only for the space.
    ///
    /// Requests and other sweepers wait for one batch at most.
    ///
    /// # Errors
    /// The database cannot be reached, or has no such archive. Batches that were done stay done.
    ///
    /// # Cancel safety
    /// Safe: each batch is one transaction.
    pub async fn sweep(&self, sweep: &Sweep) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            let batch = self.sweep_batch(sweep).await?;
            removed += batch.removed;
            if !batch.more {
                return Ok(removed);
            }
        }
    }

    async fn sweep_batch(&self, sweep: &Sweep) -> Result<Batch, Error> {
        let mut session = Session::begin(self.pool()).await?;
        let now = now(session.connection()).await.map_err(classify)?;
        if let Some(archive) = &sweep.archive {
            let copy = format!("INSERT INTO {} SELECT * FROM idem_records WHERE {EXPIRED}", quoted(archive));
            run(session.connection(), copy, now, sweep.batch).await.map_err(classify)?;
        }
        let delete = format!("DELETE FROM idem_records WHERE {EXPIRED}");
        let removed = run(session.connection(), delete, now, sweep.batch).await.map_err(classify)?;
        session.commit().await?;
        Ok(Batch { removed, more: removed >= u64::from(sweep.batch) })
    }

    /// Sweeps in a background task until the answer is dropped.
    #[must_use = "the sweep stops when this handle is dropped"]
    pub fn sweeper(&self, sweep: Sweep) -> Sweeper {
        let store = self.clone();
        Sweeper::spawn(sweep.every, move || {
            let (store, sweep) = (store.clone(), sweep.clone());
            async move { store.sweep_batch(&sweep).await }
        })
    }
}

async fn now(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)")
        .fetch_one(connection)
        .await
}

async fn run(connection: &mut SqliteConnection, statement: String, now: i64, batch: u32) -> sqlx::Result<u64> {
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(now).bind(i64::from(batch));
    Ok(query.execute(connection).await?.rows_affected())
}

/// The same rows for the copy and for the deletion: the time is bound, and nobody else writes between the two.
const EXPIRED: &str = "
(scope, operation, key_hash) IN (
    SELECT scope, operation, key_hash
    FROM idem_records
    WHERE expires_at <= ?
    ORDER BY expires_at, scope, operation, key_hash
    LIMIT ?
)";
