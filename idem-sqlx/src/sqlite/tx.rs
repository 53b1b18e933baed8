//! The transactional context.

use std::fmt;
use std::future::{Ready, ready};
use std::ops::{ControlFlow, Deref, DerefMut};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use idem_core::bounds::EndedByItsHolder;
use idem_core::machine::{Decision, decide, lateness};
use idem_core::store::{Claim, Claimed, Context, Outcome, Rejected, Reply, Transaction};
use idem_core::{Disposition, Error, Identity, Kind, Request, Start};
use sqlx::sqlite::{SqliteConnection, SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo};
use sqlx::{Acquire, Either, Execute, Executor, SqlStr, Sqlite};

use super::error::{has_no_savepoint, is_answer};
use super::records::Met;
use super::session::{Reader, Session, Unfinished};
use super::store::SqliteStore;
use crate::database::CommitFailed;
use crate::error::{caused, store_error};
use crate::hints::{Before, mark_runs};
use crate::running::{Asked, Entered};
use crate::settle::{self, find_out};

/// The idempotency transaction on SQLite: what a handler gets as `tx: &mut SqliteTx`.
///
/// ```
/// use idem_sqlx::SqliteTx;
///
/// async fn insert_payment(tx: &mut SqliteTx, amount: i64) -> sqlx::Result<i64> {
///     sqlx::query_scalar("INSERT INTO payments (amount) VALUES (?) RETURNING id").bind(amount).fetch_one(tx).await
/// }
/// ```
///
/// Use it like sqlx's own transaction: `&mut *tx` is an executor, `&mut **tx` the connection, and `tx.begin()` (of
/// [`sqlx::Acquire`]) a savepoint. A helper that takes `&mut Transaction<'_, Sqlite>` gets such a savepoint.
///
/// # Rules
/// - Its writes are kept together with the reply, or not at all.
/// - Do not end it. A raw `COMMIT` or `ROLLBACK` is detected when the handler returns, and the caller gets
///   `transaction_ended`. The key is then poisoned: it does not run again until its record expires, because what was
///   kept cannot be known.
/// - A failed statement changes nothing, and the transaction continues, as always on SQLite. But a full disk, a failed
///   read or write, `OR ROLLBACK` and `RAISE(ROLLBACK)` make SQLite end the transaction. The store cannot tell that
///   from a handler's own `ROLLBACK` and treats it the same: the caller gets `transaction_ended`, and the key is
///   poisoned.
///
/// # Cancel safety
/// Dropped at any await, it rolls back. Its connection goes back to the pool after the rollback.
pub struct SqliteTx {
    store: SqliteStore,
    /// `Some` until the run is settled or dropped.
    session: Option<Session>,
    run: Option<Run>,
    /// What the hints knew of the database before the last question to it.
    before: Before,
}

/// What the transaction has claimed.
struct Run {
    request: Request,
    claim: Claim,
    /// Before the claim was sent.
    asked: Instant,
    began: Instant,
    /// Other requests of this process see the run until this is dropped, which is after the end of its
    /// transaction.
    entered: Entered,
}

/// The outcome of one try to claim.
enum Tried {
    Run,
    Replay(Reply, Option<Duration>),
    Refuse(Kind),
}

