//! A pooled connection inside a transaction, and every way out of the transaction.

use std::mem::take;
use std::time::Duration;

use idem_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Database, Executor, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::error::{commit_was_refused, is_left_behind};
use super::fitness::Fitness;
use super::in_time::{InTime, no_answer};
use super::store::PgStore;
use super::timer::Timer;
use crate::database::CommitFailed;
use crate::error::not_begun;

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

    /// The same, with a time limit of the server's own on the pauses between two statements. Called once for a store.
    pub(super) fn limited(self, limit: Duration) -> Self {
        // Zero would mean that there is no limit, and Postgres counts in an `i32`.
        let milliseconds = limit.as_millis().clamp(1, i32::MAX as u128);
        let statement = format!("{}; SET LOCAL idle_in_transaction_session_timeout = {milliseconds}", self.0);
        Self(Box::leak(statement.into_boxed_str()))
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
/// Dropped, it rolls back. The connection goes to the pool only after the rollback. It is closed if it is unfit for
/// another transaction, or if the rollback is not answered in time.
pub struct Session {
    connection: Option<PoolConnection<Postgres>>,
    /// How long each statement of the store may take.
    limit: Duration,
    timer: Timer,
    /// Whether the connection can go back to the pool.
    fitness: Fitness,
    /// Whether a BEGIN was sent. Without one there is nothing to roll back.
    has_begun: bool,
}

impl Session {
    pub(super) async fn begin(store: &PgStore, begin: Begin) -> Result<Self, Error> {
        // Boxed, as in `Running::acquire`.
        Self::begin_on(Box::pin(store.pool().acquire()).await.map_err(not_begun)?, store, begin).await
    }

    pub(super) async fn begin_on(
        connection: PoolConnection<Postgres>,
        store: &PgStore,
        begin: Begin,
    ) -> Result<Self, Error> {
        Self::bare(connection, store).begun(begin).await
    }

    /// A session before its BEGIN, for a statement that stands alone.
    pub(super) fn bare(connection: PoolConnection<Postgres>, store: &PgStore) -> Self {
        let limit = store.inner().statement_deadline;
        Self { connection: Some(connection), limit, timer: Timer::default(), fitness: Fitness::Fit, has_begun: false }
    }

    pub(super) async fn begun(mut self, begin: Begin) -> Result<Self, Error> {
        // Noted before BEGIN is sent, so that the drop cleans up after a cancelled BEGIN.
        self.has_begun = true;
        let mut begun = self.send_begin(begin).await;
        if begun.as_ref().is_err_and(is_left_behind) {
            self.answer(async |connection| roll_back(connection).await).await.map_err(not_begun)?;
            begun = self.send_begin(begin).await;
        }
        if let Err(error) = begun {
            self.discard();
            return Err(not_begun(error));
        }
        Ok(self)
    }

    async fn send_begin(&mut self, begin: Begin) -> sqlx::Result<()> {
        self.answer(async |connection| Manager::begin(connection, Some(begin.0.into_sql_str())).await).await
    }

    /// Asks the connection something that has to be answered in time.
    async fn answer(&mut self, ask: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<()>) -> sqlx::Result<()> {
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        self.timer.within(self.limit, ask(connection)).await.unwrap_or_else(|| {
            self.fitness = Fitness::Silent;
            Err(no_answer())
        })
    }

    /// The connection for the store's own statements.
    pub(super) fn in_time(&mut self) -> InTime<'_> {
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        InTime::new(connection, self.limit, &mut self.timer, &mut self.fitness)
    }

    /// The connection for a handler's statements, and where to note their errors.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, &mut Fitness) {
        (self.connection.as_mut().expect("a session has its connection until it ends"), &mut self.fitness)
    }

    /// The connection for a handler's statements.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has its connection until it ends")
    }

    pub(super) fn connection_ref(&self) -> &PgConnection {
        self.connection.as_ref().expect("a session has its connection until it ends")
    }

    /// Rolls back and begins again on the same server connection. The locks are released, and the snapshot is new.
    pub(super) async fn restart(&mut self) -> sqlx::Result<()> {
        self.in_time().execute("ROLLBACK AND CHAIN").await.map(|_| ())
    }

    /// Marks the place where the handler begins. A failed statement of the handler undoes only what comes after the
    /// mark. The claim, and the locks that show it to duplicates, stay until the transaction ends.
    ///
    /// It is plain SQL, because a savepoint of sqlx's would count as one that the handler has left open.
    pub(super) async fn mark(&mut self) -> sqlx::Result<()> {
        self.in_time().execute("SAVEPOINT idem_claimed").await.map(|_| ())
    }

    /// Rolls back the handler's writes, and keeps the claim. Fails if the transaction is not the one that was marked.
    pub(super) async fn undo(&mut self) -> sqlx::Result<()> {
        self.in_time().execute("ROLLBACK TO SAVEPOINT idem_claimed").await.map(|_| ())
    }

    /// Fails if the transaction has failed or is over.
    pub(super) async fn check(&mut self) -> sqlx::Result<()> {
        self.in_time().execute("SAVEPOINT idem_check").await.map(|_| ())
    }

    pub(super) async fn commit(mut self, deadline: Duration) -> Result<(), CommitFailed> {
        let depth = Manager::get_transaction_depth(self.connection());
        if depth != 1 {
            // sqlx would release the savepoint, report success, and leave the transaction open.
            return Err(CommitFailed::SavepointOpen);
        }
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        match self.timer.within(deadline, Manager::commit(connection)).await {
            Some(Ok(())) => {
                self.give_back();
                Ok(())
            }
            Some(Err(error)) if commit_was_refused(&error) => {
                self.fitness.note(&error);
                Err(CommitFailed::Refused(error))
            }
            Some(Err(error)) => {
                self.discard();
                Err(CommitFailed::Unknown(error))
            }
            None => {
                self.discard();
                Err(CommitFailed::Unknown(no_answer()))
            }
        }
    }

    pub(super) async fn rollback(mut self) {
        // Taken out of `self`, so that a drop does not roll back a second time.
        let session = self.moved();
        RollingBack(session).roll_back().await;
    }

    /// The same session. Nothing is left to clean up when this one is dropped.
    fn moved(&mut self) -> Self {
        Self { connection: self.connection.take(), timer: take(&mut self.timer), ..*self }
    }

    /// Gives the connection back to the pool, outside of any transaction, or closes it.
    fn give_back(&mut self) {
        if self.fitness != Fitness::Fit {
            self.discard();
        }
        let Some(mut connection) = self.connection.take() else { return };
        // The pool asks a connection that comes back for a sign of life, and would wait for it without end.
        match Handle::try_current() {
            Ok(runtime) => {
                let (mut timer, limit) = (take(&mut self.timer), self.limit);
                // Boxed: a task is moved several times before it runs.
                let returned = Box::pin(connection.return_to_pool());
                runtime.spawn(async move { timer.within(limit, returned).await });
            }
            Err(_no_runtime) => drop(connection.detach()),
        }
    }

    /// Closes the connection at once, without waiting for an answer.
    pub(super) fn discard(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.connection.is_none() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return self.discard() };
        let session = self.moved();
        runtime.spawn(RollingBack(session).roll_back());
    }
}

/// A session that is being rolled back. If that is not answered in time, or is dropped half way by a runtime that shuts
/// down, the connection is closed and does not go back to the pool.
struct RollingBack(Session);

impl RollingBack {
    async fn roll_back(mut self) {
        let Self(session) = &mut self;
        if session.connection.is_none() || session.fitness == Fitness::Silent {
            return;
        }
        if !session.has_begun || session.answer(async |connection| roll_back(connection).await).await.is_ok() {
            session.give_back();
        }
    }
}

impl Drop for RollingBack {
    fn drop(&mut self) {
        self.0.discard();
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
