//! The sweep.

use idem_core::Error;
use idem_core::observer::Backlog;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::error::is_not_supported;
use super::schema::Schema;
use super::session::{Begin, Session, begin};
use super::store::PgStore;
use super::sweeps::{ARCHIVED, COUNTED};
use crate::database::Database;
use crate::error::{into_idem_error, store_error};
use crate::row;
use crate::sweep::{self, Batch, Sweep, parts};
use crate::sweeper::{self, Sweeper};

/// A batch takes some milliseconds, most of them for the records: with a fifth of that, BEGIN, planning and COMMIT would
/// take as long again beside requests that keep the processors busy.
const BATCH: u32 = 1000;

/// The settings fix the plan: the index on `expires_at`, then the rows one by one. Statistics from before a great many
/// records expired would make Postgres read all expired records, or the whole table, for each batch.
///
/// Its commits do not wait for the disk. A crash may bring back removed records, but these have expired all the same,
/// and their copies in the archive are gone as well.
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
    /// Removes expired records, batch by batch, and returns how many. An expired record has no effect even if it is not
    /// swept: the sweep only frees space. Of a record that still refuses retries (`then = refuse(…)`), it removes the
    /// reply after the `ttl`, and does not count it.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::PgStore) -> Result<(), idem_core::Error> {
    /// let removed = store.sweep(&idem_sqlx::Sweep::default()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Rules
    /// - It skips locked rows, so it runs beside requests and other sweepers.
    /// - One statement removes a batch, for any number of scopes. A distributed Postgres that cannot lock rows of many
    ///   scopes at once, or that has no `ctid` (SQLSTATE 0A000, 42703, 42601), gets one statement for each scope.
    ///
    /// # Errors
    /// The database cannot be reached, or has no such archive. Finished batches stay done. If the server crashes, the
    /// batches of the last fraction of a second are done again.
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
        let mut session = Session::begin(self, &BEGIN).await?;
        let sql = self.inner().statements(&mut session.in_time()).await?;
        let query = sqlx::query_as(sql.sweeps.backlog.as_str()).persistent(false);
        let query = query.bind(Backlog::MOST.cast_signed()).bind(row::LEASED);
        let counted = query.fetch_one(&mut session.in_time()).await.map_err(store_error)?;
        session.commit(self.inner().commit_deadline).await?;
        Ok(sweep::backlog(counted))
    }

    pub(super) async fn sweep_one_batch(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        let by_scope = &self.inner().sweeps_by_scope;
        if !by_scope.load(Ordering::Relaxed) {
            match self.sweep_at_once(sweep, from).await? {
                Some(batch) => return Ok(batch),
                None => tracing::debug!(target: "idem", "refused for many scopes; the sweep goes scope by scope"),
            }
        }
        let batch = self.sweep_by_scope(sweep, from).await?;
        // Without a record nothing has shown that the sweep by scope is what this database, or the archive, accepts.
        if batch.removed > 0 {
            by_scope.store(true, Ordering::Relaxed);
        }
        Ok(batch)
    }

    /// Returns `None` if this Postgres cannot sweep many scopes in one statement.
    async fn sweep_at_once(&self, sweep: &Sweep, from: Option<i64>) -> Result<Option<Batch>, Error> {
        let mut session = Session::begin(self, &BEGIN).await?;
        let sql = self.inner().statements(&mut session.in_time()).await?;
        let archived = archived(sweep, &sql.schema);
        let batch = sweep.batch_or(BATCH);
        let text = if sweep.archive.is_some() { &sql.sweeps.sweep_to_archive } else { &sql.sweeps.sweep };
        let statement = limited(text, batch);
        let query = sqlx::query_as(AssertSqlSafe(format!("{statement}{archived}{COUNTED}")))
            .persistent(!self.inner().unnamed_statements)
            .bind(from);
        let (removed, kept, reached): (i64, i64, Option<i64>) = match query.fetch_one(&mut session.in_time()).await {
            Ok(counted) => counted,
            Err(error) if is_not_supported(&error) => {
                session.rollback().await;
                return Ok(None);
            }
            Err(error) => return Err(failed(sweep, error)),
        };
        session.commit(self.inner().commit_deadline).await?;
        Ok(Some(Batch { removed: removed.cast_unsigned(), more: removed + kept >= i64::from(batch), reached }))
    }

    async fn sweep_by_scope(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        let mut session = Session::begin(self, &BEGIN).await?;
        let sql = self.inner().statements(&mut session.in_time()).await?;
        let query = sqlx::query_as(sql.sweeps.expired.as_str())
            .persistent(false)
            .bind(i64::from(sweep.batch_or(BATCH)))
            .bind(from);
        let rows: Vec<Expired> = query.fetch_all(&mut session.in_time()).await.map_err(store_error)?;
        let found = rows.len();
        let reached = rows.iter().filter_map(|(.., expires_at)| *expires_at).max();
        let statement = format!("{}{}{COUNTED}", sql.sweeps.sweep_scope, archived(sweep, &sql.schema));
        let (mut removed, mut kept) = (0, 0);
        for (scope, (operations, key_hashes)) in by_scope(rows) {
            let query = sqlx::query_as(AssertSqlSafe(statement.clone())).persistent(false);
            let query = query.bind(scope).bind(operations).bind(key_hashes);
            let (swept, without_reply, _): (i64, i64, Option<i64>) =
                query.fetch_one(&mut session.in_time()).await.map_err(|error| failed(sweep, error))?;
            removed += swept.cast_unsigned();
            kept += without_reply.cast_unsigned();
        }
        session.commit(self.inner().commit_deadline).await?;
        // A full batch whose rows are all locked would be found again and again.
        Ok(Batch { removed, more: found >= sweep.batch_or(BATCH) as usize && removed + kept > 0, reached })
    }
}

/// The error of a statement that also names the archive, if there is one. The archive is the application's, so the advice
/// about the store's own tables would be wrong.
fn failed(sweep: &Sweep, error: sqlx::Error) -> Error {
    if sweep.archive.is_some() { into_idem_error(error) } else { store_error(error) }
}

/// The part of the statement that copies records into the archive, if there is an archive. A name without a schema is
/// in the store's schema.
fn archived(sweep: &Sweep, schema: &Schema) -> String {
    let Some(table) = &sweep.archive else { return String::new() };
    let parts = parts(table);
    let archive = if parts.len() == 1 { format!("{schema}.{}", parts[0]) } else { parts.join(".") };
    ARCHIVED.replace("{archive}", &archive)
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

/// The statement with its limit as a literal: for a parameter, Postgres would assume a great many rows and plan each batch
/// anew. Only the limit is replaced, since a schema may have any name.
pub(super) fn limited(statement: &str, batch: u32) -> String {
    statement.replacen(LIMIT, &LIMIT.replace("$2", &batch.to_string()), 1)
}

/// As the statement has it, with what stands around it.
const LIMIT: &str = "
    ORDER BY expires_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::statements::Statements;

    #[test]
    fn r32_a_limit_is_written_into_its_place_and_nowhere_else() {
        for name in ["a$2", "LIMIT $2", "app"] {
            let schema = Schema::new(name.to_owned()).expect("a schema");
            let statement = limited(&Statements::of(&schema).sweeps.sweep, 200);
            assert!(statement.contains("\n    LIMIT 200\n"), "{statement}");
            assert_eq!(statement.matches(&format!("\"{name}\".idem_")).count(), 5, "{statement}");
        }
    }
}