impl SqliteStore {
    /// Claims a request, or returns the stored result of its earlier run. It does what the attribute does for a plain
    /// function, without the attribute.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use idem_core::{Error, Fingerprint, Identity, Request, Start, Stored};
    /// use idem_sqlx::{SqliteStore, SqliteTx};
    ///
    /// async fn reserve(tx: &mut SqliteTx, order: &str) -> sqlx::Result<u32> {
    ///     sqlx::query("UPDATE stock SET free = free - 1 WHERE item = $1").bind(order).execute(tx).await?;
    ///     Ok(1)
    /// }
    ///
    /// async fn on_order(store: &SqliteStore, order: &str) -> Result<u32, Error> {
    ///     let identity = Identity::new("inventory", "inventory.reserve", order)?;
    ///     let ttl = Duration::from_secs(7 * 24 * 60 * 60);
    ///     let request = Request::new(identity, Fingerprint::of_value(order)?, ttl)?;
    ///     match store.begin(&request).await? {
    ///         Start::Run(mut run) => {
    ///             let reserved = reserve(&mut run, order).await.map_err(idem_sqlx::into_idem_error)?;
    ///             run.complete(&reserved).await
    ///         }
    ///         Start::Stored(Stored::Completed(value) | Stored::Rejected(value)) => value.read(),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// As for [`idem_core::begin`].
    ///
    /// # Cancel safety
    /// Dropped, it has claimed nothing.
    pub async fn begin(&self, request: &Request) -> Result<Start<SqliteTx>, Error> {
        idem_core::begin(self, request).await
    }
}

impl Context for SqliteTx {
    type Store = SqliteStore;

    async fn claim(store: &SqliteStore, request: &Request) -> Result<Claimed<Self>, Error> {
        request.check_ttl()?;
        let request = &*store.inner().sealer.request(request)?;
        let claimed = Self::claim_sealed(store, request).await?;
        if let Claimed::Replay(..) = claimed {
            store.inner().recent.insert(&request.identity.digest());
        }
        store.inner().sealer.claimed(&request.identity, claimed)
    }

    async fn complete(self, outcome: &Outcome) -> Result<(), Error> {
        let outcome = &*self.store.inner().sealer.outcome(self.identity(), outcome)?;
        self.finish(outcome).await
    }

    async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        let outcome = &*self.store.inner().sealer.outcome(self.identity(), outcome)?;
        let run = self.undo().await?;
        match self.try_claim(&run.request, run.claim).await? {
            Tried::Run => {
                self.run = Some(run);
                self.finish(outcome).await.map(|()| Rejected::Stored)
            }
            // Cannot happen here, because the write lock is held. A store without such a lock can see it.
            Tried::Replay(reply, _) => {
                self.store.inner().sealer.rejected(&run.request.identity, Rejected::Replay(reply))
            }
            Tried::Refuse(kind) => Ok(Rejected::Refuse(kind)),
        }
    }

    async fn release(mut self) -> Result<(), Error> {
        let (session, run) = (self.take_session(), self.take_run());
        settle::released(&self.store, abandon(self.store.clone(), session, run)).await
    }

    async fn begin_unrecorded(store: &SqliteStore) -> Result<Self, Error> {
        <Self as Transaction>::begin(store).await
    }

    async fn finish_unrecorded(self, disposition: Disposition) -> Result<(), Error> {
        self.end(disposition).await
    }
}

impl Transaction for SqliteTx {
    type Store = SqliteStore;

    async fn begin(store: &SqliteStore) -> Result<Self, Error> {
        Self::open(store).await
    }

