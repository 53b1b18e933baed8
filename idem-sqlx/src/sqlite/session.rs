//! A pooled connection inside a transaction, and every way out of the transaction.

use futures_util::StreamExt;
use idem_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Database, Either, Executor, SqlSafeStr, Sqlite};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::error::{commit_was_refused, has_no_savepoint, is_answer, is_left_behind, is_read_only};
use crate::database::CommitFailed;
use crate::error::not_begun;

type Manager = <Sqlite as Database>::TransactionManager;

/// `IMMEDIATE` takes the write lock at the start. The savepoints show whether the handler has ended the transaction:
/// they are gone then. Rolling back to a savepoint undoes everything without giving up the lock.
///
/// There are two savepoints because the completion releases one, to check that it exists. A run that is dropped at any
/// point after that still finds the other.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT idem_run; SAVEPOINT idem_run";

/// The same without the write lock. The first statement that writes takes the lock. If a statement has read before, it
/// does so without a wait: SQLite refuses to wait for a writer in a transaction that has read.
const BEGIN_WITHOUT_LOCK: &str = "BEGIN; SAVEPOINT idem_run; SAVEPOINT idem_run";

/// The last statements of a run and their COMMIT, in one message to sqlx's thread.
///
/// The last statement must change one row. If it changes another number, the text ends with an error before its COMMIT.
///
/// sqlx counts its own COMMIT only, and a count that is too high would turn the next transaction on the connection into
/// a savepoint. So the text begins an empty transaction, which sqlx rolls back when the session is over.
pub(super) struct Ending {
    text: String,
    writes: usize,
}

impl Ending {
    pub(super) fn new(writes: &str) -> Self {
        // SQLite has no statement that raises an error, except in triggers. `abs` refuses the lowest integer. The call
        // depends on `changes`, because a constant would be evaluated although its row is not wanted.
        let check = "SELECT abs(-9223372036854775808 + 0 * changes()) WHERE changes() <> 1";
        Self { text: format!("{writes}; {check}; COMMIT; BEGIN"), writes: writes.matches(';').count() + 1 }
    }

    /// The query of this text, to bind values to.
    pub(super) fn query(&'static self) -> Query<'static, Sqlite, SqliteArguments> {
        sqlx::query(self.text.as_str())
    }
}

/// Why an [`Ending`] has not committed.
pub(super) enum Unfinished {
    /// A statement in front of COMMIT failed.
    Failed(sqlx::Error),
    /// The last statement has not changed one row.
    NotHeld,
    Commit(CommitFailed),
}

/// A connection whose transaction has begun, or is about to.
///
/// sqlx's own `Transaction` has two faults: it relies on a handler not to end the transaction with SQL of its own, and
/// it commits even if a savepoint was left open.
///
/// Dropped, it rolls back. The connection goes to the pool only after the rollback.
pub struct Session {
    connection: Option<PoolConnection<Sqlite>>,
    /// The answer to the COMMIT of an [`Ending`].
    committed: Option<Result<(), CommitFailed>>,
}

impl Session {
    fn on(connection: PoolConnection<Sqlite>) -> Self {
        Self { connection: Some(connection), committed: None }
    }

    pub(super) async fn begin(pool: &SqlitePool) -> Result<Self, Error> {
        Self::begin_on(Box::pin(pool.acquire()).await.map_err(not_begun)?).await
    }

    /// A transaction that only reads, and waits for no writer.
    pub(super) async fn begin_reading(pool: &SqlitePool) -> Result<Self, Error> {
        Self::begin_by(Box::pin(pool.acquire()).await.map_err(not_begun)?, "BEGIN").await
    }

    pub(super) async fn begin_on(connection: PoolConnection<Sqlite>) -> Result<Self, Error> {
        Self::begin_by(connection, BEGIN).await
    }

    /// Begins without the write lock.
    pub(super) async fn begin_without_lock(connection: PoolConnection<Sqlite>) -> Result<Self, Error> {
        Self::begin_by(connection, BEGIN_WITHOUT_LOCK).await
    }

    /// Rolls back and begins again with the write lock, however long that takes.
    pub(super) async fn begin_again(mut self) -> Result<Self, Error> {
        roll_back(self.connection()).await.map_err(not_begun)?;
        Self::begin_on(self.connection.take().expect("a session has its connection until it ends")).await
    }

