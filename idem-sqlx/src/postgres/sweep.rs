//! The sweep.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use idem_core::Error;
use sqlx::AssertSqlSafe;
use tokio::time::sleep;

use super::error::is_not_supported;
use super::session::{Begin, Session, begin};
use super::statements::{Schema, Template};
use super::store::PgStore;
use crate::error::into_idem_error;
use crate::sweeper::{Batch, Pass, Sweep, Sweeper, parts};

/// Some milliseconds. Beside requests that keep two cores busy, longer batches are what their p99 notices.
const BATCH: u32 = 200;

/// The sweep knows its plan: the index on `expires_at`, then the rows one by one. Statistics from before a great many records
/// expired would make Postgres read all of them for each batch, or the whole table.
///
/// Nobody waits for its commits to reach the disk: what a crash brings back has expired all the same, and is not in the
/// archive either.
const BEGIN: Begin = begin!(
    " ISOLATION LEVEL READ COMMITTED;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL jit = off;
SET LOCAL synchronous_commit = off"
);

impl PgStore {
    /// Removes expired records, batch by batch, and says how many. Expired records count for nothing whether they
    /// are swept or not: this is only for the space.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::PgStore) -> Result<(), idem_core::Error> {
    /// let removed = store.sweep(&idem_sqlx::Sweep::default()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Rules
    /// - It takes rows that nobody holds, so it runs beside requests and other sweepers.
    /// - One statement removes a batch, whatever the number of scopes. A distributed Postgres that cannot lock rows of many
    ///   scopes at once (SQLSTATE 0A000) gets a statement for each scope.
    ///
    /// # Errors
    /// The database cannot be reached, or has no such archive. Batches that were done stay done, but for the last fraction of
    /// a second before a crash of the server: those are done again.
    ///
    /// # Cancel safety
    /// Safe: each batch is one transaction.
    pub async fn sweep(&self, sweep: &Sweep) -> Result<u64, Error> {
        let (mut pass, mut removed) = (Pass::default(), 0);
        loop {
            let begin = Instant::now();
            let batch = self.sweep_batch(sweep, pass.from).await?;
            removed += batch.removed;
            match pass.pause(&batch, begin.elapsed()) {
                Some(pause) => sleep(pause).await,
                None => return Ok(removed),
            }
        }
    }

    /// Sweeps in a background task until the answer is dropped.
    #[must_use = "the sweep stops when this handle is dropped"]
    pub fn sweeper(&self, sweep: Sweep) -> Sweeper {
        let store = self.clone();
        Sweeper::spawn(sweep.every, move |from| {
            let (store, sweep) = (store.clone(), sweep.clone());
            async move { store.sweep_batch(&sweep, from).await }
        })
    }

    async fn sweep_batch(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        let by_scope = &self.inner().sweeps_by_scope;
        if !by_scope.load(Ordering::Relaxed) {
            match self.sweep_at_once(sweep, from).await? {
                Some(batch) => return Ok(batch),
                None => tracing::debug!(target: "idem", "refused for many scopes; the sweep goes scope by scope"),
            }
        }
        let batch = self.sweep_by_scope(sweep, from).await?;
        by_scope.store(true, Ordering::Relaxed);
        Ok(batch)
    }

    /// Nothing where this Postgres does not do it in one statement.
    async fn sweep_at_once(&self, sweep: &Sweep, from: Option<i64>) -> Result<Option<Batch>, Error> {
        let mut session = Session::begin(self.pool(), BEGIN).await?;
        let sql = self.inner().records(session.connection()).await?.sql;
        let archived = archived(sweep, &sql.schema);
        let batch = sweep.batch_or(BATCH);
        // As a parameter Postgres would take it for a great many, and plan each batch anew.
        let statement = sql.sweep.replace("$2", &batch.to_string());
        let query = sqlx::query_as(AssertSqlSafe(format!("{statement}{archived}{COUNTED}")))
            .persistent(!self.inner().unnamed_statements)
            .bind(from);
        let (removed, reached): (i64, Option<i64>) = match query.fetch_one(session.connection()).await {
            Ok(counted) => counted,
            Err(error) if is_not_supported(&error) => {
                session.rollback().await;
                return Ok(None);
            }
            Err(error) => return Err(into_idem_error(error)),
        };
        session.commit(self.inner().commit_deadline).await?;
        Ok(Some(Batch { removed: removed.cast_unsigned(), more: removed >= i64::from(batch), reached }))
    }

