//! A pooled connection inside a transaction, and every way out of the transaction.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use idem_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Database, Executor, Postgres, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::error::{commit_was_refused, is_gone, is_left_behind};
use super::far;
use super::fitness::Fitness;
use super::in_time::{InTime, no_answer};
use super::store::PgStore;
use super::timer::Timer;
use crate::database::CommitFailed;
use crate::error::{not_begun, store_error};

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
#[derive(Debug, Clone)]
pub(super) struct Begin {
    statement: &'static str,
    /// Settings that are in the statement, too.
    settings: &'static str,
    /// What the transaction has to take before anything else, in the message that begins it: a round trip less.
    then: Option<Arc<str>>,
    /// The statement that claims, which comes last and may [fail](far::is_not_claimed).
    claim: Option<Arc<str>>,
}

impl Begin {
    /// Checks at compile time that the statement was made by [`begin!`].
    pub(super) const fn checked(statement: &'static str) -> Self {
        let (begin, statement_bytes) = (b"BEGIN; ROLLBACK; BEGIN", statement.as_bytes());
        let mut at = 0;
        while at < begin.len() {
            assert!(statement_bytes[at] == begin[at], "a transaction begins by `begin!`");
            at += 1;
        }
        Self { statement, settings: "", then: None, claim: None }
    }

    /// The same, with a time limit of the server's own on the pauses between two statements. Called once for a store.
    pub(super) fn limited(self, limit: Duration) -> Self {
        // Zero would mean that there is no limit, and Postgres counts in an `i32`.
        let milliseconds = limit.as_millis().clamp(1, i32::MAX as u128);
        let settings = format!("; SET LOCAL idle_in_transaction_session_timeout = {milliseconds}");
        let statement = format!("{}{settings}", self.statement);
        let (statement, settings) = (Box::leak(statement.into_boxed_str()), Box::leak(settings.into_boxed_str()));
        Self { statement, settings, ..self }
    }

    /// The same, and then these statements. No text of a request is in them, only numbers.
    pub(super) fn then(&self, statements: String) -> Self {
        Self { then: Some(statements.into()), ..self.clone() }
    }

    /// The same, and then a claim. See [`far`].
    pub(super) fn claiming(self, claim: String) -> Self {
        Self { claim: Some(claim.into()), ..self }
    }

    pub(super) fn claims(&self) -> bool {
        self.claim.is_some()
    }

    fn message(&self) -> SqlStr {
        let Self { statement, then, claim, .. } = self;
        match (then, claim) {
            (None, None) => statement.into_sql_str(),
            // Joined, not formatted: each request does it.
            (Some(then), None) => AssertSqlSafe([statement, "; ", then].concat()).into_sql_str(),
            (None, Some(claim)) => AssertSqlSafe(format!("{statement}; {claim}")).into_sql_str(),
            (Some(then), Some(claim)) => AssertSqlSafe(format!("{statement}; {then}; {claim}")).into_sql_str(),
        }
    }

    /// The error of a message that has not begun a transaction.
    pub(super) fn failed(&self, error: sqlx::Error) -> Error {
        // The cause may be the claim in it, as that the functions are missing.
        if self.claims() && !is_gone(&error) { store_error(error) } else { not_begun(error) }
    }

    /// Ends the transaction that this has begun, and begins it again without a claim. The isolation level stays, and
    /// settings do not.
    fn again(&self) -> SqlStr {
        let Self { settings, then, .. } = self;
        match then {
            None => AssertSqlSafe(format!("ROLLBACK AND CHAIN{settings}")).into_sql_str(),
            Some(then) => AssertSqlSafe(format!("ROLLBACK AND CHAIN{settings}; {then}")).into_sql_str(),
        }
    }
}

/// Limits the waits for a lock in this transaction. The application may have set a limit of its own for the connection,
/// which is to hold for the handler: it is kept until the claim is [marked](Session::mark).
pub(super) fn limited_waits(limit: Duration) -> String {
    // Zero would mean that there is no limit.
    let milliseconds = limit.as_millis().max(1);
    format!(
        "SELECT pg_catalog.set_config('idem.lock_timeout', pg_catalog.current_setting('lock_timeout'), true);
        SET LOCAL lock_timeout = {milliseconds}"
    )
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
    /// Whether a claim was in the message that began the transaction, and has succeeded.
    has_claimed: bool,
}