    async fn end(mut self, disposition: Disposition) -> Result<(), Error> {
        if disposition != Disposition::Commit {
            self.give_up().await;
            return Ok(());
        }
        self.session().check().await.map_err(|error| caused(Kind::TransactionEnded, error))?;
        match self.take_session().commit().await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => Err(caused(Kind::OutcomeUnknown, error)),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl SqliteTx {
    /// Claims the request. A reply to replay is still sealed.
    async fn claim_sealed(store: &SqliteStore, request: &Request) -> Result<Claimed<Self>, Error> {
        let digest = request.identity.digest();
        let asked = Asked { request, digest: &digest, is_compared: true };
        let (before, sent) = (store.inner().hints.before(), Instant::now());
        let connection = match store.connection_for(asked).await? {
            ControlFlow::Continue(connection) => connection,
            ControlFlow::Break(kind) => return Ok(Claimed::Refuse(kind)),
        };
        let inner = store.inner();
        let mut reader = Reader::on(connection);
        let entered = inner.running.enter_claiming(request, digest);
        // A handler may hold the write lock for long. Reading a finished record does not need the lock.
        let looks_first = match &entered {
            Ok(entered) => inner.recent.contains(&digest) || !entered.is_alone(),
            Err(_) => true,
        };
        if looks_first && let Some(begun) = Self::look_up(store, &mut reader, request, before).await? {
            return Ok(begun);
        }
        let entered = match entered {
            Ok(entered) => entered,
            Err(kind) => return Ok(Claimed::Refuse(kind)),
        };
        let claim = Claim::random()?;
        let (mut tx, tried) = if looks_first {
            Self::claim_in_turn(store, reader.begin().await?, request, claim, before).await?
        } else {
            match Self::claim_at_once(store, reader, request, claim, before).await? {
                ControlFlow::Continue(tried) => tried,
                ControlFlow::Break(answer) => return Ok(answer),
            }
        };
        match tried {
            Tried::Run => {
                entered.won();
                mark_runs(store);
                // It has begun. A rejection claims again, whenever that is.
                let request = request.clone().with_first_sent(None);
                tx.run = Some(Run { request, claim, asked: sent, began: Instant::now(), entered });
                Ok(Claimed::Run(tx))
            }
            Tried::Replay(reply, age) => {
                tx.give_up().await;
                Ok(Claimed::Replay(reply, age))
            }
            Tried::Refuse(kind) => {
                tx.give_up().await;
                Ok(Claimed::Refuse(kind))
            }
        }
    }

    fn identity(&self) -> &Identity {
        &self.run.as_ref().expect("a recorded run").request.identity
    }

    pub(super) async fn open(store: &SqliteStore) -> Result<Self, Error> {
        let session = Session::begin_on(store.connection().await?).await?;
        Ok(Self { store: store.clone(), session: Some(session), run: None, before: Before::default() })
    }

    /// Answers a request whose run has ended, without taking the write lock.
    async fn look_up(
        store: &SqliteStore,
        reader: &mut Reader,
        request: &Request,
        before: Before,
    ) -> Result<Option<Claimed<Self>>, Error> {
        let (record, now) = store.inner().records.find_alone(reader, &request.identity).await?;
        Ok(match decide(record.as_ref(), request, now) {
            Decision::Replay(reply, age) => {
                store.inner().hints.keep_record(before, request, record.as_ref());
                Some(Claimed::Replay(reply, age))
            }
            Decision::Refuse(kind) => Some(Claimed::Refuse(kind)),
            Decision::Claim | Decision::Replace(_) => None,
        })
    }

    /// Looks the request up, and claims it by the same message if no writer has the lock. Breaks if there is an answer,
    /// which needs no lock.
    async fn claim_at_once(
        store: &SqliteStore,
        reader: Reader,
        request: &Request,
        claim: Claim,
        before: Before,
    ) -> Result<ControlFlow<Claimed<Self>, (Self, Tried)>, Error> {
        let mut session = Session::begin_without_lock(reader.into_connection()).await?;
        let answer = match store.inner().records.find_or_insert(session.connection(), request, claim).await {
            Some(Met::Nobody) => {
                let tx = Self { store: store.clone(), session: Some(session), run: None, before };
                return Ok(ControlFlow::Continue((tx, Tried::Run)));
            }
            Some(Met::Record(record, now)) => match decide(Some(&record), request, now) {
                Decision::Replay(reply, age) => {
                    store.inner().hints.keep_record(before, request, Some(&record));
                    Some(Claimed::Replay(reply, age))
                }
                Decision::Refuse(kind) => Some(Claimed::Refuse(kind)),
                Decision::Claim | Decision::Replace(_) => None,
            },
            None => None,
        };
        let Some(answer) = answer else {
            return Self::claim_again(store, session, request, claim, before).await.map(ControlFlow::Continue);
        };
        session.leave();
        Ok(ControlFlow::Break(answer))
    }

    /// Waits for the write lock. In a box, so that the future of every claim does not grow by it.
    fn claim_again<'f>(
        store: &'f SqliteStore,
        session: Session,
        request: &'f Request,
        claim: Claim,
        before: Before,
    ) -> BoxFuture<'f, Result<(Self, Tried), Error>> {
        Box::pin(async move { Self::claim_in_turn(store, session.begin_again().await?, request, claim, before).await })
    }

