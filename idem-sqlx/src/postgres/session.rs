//! A pooled connection inside a transaction, and every way out of the transaction.

use std::time::Duration;

use idem_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Database, Executor, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::error::{commit_was_refused, is_left_behind, is_unfit};
use crate::database::CommitFailed;
use crate::error::{not_begun, store_error};
use crate::failure::sqlx_error;

type Manager = <Postgres as Database>::TransactionManager;

/// The message that begins a transaction: `BEGIN; ROLLBACK; BEGIN`, then options and statements.
///
/// A pool may hand out a connection with an open transaction of an earlier user: sqlx 0.9.0 leaves one open if its
/// `begin` is cancelled, and the pool does not notice a raw BEGIN. In an open transaction BEGIN only causes a warning,
/// and the time, the snapshot, the settings and the writes would be those of that transaction. So ROLLBACK ends it. The
/// first BEGIN is only there so that ROLLBACK always finds a transaction: without it, ROLLBACK would put a warning into
/// the server's log for each request. All of it is one message and one round trip. `now()` is the time of the message.
///
/// The price is that `pg_stat_database.xact_rollback` counts one rollback for each transaction of the store. Nothing
/// else is as exact. `SET TRANSACTION` fails after a query, but not after a bare BEGIN or a SET. Comparing `now()` with
/// `statement_timestamp()` would do, but is a query to plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin(&'static str);

impl Begin {
    /// Checks at compile time that the statement was made by [`begin!`].
    pub(super) const fn checked(statement: &'static str) -> Self {
        let (begin, statement_bytes) = (b"BEGIN; ROLLBACK; BEGIN", statement.as_bytes());
        let mut at = 0;
        while at < begin.len() {
            assert!(statement_bytes[at] == begin[at], "a transaction begins by `begin!`");
            at += 1;
        }
        Self(statement)
    }
}

macro_rules! begin {
    ($options:literal) => {
        const { $crate::postgres::session::Begin::checked(concat!("BEGIN; ROLLBACK; BEGIN", $options)) }
    };
}
pub(super) use begin;

/// A connection whose transaction has begun, or is about to.
///
/// sqlx's own `Transaction` has three faults: a cancelled `begin` leaves its connection inside the transaction
/// (launchbadge/sqlx#4393), a connection whose COMMIT hangs cannot be taken from it, and it commits even if a savepoint
/// was left open.
///
/// Dropped, it rolls back. The connection goes to the pool only after the rollback, and never if it is unfit.
pub struct Session(Option<PoolConnection<Postgres>>, Fitness);

/// Whether the connection can do the work of the next transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    Fit,
    /// A statement failed by what belongs to the connection and outlives the transaction.
    Unfit,
}

impl Fitness {
    pub(super) fn note(&mut self, error: &sqlx::Error) {
        if is_unfit(error) {
            *self = Self::Unfit;
        }
    }
}

impl Session {
    pub(super) async fn begin(pool: &PgPool, begin: Begin) -> Result<Self, Error> {
        Self::begin_on(pool.acquire().await.map_err(not_begun)?, begin).await
    }

    pub(super) async fn begin_on(connection: PoolConnection<Postgres>, begin: Begin) -> Result<Self, Error> {
        // The session owns the connection before BEGIN is sent, so that its drop cleans up after a cancelled BEGIN.
        let mut session = Self(Some(connection), Fitness::Fit);
        let mut begun = Manager::begin(session.connection(), Some(begin.0.into_sql_str())).await;
        if begun.as_ref().is_err_and(is_left_behind) {
            roll_back(session.connection()).await.map_err(not_begun)?;
            begun = Manager::begin(session.connection(), Some(begin.0.into_sql_str())).await;
        }
        if let Err(error) = begun {
            session.discard();
            return Err(not_begun(error));
        }
        Ok(session)
    }

    /// The error of one of the store's statements on this connection.
    pub(super) fn failed(&mut self, error: sqlx::Error) -> Error {
        self.1.note(&error);
        store_error(error)
    }

    /// Looks at such an error where it has been made already.
    pub(super) fn noted(&mut self, error: Error) -> Error {
        if let Some(error) = sqlx_error(&error) {
            self.1.note(error);
        }
        error
    }