    /// A pool may hand out a connection with an open transaction of an earlier user, from a raw BEGIN or SAVEPOINT.
    /// SQLite refuses to begin another transaction in it, so the open one is rolled back and BEGIN is sent again.
    async fn begin_by(connection: PoolConnection<Sqlite>, statement: &'static str) -> Result<Self, Error> {
        let mut session = Self::on(connection);
        let mut begun = Manager::begin(session.connection(), Some(statement.into_sql_str())).await;
        if begun.as_ref().is_err_and(is_left_behind) {
            roll_back(session.connection()).await.map_err(not_begun)?;
            begun = Manager::begin(session.connection(), Some(statement.into_sql_str())).await;
        }
        if let Err(error) = begun {
            if is_read_only(&error) {
                session.close_if_in_a_file().await;
            }
            return Err(not_begun(error));
        }
        Ok(session)
    }

    /// Closes a connection that only reads, by a setting that somebody has left: a new connection may write. A database
    /// in memory would be lost with its connection.
    async fn close_if_in_a_file(&mut self) {
        let file = "SELECT coalesce(file, '') FROM pragma_database_list WHERE name = 'main'";
        let file = sqlx::query_scalar::<_, String>(file).persistent(false).fetch_one(self.connection()).await;
        if file.is_ok_and(|file| !file.is_empty())
            && let Some(connection) = self.connection.take()
        {
            drop(connection.detach());
        }
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("a session has its connection until it ends")
    }

    pub(super) fn connection_ref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("a session has its connection until it ends")
    }

    /// Rolls everything back without giving up the write lock. Fails if the transaction is not the session's.
    pub(super) async fn restart(&mut self) -> sqlx::Result<()> {
        self.connection().execute("ROLLBACK TO idem_run").await.map(|_| ())
    }

    /// Fails if the transaction is no longer the session's.
    pub(super) async fn check(&mut self) -> sqlx::Result<()> {
        self.connection().execute("RELEASE idem_run").await.map(|_| ())
    }

    /// Writes the end of a run and commits it. [`commit`](Self::commit) tells the answer to the COMMIT again.
    pub(super) async fn finish(&mut self, query: Query<'_, Sqlite, SqliteArguments>, ending: &Ending) -> Finished {
        if self.has_open_savepoint() {
            // sqlx rolls back what it counts, while it is there: the check ends all savepoints of the handler. A `begin`
            // that failed may have ended the transaction itself, and then sqlx counts none.
            while Manager::get_transaction_depth(self.connection()) > 1
                && Manager::rollback(self.connection()).await.is_ok()
            {}
            // The open savepoint is the lesser fault: it is reported only if the transaction is still the session's.
            self.check().await.map_err(Unfinished::Failed)?;
            return Err(Unfinished::Commit(CommitFailed::SavepointOpen));
        }
        let mut answers = self.connection().fetch_many(query);
        let (mut done, mut failed) = (0, None);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Either::Left(_statement)) => done += 1,
                Ok(Either::Right(_row)) => {}
                Err(error) => failed = Some(error),
            }
        }
        drop(answers);
        let (check, commit) = (ending.writes, ending.writes + 1);
        match failed {
            // Whatever failed after COMMIT, the run is kept.
            _ if done > commit => Ok(()),
            Some(error) if done < check => Err(Unfinished::Failed(error)),
            Some(error) if done == check && has_no_savepoint(&error) => Err(Unfinished::NotHeld),
            Some(error) if done == check => Err(Unfinished::Failed(error)),
            Some(error) => Err(Unfinished::Commit(commit_failed(error))),
            // sqlx's thread is gone, and may have committed before.
            None => Err(Unfinished::Commit(CommitFailed::Unknown(sqlx::Error::WorkerCrashed))),
        }
    }

    /// Notes the answer to a COMMIT for [`commit`](Self::commit).
    pub(super) fn note(&mut self, committed: Result<(), CommitFailed>) {
        self.committed = Some(committed);
    }

    pub(super) async fn commit(mut self) -> Result<(), CommitFailed> {
        if let Some(committed) = self.committed.take() {
            if committed.is_ok() {
                self.leave();
            }
            return committed;
        }
        if self.has_open_savepoint() {
            return Err(CommitFailed::SavepointOpen);
        }
        match Manager::commit(self.connection()).await {
            Ok(()) => {
                self.connection = None;
                Ok(())
            }
            Err(error) => Err(commit_failed(error)),
        }
    }

    /// True if sqlx counts a savepoint that the handler left open. At a COMMIT sqlx would release the savepoint, report
    /// success, and leave the transaction open.
    fn has_open_savepoint(&mut self) -> bool {
        Manager::get_transaction_depth(self.connection()) != 1
    }

    /// Gives back the connection of a session that has [finished](Self::finish) or only read. The transaction that is
    /// still open is rolled back in a task: nobody has to wait for that.
    pub(super) fn leave(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let leaving = RollingBack(Some(connection));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(leaving.roll_back());
        }
    }

    pub(super) async fn rollback(mut self) {
        if let Some(connection) = self.connection.take() {
            RollingBack(Some(connection)).roll_back().await;
        }
    }
}