    /// Claims the request under the write lock.
    async fn claim_in_turn(
        store: &SqliteStore,
        session: Session,
        request: &Request,
        claim: Claim,
        before: Before,
    ) -> Result<(Self, Tried), Error> {
        let mut tx = Self { store: store.clone(), session: Some(session), run: None, before };
        let tried = tx.try_claim(request, claim).await?;
        Ok((tx, tried))
    }

    /// Claims the request in this transaction, or says why not.
    async fn try_claim(&mut self, request: &Request, claim: Claim) -> Result<Tried, Error> {
        let records = self.store.inner().records;
        if records.insert(self, request, claim).await.map_err(store_error)? {
            return Ok(Tried::Run);
        }
        let (record, now) = records.find(self, &request.identity).await?;
        match decide(record.as_ref(), request, now) {
            Decision::Replay(reply, age) => {
                self.store.inner().hints.keep_record(self.before, request, record.as_ref());
                Ok(Tried::Replay(reply, age))
            }
            Decision::Refuse(kind) => Ok(Tried::Refuse(kind)),
            // No other process writes meanwhile, so the record in the way stays there until it is replaced here.
            Decision::Claim => Ok(Tried::Refuse(Kind::KeyInFlight)),
            Decision::Replace(expired) => match records.replace(self, request, claim, expired).await {
                Ok(true) => Ok(Tried::Run),
                Ok(false) => Ok(Tried::Refuse(Kind::KeyInFlight)),
                Err(error) => Err(store_error(error)),
            },
        }
    }

    /// Rolls back, and gives the locks and the connection back before there is an answer.
    async fn give_up(mut self) {
        let rolled_back = self.take_session().rollback().map(Ok);
        // A rollback that fails closes its connection, and reports nothing.
        _ = settle::released(&self.store, rolled_back).await;
    }

    /// Writes the completion and commits. The completion is the last statement before COMMIT, so that an ended
    /// transaction is detected (rule 16).
    async fn finish(mut self, outcome: &Outcome) -> Result<(), Error> {
        let inner = self.store.inner();
        let before = inner.hints.before();
        let (Some(session), Some(run)) = (&mut self.session, &self.run) else { unreachable!("a recorded run") };
        let elapsed = run.began.elapsed();
        let late = lateness(run.request.ttl, elapsed);
        let failed = match inner.records.complete(session, &run.request, run.claim, outcome, elapsed, late).await {
            Ok(()) => {
                inner.recent.insert(run.entered.digest());
                inner.hints.keep_outcome(before, &run.request, outcome, run.asked);
                self.take_session().leave();
                self.run = None;
                return Ok(());
            }
            Err(failed) => failed,
        };
        match failed {
            Unfinished::NotHeld => Err(self.ended().await),
            // The code can also mean another SQL error, such as that of a trigger. The second savepoint tells the two
            // apart: asked for it, a transaction that is whole is rolled back to it.
            Unfinished::Failed(error) if has_no_savepoint(&error) && matches!(self.holds().await, Ok(false)) => {
                Err(self.ended().await)
            }
            Unfinished::Failed(error) => {
                let run = self.take_run();
                self.take_session().rollback().await;
                drop(run);
                Err(store_error(error))
            }
            Unfinished::Commit(failed) => {
                let run = self.take_run();
                drop(self.take_session());
                find_out(&self.store, &run.request, run.claim, Err(failed)).await
            }
        }
    }

    /// Rolls back the handler's writes and the claim, and keeps the transaction open.
    async fn undo(&mut self) -> Result<Run, Error> {
        if !self.holds().await.map_err(store_error)? {
            return Err(self.ended().await);
        }
        Ok(self.take_run())
    }