impl Session {
    pub(super) async fn begin_on(
        connection: PoolConnection<Postgres>,
        store: &PgStore,
        begin: &Begin,
    ) -> Result<Self, Error> {
        Self::bare(connection, store).begun(begin).await
    }

    /// A session before its BEGIN, for a statement that stands alone.
    pub(super) fn bare(connection: PoolConnection<Postgres>, store: &PgStore) -> Self {
        let limit = store.inner().statement_deadline;
        let (timer, fitness) = (Timer::default(), Fitness::Fit);
        Self { connection: Some(connection), limit, timer, fitness, has_begun: false, has_claimed: false }
    }

    pub(super) async fn begun(self, begin: &Begin) -> Result<Self, Error> {
        self.try_begin(begin).await.map_err(|error| begin.failed(error))
    }

    pub(super) async fn try_begin(mut self, begin: &Begin) -> sqlx::Result<Self> {
        // Noted before BEGIN is sent, so that the drop cleans up after a cancelled BEGIN.
        self.has_begun = true;
        let mut begun = self.send_begin(begin).await;
        if begun.as_ref().is_err_and(is_left_behind) {
            begun = self.answer(async |connection| roll_back(connection).await).await;
            if begun.is_ok() {
                begun = self.send_begin(begin).await;
            }
        }
        self.has_claimed = begin.claims() && begun.is_ok();
        if begin.claims() && begun.as_ref().is_err_and(far::is_not_claimed) {
            // Begun all the same, to find out why.
            begun = self.send(begin.again()).await;
        }
        if let Err(error) = begun {
            self.discard();
            return Err(error);
        }
        Ok(self)
    }

    pub(super) fn has_claimed(&self) -> bool {
        self.has_claimed
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    async fn send_begin(&mut self, begin: &Begin) -> sqlx::Result<()> {
        self.send(begin.message()).await
    }

    async fn send(&mut self, begin: SqlStr) -> sqlx::Result<()> {
        self.answer(async |connection| Manager::begin(connection, Some(begin)).await).await
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

    /// Rolls back and begins again on the same server connection. The snapshot is new. The locks are released, and those
    /// of `begin` are taken.
    pub(super) async fn restart(&mut self, begin: &Begin) -> sqlx::Result<()> {
        self.in_time().execute(begin.again()).await.map(|_| ())
    }

    /// Limits the waits no more, and marks the place where the handler begins, for a store without advisory locks. The
    /// handler may wait for as long as its connection lets it.
    pub(super) async fn mark(&mut self) -> sqlx::Result<()> {
        let mark =
            "SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('idem.lock_timeout'), true);
            SAVEPOINT idem_claimed";
        self.in_time().execute(mark).await.map(|_| ())
    }

    /// Rolls back to the savepoint. Fails if the transaction is not the one that has it. With advisory locks the savepoint
    /// is before the claim, which is undone, and the locks are kept. Without, it is after the claim, which is kept.
    ///
    /// It works in a failed transaction, too: a failed statement of the handler undoes only what comes after the
    /// savepoint. The savepoint is plain SQL, because one of sqlx's would count as one that the handler has left open.
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

    /// Sends the completion and the COMMIT in one message. After a success the connection is in a transaction with nothing
    /// in it, which is rolled back after the answer.
    pub(super) async fn complete(&mut self, completion: SqlStr, deadline: Duration) -> Result<(), CommitFailed> {
        if Manager::get_transaction_depth(self.connection()) != 1 {
            return Err(CommitFailed::SavepointOpen);
        }
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        let completed = async {
            // The late answer to a statement that the handler gave up would be taken for the completion's. If it is an
            // error, the transaction has failed, and the completion says so.
            _ = connection.flush().await;
            connection.execute(sqlx::raw_sql(completion)).await
        };
        match self.timer.within(deadline, completed).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                self.fitness.note(&error);
                Err(CommitFailed::Unknown(error))
            }
            None => {
                self.fitness = Fitness::Silent;
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