type Finished = Result<(), Unfinished>;

fn commit_failed(error: sqlx::Error) -> CommitFailed {
    if commit_was_refused(&error) { CommitFailed::Refused(error) } else { CommitFailed::Unknown(error) }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        // After a cancelled COMMIT, sqlx skips one queued rollback. This is the rollback that it may skip.
        Manager::start_rollback(&mut connection);
        // A queued rollback may fail unnoticed, so the connection is rolled back once more in a task.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(RollingBack(Some(connection)).roll_back());
        } else {
            drop(connection.detach());
        }
    }
}

/// A connection to read from before there is a session, without the write lock.
///
/// Dropped while it reads, it rolls back. The connection goes to the pool only after the rollback.
pub struct Reader {
    connection: Option<PoolConnection<Sqlite>>,
    is_idle: bool,
}

impl Reader {
    pub(super) async fn acquire(pool: &SqlitePool) -> Result<Self, Error> {
        Box::pin(pool.acquire()).await.map(Self::on).map_err(not_begun)
    }

    pub(super) fn on(connection: PoolConnection<Sqlite>) -> Self {
        Self { connection: Some(connection), is_idle: true }
    }

    /// Runs a query that begins a transaction and rolls it back. [`alone`] makes such a query from a `SELECT`. All of
    /// it is one message to sqlx's thread.
    ///
    /// Without a BEGIN the query would read in a transaction that an earlier user may have left open on the connection.
    /// That transaction may not see recent writes.
    pub(super) async fn fetch_all<'q>(
        &mut self,
        query: impl Fn() -> Query<'q, Sqlite, SqliteArguments>,
    ) -> sqlx::Result<Vec<SqliteRow>> {
        let connection = self.connection.as_mut().expect("a reader has its connection until it is a session's");
        self.is_idle = false;
        let mut rows = query().fetch_all(&mut **connection).await;
        if rows.as_ref().is_err_and(is_left_behind) {
            roll_back(connection).await?;
            rows = query().fetch_all(&mut **connection).await;
        }
        self.is_idle = rows.is_ok();
        rows
    }

    /// Begins a session on this connection, to write.
    pub(super) async fn begin(self) -> Result<Session, Error> {
        Session::begin_on(self.into_connection()).await
    }

    /// The connection of a reader whose last query is over.
    pub(super) fn into_connection(mut self) -> PoolConnection<Sqlite> {
        self.connection.take().expect("a reader has its connection until it is a session's")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.is_idle {
            return;
        }
        let leaving = RollingBack(Some(connection));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(leaving.roll_back());
        }
    }
}

/// The `SELECT` in a transaction of its own.
pub(super) fn alone(select: &str) -> String {
    format!("BEGIN; {select}; ROLLBACK")
}

/// A connection that is being rolled back. Dropped half way, by a runtime that shuts down, it is closed and does not go
/// back to the pool.
struct RollingBack(Option<PoolConnection<Sqlite>>);

impl RollingBack {
    async fn roll_back(mut self) {
        if let Some(connection) = &mut self.0
            && roll_back(connection).await.is_ok()
        {
            self.0 = None;
        }
    }
}