    async fn sweep_by_scope(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        let mut session = Session::begin(self.pool(), BEGIN).await?;
        let sql = self.inner().records(session.connection()).await?.sql;
        let query =
            sqlx::query_as(sql.expired.as_str()).persistent(false).bind(i64::from(sweep.batch_or(BATCH))).bind(from);
        let rows: Vec<Expired> = query.fetch_all(session.connection()).await.map_err(into_idem_error)?;
        let found = rows.len();
        let reached = rows.iter().filter_map(|(.., expires_at)| *expires_at).max();
        let statement = format!("{}{}{COUNTED}", sql.sweep_scope, archived(sweep, &sql.schema));
        let mut removed = 0;
        for (scope, (operations, key_hashes)) in by_scope(rows) {
            let query = sqlx::query_as(AssertSqlSafe(statement.clone())).persistent(false);
            let query = query.bind(scope).bind(operations).bind(key_hashes);
            let (swept, _): (i64, Option<i64>) =
                query.fetch_one(session.connection()).await.map_err(into_idem_error)?;
            removed += swept.cast_unsigned();
        }
        session.commit(self.inner().commit_deadline).await?;
        // A full batch of which nothing could be taken would be found again, and again.
        Ok(Batch { removed, more: found >= sweep.batch_or(BATCH) as usize && removed > 0, reached })
    }
}

/// What puts the records into the archive, if there is one: in the store's schema, unless another one stands in front of it.
fn archived(sweep: &Sweep, schema: &Schema) -> String {
    let Some(table) = &sweep.archive else { return String::new() };
    let parts = parts(table);
    let archive = if parts.len() == 1 { format!("{schema}.{}", parts[0]) } else { parts.join(".") };
    format!(", archived AS (\n    INSERT INTO {archive} SELECT * FROM swept\n)")
}

/// Scope, operation, key hash, and when it expired.
type Expired = (String, String, Vec<u8>, Option<i64>);

/// The operations and key hashes of one scope, side by side.
type Keys = (Vec<String>, Vec<Vec<u8>>);

fn by_scope(rows: Vec<Expired>) -> BTreeMap<String, Keys> {
    let mut scopes = BTreeMap::<_, Keys>::new();
    for (scope, operation, key_hash, _) in rows {
        let keys = scopes.entry(scope).or_default();
        keys.0.push(operation);
        keys.1.push(key_hash);
    }
    scopes
}

/// `SKIP LOCKED` passes over rows that a request is just replacing, and looks again at `expires_at` of one that has been
/// replaced meanwhile. What it has locked stays where it is until the transaction ends, so its place finds it again: by the
/// primary key a batch takes half as long again. `tableoid` is for a table with partitions, which count their places each
/// for itself.
///
/// Steps go with their record; one that was completed has none any more. `OFFSET 0` has Postgres look them up record by record,
/// whatever its statistics say of the two tables. Whoever writes one lets the record expire later in the same commit, so none is written behind
/// the statement's back.
///
/// $1 is where the batch before it ended: what is deleted stays in the index until a vacuum, and would be read again by
/// every batch.
pub(super) const SWEEP: Template = Template(
    "
WITH expired AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place
    FROM {schema}.idem_records
    WHERE expires_at <= now()
        AND expires_at >= coalesce('epoch'::timestamptz + $1::bigint * interval '1 microsecond', '-infinity')
    ORDER BY expires_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING expired
    WHERE record.tableoid = expired.part
        AND record.ctid = expired.place
    RETURNING record.*
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING swept, LATERAL (
        SELECT tableoid AS part, ctid AS place
        FROM {schema}.idem_journal
        WHERE scope = swept.scope
            AND operation = swept.operation
            AND key_hash = swept.key_hash
        OFFSET 0
    ) AS left_behind
    WHERE swept.completed_at IS NULL
        AND step.tableoid = left_behind.part
        AND step.ctid = left_behind.place
)",
);

/// An operator may have let a record expire at `-infinity`, which is no number.
const COUNTED: &str = "
SELECT count(*), max((extract(epoch FROM expires_at) * 1000000)::bigint) FILTER (WHERE isfinite(expires_at))
FROM swept";

/// For a distributed Postgres, as is the next one. It locks nothing, since it finds rows of many scopes.
pub(super) const EXPIRED: Template = Template(
    "
SELECT scope, operation, key_hash,
    CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000)::bigint END
FROM {schema}.idem_records
WHERE expires_at <= now()
    AND expires_at >= coalesce('epoch'::timestamptz + $2::bigint * interval '1 microsecond', '-infinity')
ORDER BY expires_at
LIMIT $1",
);

/// Rows of one scope, and a second look at `expires_at`: it is another statement than the one that found them.
pub(super) const SWEEP_SCOPE: Template = Template(
    "
WITH swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING (
        SELECT operation, key_hash
        FROM {schema}.idem_records
        WHERE scope = $1
            AND (operation, key_hash) IN (SELECT * FROM unnest($2::text[], $3::bytea[]))
            AND expires_at <= now()
        FOR UPDATE SKIP LOCKED
    ) AS expired
    WHERE record.scope = $1
        AND record.operation = expired.operation
        AND record.key_hash = expired.key_hash
    RETURNING record.*
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING swept
    WHERE swept.completed_at IS NULL
        AND step.scope = $1
        AND step.operation = swept.operation
        AND step.key_hash = swept.key_hash
)",
);