    async fn holds(&mut self) -> sqlx::Result<bool> {
        still_holds(self.session()).await
    }

    async fn ended(&mut self) -> Error {
        let (store, session, run) = (self.store.clone(), self.take_session(), self.take_run());
        settle::ended_in_task(&self.store, async move { ended(&store, session, run).await }).await
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a session until the run is settled")
    }

    pub(super) fn take_session(&mut self) -> Session {
        self.session.take().expect("a session until the run is settled")
    }

    fn take_run(&mut self) -> Run {
        self.run.take().expect("a recorded run")
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if let (Some(session), Some(run)) = (self.session.take(), self.run.take()) {
            settle::release(&self.store, abandon(self.store.clone(), session, run));
        }
    }
}

/// Rolls a run back, unless its handler ended the transaction.
async fn abandon(store: SqliteStore, mut session: Session, run: Run) -> Result<(), Error> {
    if let Ok(false) = still_holds(&mut session).await {
        return Err(ended(&store, session, run).await);
    }
    session.rollback().await;
    Ok(())
}

/// Whether the transaction is still the one that claimed. If so, everything in it is rolled back. An error means that
/// the transaction cannot be asked. It is lost then, and commits nothing more.
async fn still_holds(session: &mut Session) -> sqlx::Result<bool> {
    match session.restart().await {
        Ok(()) => Ok(true),
        Err(error) if is_answer(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Poisons the key of a handler that ended the transaction it was lent.
async fn ended(store: &SqliteStore, session: Session, run: Run) -> Error {
    session.rollback().await;
    settle::ended(store, &run.request, run.claim).await
}

impl Deref for SqliteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.session.as_ref().expect("a session until the run is settled").connection_ref()
    }
}

impl DerefMut for SqliteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.session().connection()
    }
}

impl fmt::Debug for SqliteTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTx").finish_non_exhaustive()
    }
}

/// For the compile errors only: the transaction is not the handler's to end.
///
/// ```
/// async fn pay(tx: &mut idem_sqlx::SqliteTx) {
///     drop(tx);
/// }
/// ```
///
/// ```compile_fail,E0277
/// async fn pay(tx: &mut idem_sqlx::SqliteTx) {
///     drop(tx.commit().await);
/// }
/// ```
///
/// ```compile_fail,E0277
/// async fn pay(tx: &mut idem_sqlx::SqliteTx) {
///     drop(tx.rollback().await);
/// }
/// ```
#[doc(hidden)]
impl SqliteTx {
    pub fn commit(&mut self) -> Ready<sqlx::Result<()>>
    where
        for<'c> &'c mut Self: EndedByItsHolder,
    {
        ready(Ok(()))
    }

    pub fn rollback(&mut self) -> Ready<sqlx::Result<()>>
    where
        for<'c> &'c mut Self: EndedByItsHolder,
    {
        ready(Ok(()))
    }
}

/// For helpers that take any connection or transaction. `begin` is a savepoint.
impl<'c> Acquire<'c> for &'c mut SqliteTx {
    type Database = Sqlite;
    type Connection = &'c mut SqliteConnection;

    fn acquire(self) -> BoxFuture<'c, sqlx::Result<&'c mut SqliteConnection>> {
        Box::pin(ready(Ok(&mut **self)))
    }

    fn begin(self) -> BoxFuture<'c, sqlx::Result<sqlx::Transaction<'c, Sqlite>>> {
        Acquire::begin(&mut **self)
    }
}

impl<'c> Executor<'c> for &'c mut SqliteTx {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<SqliteQueryResult, SqliteRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        (&mut **self).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<SqliteRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        (&mut **self).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<SqliteStatement>>
    where
        'c: 'e,
    {
        (&mut **self).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Sqlite>>>
    where
        'c: 'e,
    {
        (&mut **self).describe(sql)
    }
}
