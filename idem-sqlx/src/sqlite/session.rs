//! A pooled connection inside a transaction, and every way out of the transaction.

use idem_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Database, Executor, SqlSafeStr, Sqlite};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::error::{commit_was_refused, is_answer, is_left_behind, is_read_only};
use crate::database::CommitFailed;
use crate::error::not_begun;

type Manager = <Sqlite as Database>::TransactionManager;

/// `IMMEDIATE` takes the write lock at the start. The savepoints show whether the handler has ended the transaction:
/// they are gone then. Rolling back to a savepoint undoes everything without giving up the lock.
///
/// There are two savepoints because the completion releases one, to check that it exists. A run that is dropped at any
/// point after that still finds the other.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT idem_run; SAVEPOINT idem_run";

/// A connection whose transaction has begun, or is about to.
///
/// sqlx's own `Transaction` has two faults: it relies on a handler not to end the transaction with SQL of its own, and
/// it commits even if a savepoint was left open.
///
/// Dropped, it rolls back. The connection goes to the pool only after the rollback.
pub struct Session(Option<PoolConnection<Sqlite>>);

impl Session {
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

    /// A pool may hand out a connection with an open transaction of an earlier user, from a raw BEGIN or SAVEPOINT.
    /// SQLite refuses to begin another transaction in it, so the open one is rolled back and BEGIN is sent again.
    async fn begin_by(connection: PoolConnection<Sqlite>, statement: &'static str) -> Result<Self, Error> {
        let mut session = Self(Some(connection));
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
            && let Some(connection) = self.0.take()
        {
            drop(connection.detach());
        }
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.0.as_mut().expect("a session has its connection until it ends")
    }

    pub(super) fn connection_ref(&self) -> &SqliteConnection {
        self.0.as_ref().expect("a session has its connection until it ends")
    }

    /// Rolls everything back without giving up the write lock. Fails if the transaction is not the session's.
    pub(super) async fn restart(&mut self) -> sqlx::Result<()> {
        self.connection().execute("ROLLBACK TO idem_run").await.map(|_| ())
    }

    /// Fails if the transaction is no longer the session's.
    pub(super) async fn check(&mut self) -> sqlx::Result<()> {
        self.connection().execute("RELEASE idem_run").await.map(|_| ())
    }

    pub(super) async fn commit(mut self) -> Result<(), CommitFailed> {
        let depth = Manager::get_transaction_depth(self.connection());
        if depth != 1 {
            // sqlx would release the savepoint, report success, and leave the transaction open.
            return Err(CommitFailed::SavepointOpen);
        }
        match Manager::commit(self.connection()).await {
            Ok(()) => {
                self.0 = None;
                Ok(())
            }
            Err(error) if commit_was_refused(&error) => Err(CommitFailed::Refused(error)),
            Err(error) => Err(CommitFailed::Unknown(error)),
        }
    }

    pub(super) async fn rollback(mut self) {
        if let Some(connection) = self.0.take() {
            RollingBack(Some(connection)).roll_back().await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
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
    pub(super) async fn begin(mut self) -> Result<Session, Error> {
        Session::begin_on(self.connection.take().expect("a reader has its connection until it is a session's")).await
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
