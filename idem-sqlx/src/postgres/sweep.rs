//! The sweep.

use std::collections::BTreeMap;

use idem_core::Error;
use sqlx::{AssertSqlSafe, PgConnection};

use super::session::Session;
use super::store::{Isolation, PgStore};
use crate::error::classify;
use crate::sweeper::{Batch, Sweep, Sweeper, quoted};

impl PgStore {
    /// Removes expired records, batch by batch, and says how many. Expired records count for nothing whether they
    /// are swept or not: this is only for the space.
    ///
    /// It takes rows that nobody holds, so it runs beside requests and other sweepers.
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
        let delete = delete(sweep);
        let mut session = Session::begin(self.pool(), Isolation::ReadCommitted.begin()).await?;
        let expired = expired(session.connection(), sweep.batch).await.map_err(classify)?;
        let found: usize = expired.values().map(|keys| keys.0.len()).sum();
        let mut removed = 0;
        for (scope, (operations, key_hashes)) in expired {
            let query = sqlx::query(AssertSqlSafe(delete.clone()))
                .persistent(false)
                .bind(scope)
                .bind(operations)
                .bind(key_hashes);
            removed += query.execute(session.connection()).await.map_err(classify)?.rows_affected();
        }
        session.commit(self.inner().commit_deadline).await?;
        // A full batch of which nothing could be taken would be found again, and again.
        Ok(Batch { removed, more: found >= sweep.batch as usize && removed > 0 })
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

/// The operations and key hashes of one scope, side by side.
type Keys = (Vec<String>, Vec<Vec<u8>>);

/// The keys of the oldest expired records, by scope: a distributed Postgres locks rows of one scope only.
async fn expired(connection: &mut PgConnection, batch: u32) -> sqlx::Result<BTreeMap<String, Keys>> {
    let rows: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as(EXPIRED).persistent(false).bind(i64::from(batch)).fetch_all(connection).await?;
    let mut expired = BTreeMap::<_, Keys>::new();
    for (scope, operation, key_hash) in rows {
        let keys = expired.entry(scope).or_default();
        keys.0.push(operation);
        keys.1.push(key_hash);
    }
    Ok(expired)
}

fn delete(sweep: &Sweep) -> String {
    match &sweep.archive {
        None => DELETE.to_owned(),
        Some(table) => {
            format!("WITH swept AS ({DELETE} RETURNING record.*)\nINSERT INTO {} SELECT * FROM swept", quoted(table))
        }
    }
}

const EXPIRED: &str = "
SELECT scope, operation, key_hash
FROM idem_records
WHERE expires_at <= now()
ORDER BY expires_at
LIMIT $1";

/// `SKIP LOCKED` passes over rows that a request is just replacing, and the second look at `expires_at` over those
/// that have been replaced meanwhile.
const DELETE: &str = "
DELETE FROM idem_records AS record
USING (
    SELECT operation, key_hash
    FROM idem_records
    WHERE scope = $1
        AND (operation, key_hash) IN (SELECT * FROM unnest($2::text[], $3::bytea[]))
        AND expires_at <= now()
    FOR UPDATE SKIP LOCKED
) AS expired
WHERE record.scope = $1
    AND record.operation = expired.operation
    AND record.key_hash = expired.key_hash";