    /// The connection, and where to note its errors.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, &mut Fitness) {
        (self.0.as_mut().expect("a session has its connection until it ends"), &mut self.1)
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("a session has its connection until it ends")
    }

    pub(super) fn connection_ref(&self) -> &PgConnection {
        self.0.as_ref().expect("a session has its connection until it ends")
    }

    /// Rolls back and begins again on the same server connection. The locks are released, and the snapshot is new.
    pub(super) async fn restart(&mut self) -> sqlx::Result<()> {
        self.connection().execute("ROLLBACK AND CHAIN").await.map(|_| ())
    }

    /// Marks the place where the handler begins. A failed statement of the handler undoes only what comes after the
    /// mark. The claim, and the locks that show it to duplicates, stay until the transaction ends.
    ///
    /// It is plain SQL, because a savepoint of sqlx's would count as one that the handler has left open.
    pub(super) async fn mark(&mut self) -> sqlx::Result<()> {
        self.connection().execute("SAVEPOINT idem_claimed").await.map(|_| ())
    }

    /// Rolls back the handler's writes, and keeps the claim. Fails if the transaction is not the one that was marked.
    pub(super) async fn undo(&mut self) -> sqlx::Result<()> {
        self.connection().execute("ROLLBACK TO SAVEPOINT idem_claimed").await.map(|_| ())
    }

    /// Fails if the transaction has failed or is over.
    pub(super) async fn check(&mut self) -> sqlx::Result<()> {
        self.connection().execute("SAVEPOINT idem_check").await.map(|_| ())
    }

    pub(super) async fn commit(mut self, deadline: Duration) -> Result<(), CommitFailed> {
        let depth = Manager::get_transaction_depth(self.connection());
        if depth != 1 {
            // sqlx would release the savepoint, report success, and leave the transaction open.
            return Err(CommitFailed::SavepointOpen);
        }
        // Dropped before the answer, the connection is closed. In the pool it might be busy for ever.
        let fitness = std::mem::replace(&mut self.1, Fitness::Unfit);
        match timeout(deadline, Manager::commit(self.connection())).await {
            Ok(Ok(())) => {
                self.1 = fitness;
                self.discard_if_unfit();
                self.0 = None;
                Ok(())
            }
            Ok(Err(error)) if commit_was_refused(&error) => {
                self.1 = fitness;
                self.1.note(&error);
                Err(CommitFailed::Refused(error))
            }
            Ok(Err(error)) => {
                self.discard();
                Err(CommitFailed::Unknown(error))
            }
            Err(_elapsed) => {
                self.discard();
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to COMMIT in time");
                Err(CommitFailed::Unknown(error.into()))
            }
        }
    }

    pub(super) async fn rollback(mut self) {
        self.discard_if_unfit();
        if let Some(connection) = self.0.take() {
            RollingBack(Some(connection)).roll_back().await;
        }
    }

    fn discard_if_unfit(&mut self) {
        if self.1 == Fitness::Unfit {
            self.discard();
        }
    }

    /// Closes the connection at once, without waiting for an answer.
    pub(super) fn discard(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.discard_if_unfit();
        let Some(mut connection) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            // The pool takes connections back in a task. Without a runtime the connection is closed.
            drop(connection.detach());
            return;
        };
        if Manager::get_transaction_depth(&connection) == 1 {
            // Queued now, sent when the pool takes the connection back.
            Manager::start_rollback(&mut connection);
        } else {
            runtime.spawn(RollingBack(Some(connection)).roll_back());
        }
    }
}

/// A connection that is being rolled back. Dropped half way, by a runtime that shuts down, it is closed and does not go
/// back to the pool.
struct RollingBack(Option<PoolConnection<Postgres>>);

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

async fn roll_back(connection: &mut PgConnection) -> sqlx::Result<()> {
    if Manager::get_transaction_depth(connection) == 0 {
        // sqlx has counted no BEGIN, but the server may have seen one.
        connection.execute("ROLLBACK").await?;
    }
    while Manager::get_transaction_depth(connection) > 0 {
        Manager::rollback(connection).await?;
    }
    Ok(())
}