impl Drop for RollingBack {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

async fn roll_back(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    if Manager::get_transaction_depth(connection) == 0
        && let Err(error) = connection.execute("ROLLBACK").await
        // sqlx counts no transaction, but there may be one. If there is none, SQLite answers with an error.
        && !is_answer(&error)
    {
        return Err(error);
    }
    while Manager::get_transaction_depth(connection) > 0 {
        if Manager::rollback(connection).await.is_err() {
            // The handler ended the transaction, and sqlx still counts it: begin one for sqlx to roll back. Closing the
            // connection instead would lose a database in memory.
            connection.execute("BEGIN").await?;
            Manager::rollback(connection).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    async fn pool() -> SqlitePool {
        // Without a deadline a test could wait for a connection that never comes back.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(SqliteConnectOptions::new()).await;
        let pool = pool.expect("a database in memory");
        let tables = "CREATE TABLE parents (id integer PRIMARY KEY);
            CREATE TABLE rows (id integer PRIMARY KEY, parent REFERENCES parents DEFERRABLE INITIALLY DEFERRED)";
        pool.execute(tables).await.expect("tables");
        pool
    }

    fn ending(writes: &str) -> &'static Ending {
        Box::leak(Box::new(Ending::new(writes)))
    }

    async fn rows(pool: &SqlitePool) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM rows").fetch_one(pool).await.expect("a number")
    }

    fn name(finished: &Finished) -> &'static str {
        match finished {
            Ok(()) => "committed",
            Err(Unfinished::Failed(_)) => "failed",
            Err(Unfinished::NotHeld) => "not held",
            Err(Unfinished::Commit(CommitFailed::SavepointOpen)) => "savepoint open",
            Err(Unfinished::Commit(CommitFailed::Refused(_))) => "refused",
            Err(Unfinished::Commit(CommitFailed::Unknown(_))) => "unknown",
        }
    }

    #[tokio::test]
    async fn r16_an_ending_commits_one_row_or_nothing_and_says_what_failed() {
        let table = [
            ("committed", "RELEASE idem_run; INSERT INTO rows (id) VALUES (1)", 1),
            // The last statement counts, and no other.
            ("committed", "RELEASE idem_run; DELETE FROM rows WHERE id = 7; INSERT INTO rows (id) VALUES (1)", 1),
            ("not held", "RELEASE idem_run; INSERT INTO rows (id) VALUES (1); DELETE FROM rows WHERE id = 7", 0),
            ("not held", "RELEASE idem_run; INSERT INTO rows (id) VALUES (1), (2)", 0),
            ("failed", "RELEASE another; INSERT INTO rows (id) VALUES (1)", 0),
            ("failed", "RELEASE idem_run; INSERT INTO rows (id) VALUES (1); INSERT INTO rows (id) VALUES (1)", 0),
            ("failed", "RELEASE idem_run; INSERT INTO absent VALUES (1)", 0),
            ("refused", "RELEASE idem_run; INSERT INTO rows (parent) VALUES (1)", 0),
        ];
        for (expected, writes, kept) in table {
            let pool = pool().await;
            let mut session = Session::begin(&pool).await.expect("begun");
            let ending = ending(writes);
            let finished = session.finish(ending.query(), ending).await;
            assert_eq!(name(&finished), expected, "{writes}");
            // As a flow does: what is not committed is rolled back.
            drop(session);
            assert_eq!(rows(&pool).await, kept, "{writes}");
            let mut next = pool.acquire().await.expect("a connection");
            assert_eq!(Manager::get_transaction_depth(&next), 0, "{writes}");
            next.execute("BEGIN; ROLLBACK").await.expect("no transaction is open");
        }
    }

    #[tokio::test]
    async fn r16_an_ending_does_not_commit_into_a_savepoint_that_was_left_open() {
        let pool = pool().await;
        let mut session = Session::begin(&pool).await.expect("begun");
        std::mem::forget(session.connection().begin().await.expect("a savepoint"));
        let ending = ending("RELEASE idem_run; INSERT INTO rows (id) VALUES (1)");
        let finished = session.finish(ending.query(), ending).await;
        assert_eq!(name(&finished), "savepoint open");
        drop(session);
        assert_eq!(rows(&pool).await, 0);
    }
}
