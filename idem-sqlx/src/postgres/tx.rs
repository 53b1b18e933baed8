//! The transactional context.

use std::fmt;
use std::future::{Ready, ready};
use std::ops::{ControlFlow, Deref, DerefMut};
use std::pin::pin;
use std::time::Instant;

use futures_util::future::{BoxFuture, join};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use idem_core::bounds::EndedByItsHolder;
use idem_core::machine::{Decision, decide, lateness};
use idem_core::store::{Claim, Claimed, Context, Outcome, RELEASE_PATIENCE, Rejected, Reply, Transaction};
use idem_core::{Disposition, Error, Kind, Request, Start};
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Acquire, Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::{sleep, timeout};

use super::error::{has_no_savepoint, is_cancelled, is_serialization_failure};
use super::in_time::InTime;
use super::leases::Leases;
use super::records::{Holder, Records};
use super::session::{Begin, Session};
use super::store::PgStore;
use crate::database::{CommitFailed, Database};
use crate::error::{caused, store_error};
use crate::retry;
use crate::running::{Digest, Entered, State};
use crate::settle::{self, find_out};

/// The idempotency transaction on Postgres: what a handler gets as `tx: &mut PgTx`.
///
/// ```
/// use idem_sqlx::PgTx;
///
/// async fn insert_payment(tx: &mut PgTx, amount: i64) -> sqlx::Result<i64> {
///     sqlx::query_scalar("INSERT INTO payments (amount) VALUES ($1) RETURNING id").bind(amount).fetch_one(tx).await
/// }
/// ```
///
/// Use it like sqlx's own transaction: `&mut *tx` is an executor, `&mut **tx` the connection, and `tx.begin()` (of
/// [`sqlx::Acquire`]) a savepoint. A helper that takes `&mut Transaction<'_, Postgres>` gets such a savepoint.
///
/// # Rules
/// - Its writes are kept together with the reply, or not at all.
/// - Do not end it. A raw `COMMIT` or `ROLLBACK` is detected when the handler returns, and the caller gets
///   `transaction_ended`. The key is then poisoned: it does not run again until its record expires, because what was
///   kept cannot be known.
/// - Do not release the savepoint `idem_claimed`: it belongs to the store. The claim is before the savepoint, the
///   handler's writes are after it.
/// - Do not change the role: the completion is written in the same transaction. `search_path` may be changed.
/// - Prefer `&mut *tx` to `&mut **tx` for statements. If a statement through `&mut *tx` fails because of its connection
///   (the connection only reads, or a plan is out of date), the connection is closed after the run. An error of a statement
///   through `&mut **tx` is not seen by the store.
/// - A failed statement fails the whole transaction, as always on Postgres. A handler that continues anyway gets
///   `transaction_aborted`. Put a savepoint around a statement that may fail.
///
/// # Cancel safety
/// Dropped at any await, it rolls back. Its connection goes back to the pool after the rollback.
pub struct PgTx {
    store: PgStore,
    /// `Some` until the run is settled or dropped.
    session: Option<Session>,
    run: Option<Run>,
    /// For a step: when the transaction began, by the database's clock and by ours.
    pub(super) began: Option<(i64, Instant)>,
    /// For a step: the server process that runs it.
    pub(super) backend: Option<i32>,
}

/// What the transaction has claimed.
struct Run {
    request: Request,
    claim: Claim,
    began: Instant,
    /// Other requests of this process see the run until this is dropped, which is after the end of its
    /// transaction.
    entered: Entered,
}

/// The outcome of one try to claim.
enum Tried {
    Run,
    Replay(Reply),
    Refuse(Kind),
    /// The state of the key changed during the try.
    Again,
}

impl PgStore {
    /// Claims a request, or returns the stored result of its earlier run. It does what the attribute does for a plain
    /// function, without the attribute.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use idem_core::{Error, Fingerprint, Identity, Request, Start, Stored};
    /// use idem_sqlx::{PgStore, PgTx};
    ///
    /// async fn reserve(tx: &mut PgTx, order: &str) -> sqlx::Result<u32> {
    ///     sqlx::query("UPDATE stock SET free = free - 1 WHERE item = $1").bind(order).execute(tx).await?;
    ///     Ok(1)
    /// }
    ///
    /// async fn on_order(store: &PgStore, order: &str) -> Result<u32, Error> {
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
    pub async fn begin(&self, request: &Request) -> Result<Start<PgTx>, Error> {
        idem_core::begin(self, request).await
    }
}

impl Context for PgTx {
    type Store = PgStore;

    async fn claim(store: &PgStore, request: &Request) -> Result<Claimed<Self>, Error> {
        request.check_ttl()?;
        let digest = request.identity.digest();
        let mut looked = match Box::pin(Self::look_up(store, request, &digest)).await? {
            ControlFlow::Break(begun) => return Ok(begun),
            ControlFlow::Continue(session) => session,
        };
        for pause in retry::pauses() {
            let session = match looked.take() {
                Some(session) => session,
                None => match store.inner().running.acquire(store.pool(), request, &digest, true).await? {
                    ControlFlow::Continue(connection) => Session::bare(connection, store),
                    ControlFlow::Break(kind) => return Ok(Claimed::Refuse(kind)),
                },
            };
            let session = session.begun(store.inner().begin).await?;
            let mut tx = Self { store: store.clone(), session: Some(session), run: None, began: None, backend: None };
            let claim = Claim::random()?;
            match tx.try_claim(request, claim).await? {
                Tried::Run => {
                    tx.session().mark().await.map_err(store_error)?;
                    let entered = store.inner().running.enter(digest, request.fingerprint, State::Transaction);
                    tx.run = Some(Run { request: request.clone(), claim, began: Instant::now(), entered });
                    return Ok(Claimed::Run(tx));
                }
                // The record is in force, so nobody asks for its locks: the rollback goes on behind the answer.
                Tried::Replay(reply) => return Ok(Claimed::Replay(reply)),
                Tried::Refuse(kind) => {
                    tx.give_up().await;
                    return Ok(Claimed::Refuse(kind));
                }
                // No request waits while it holds a connection.
                Tried::Again => tx.give_up().await,
            }
            sleep(pause).await;
        }
        Ok(Claimed::Refuse(Kind::KeyInFlight))
    }

    async fn complete(mut self, outcome: &Outcome) -> Result<(), Error> {
        self.write_outcome(outcome).await?;
        self.commit_claimed().await
    }

    async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        // The claim and its locks stay in place, so no other request can run before the outcome is stored.
        if !self.holds().await.map_err(store_error)? {
            return Err(self.ended().await);
        }
        self.write_outcome(outcome).await?;
        self.commit_claimed().await.map(|()| Rejected::Stored)
    }

    async fn release(mut self) -> Result<(), Error> {
        let (session, run) = (self.take_session(), self.take_run());
        settle::released(&self.store, Box::pin(abandon(self.store.clone(), session, run))).await
    }

    async fn begin_unrecorded(store: &PgStore) -> Result<Self, Error> {
        <Self as Transaction>::begin(store).await
    }

    async fn finish_unrecorded(self, disposition: Disposition) -> Result<(), Error> {
        self.end(disposition).await
    }
}

impl Transaction for PgTx {
    type Store = PgStore;

    async fn begin(store: &PgStore) -> Result<Self, Error> {
        Self::open(store).await
    }

    async fn end(mut self, disposition: Disposition) -> Result<(), Error> {
        let deadline = self.store.inner().commit_deadline;
        if disposition != Disposition::Commit {
            self.give_up().await;
            return Ok(());
        }
        // COMMIT reports success even for a transaction that failed or has ended. This statement fails then.
        self.session().check().await.map_err(store_error)?;
        match self.take_session().commit(deadline).await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => Err(caused(Kind::OutcomeUnknown, error)),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl PgTx {
    pub(super) async fn open(store: &PgStore) -> Result<Self, Error> {
        Self::open_by(store, store.inner().begin).await
    }

    pub(super) async fn open_by(store: &PgStore, begin: Begin) -> Result<Self, Error> {
        let session = Session::begin(store, begin).await?;
        Ok(Self { store: store.clone(), session: Some(session), run: None, began: None, backend: None })
    }

    /// Answers a request whose first run ended in this process a short while ago, in one round trip. Otherwise the
    /// claim decides, on the connection of this look-up if it took one.
    async fn look_up(
        store: &PgStore,
        request: &Request,
        digest: &Digest,
    ) -> Result<ControlFlow<Claimed<Self>, Option<Session>>, Error> {
        let inner = store.inner();
        if !inner.recent.contains(digest) {
            return Ok(ControlFlow::Continue(None));
        }
        let connection = match inner.running.acquire(&inner.pool, request, digest, true).await? {
            ControlFlow::Continue(connection) => connection,
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(Claimed::Refuse(kind))),
        };
        // A pooler in transaction mode needs a transaction around the statement. Without a pooler, a single statement
        // is a transaction by itself.
        let mut session = Session::bare(connection, store);
        let (found, session) = if inner.unnamed_statements {
            let mut session = session.begun(inner.begin).await?;
            let records = inner.records(&mut session.in_time()).await?;
            (Some(records.find(&mut session.in_time(), &request.identity).await?), None)
        } else {
            let records = inner.records(&mut session.in_time()).await?;
            (records.find_alone(&mut session.in_time(), &request.identity).await?, Some(session))
        };
        // A record found inside a transaction that an earlier user left open decides nothing. The next BEGIN on the
        // connection ends that transaction.
        let Some((record, now)) = found else { return Ok(ControlFlow::Continue(session)) };
        Ok(match decide(record.as_ref(), request, now) {
            Decision::Replay(reply) => ControlFlow::Break(Claimed::Replay(reply)),
            Decision::Refuse(kind) => ControlFlow::Break(Claimed::Refuse(kind)),
            Decision::Claim | Decision::Replace(_) => ControlFlow::Continue(session),
        })
    }

    /// Claims the request in this transaction, or says why not.
    async fn try_claim(&mut self, request: &Request, claim: Claim) -> Result<Tried, Error> {
        let records = self.records().await?;
        match records.insert(&mut self.in_time(), request, claim).await {
            Ok(true) => Ok(Tried::Run),
            // In a box, like every rare path: the future of a usual run does not grow by it.
            Ok(false) => Box::pin(self.contest(request, claim)).await,
            Err(error) if is_serialization_failure(&error) => {
                self.session().restart().await.map_err(store_error)?;
                Box::pin(self.contest(request, claim)).await
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Rolls back, and gives the locks and the connection back before there is an answer.
    async fn give_up(mut self) {
        let rolled_back = self.take_session().rollback().map(Ok);
        // A rollback that fails closes its connection, and reports nothing.
        _ = settle::released(&self.store, rolled_back).await;
    }

    /// Says why the request could not be claimed, or claims it in place of an expired record.
    async fn contest(&mut self, request: &Request, claim: Claim) -> Result<Tried, Error> {
        let records = self.records().await?;
        // Under a stricter isolation level this snapshot may be older than the record that is in the way. Then the key
        // seems to be free, and the claim is tried again.
        let (record, now, holder) = match records.find_or_holder(&mut self.in_time(), request).await {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::RetryLater => return Ok(Tried::Again),
            Err(error) => return Err(error),
        };
        match (decide(record.as_ref(), request, now), holder) {
            (Decision::Replay(reply), _) => Ok(Tried::Replay(reply)),
            (Decision::Refuse(kind), _) => Ok(Tried::Refuse(kind)),
            (Decision::Claim | Decision::Replace(_), Holder::Same) => Ok(Tried::Refuse(Kind::KeyInFlight)),
            (Decision::Claim | Decision::Replace(_), Holder::Other) => self.refuse_reuse(request).await,
            (Decision::Claim | Decision::Replace(_), Holder::Claimant) | (Decision::Claim, Holder::Nobody) => {
                Ok(Tried::Again)
            }
            (Decision::Replace(expired), Holder::Nobody) => {
                match records.replace(&mut self.in_time(), request, claim, expired).await {
                    Ok(true) => Ok(Tried::Run),
                    Ok(false) => Ok(Tried::Again),
                    Err(error) if is_serialization_failure(&error) => Ok(Tried::Again),
                    Err(error) => Err(store_error(error)),
                }
            }
        }
    }

    /// Another request holds the key. It runs, or it is about to lose to a record that this snapshot is too old to
    /// show. In the second case the record decides.
    async fn refuse_reuse(&mut self, request: &Request) -> Result<Tried, Error> {
        let records = self.records().await?;
        // Under a stricter isolation level only a new transaction gets a new snapshot.
        self.session().restart().await.map_err(store_error)?;
        let (record, now) = records.find(&mut self.in_time(), &request.identity).await?;
        Ok(match decide(record.as_ref(), request, now) {
            Decision::Replay(reply) => Tried::Replay(reply),
            Decision::Refuse(kind) => Tried::Refuse(kind),
            Decision::Claim | Decision::Replace(_) => {
                let is_run = records.is_run(&mut self.in_time(), request).await.map_err(store_error)?;
                Tried::Refuse(if is_run { Kind::KeyReused } else { Kind::KeyInFlight })
            }
        })
    }

    /// Writes the completion. It is the last statement before COMMIT, so an earlier failure shows here (rule 16).
    async fn write_outcome(&mut self, outcome: &Outcome) -> Result<(), Error> {
        let records = self.records().await?;
        let Self { session: Some(session), run: Some(run), .. } = self else { unreachable!("a recorded run") };
        let elapsed = run.began.elapsed();
        let late = lateness(run.request.ttl, elapsed);
        let identity = &run.request.identity;
        match records.complete(&mut session.in_time(), identity, run.claim, outcome, elapsed, late).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.ended().await),
            Err(error) => {
                let failed = store_error(error);
                // The failed transaction may not be ours: the handler may have ended ours and begun another.
                if let Ok(false) = self.holds().await {
                    return Err(self.ended().await);
                }
                self.run = None;
                self.take_session().rollback().await;
                Err(failed)
            }
        }
    }

    async fn commit_claimed(mut self) -> Result<(), Error> {
        let (run, session) = (self.take_run(), self.take_session());
        let inner = self.store.inner();
        let committed = session.commit(inner.commit_deadline).await;
        find_out(&self.store, &run.request, run.claim, committed).await?;
        inner.recent.insert(run.entered.digest());
        Ok(())
    }

    async fn holds(&mut self) -> sqlx::Result<bool> {
        still_holds(self.session()).await
    }

    async fn records(&mut self) -> Result<Records, Error> {
        let session = self.session.as_mut().expect("a session until the run is settled");
        self.store.inner().records(&mut session.in_time()).await
    }

    pub(super) async fn leases(&mut self) -> Result<Leases, Error> {
        let session = self.session.as_mut().expect("a session until the run is settled");
        self.store.inner().leases(&mut session.in_time()).await
    }

    /// The connection for the store's own statements.
    pub(super) fn in_time(&mut self) -> InTime<'_> {
        self.session().in_time()
    }

    async fn ended(&mut self) -> Error {
        let (store, session, run) = (self.store.clone(), self.take_session(), self.take_run());
        // In a box, like every rare path.
        Box::pin(settle::ended_in_task(&self.store, async move { ended(&store, session, run).await })).await
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a session until the run is settled")
    }

    pub(super) fn take_session(&mut self) -> Session {
        self.session.take().expect("a session until the run is settled")
    }

    fn take_run(&mut self) -> Run {
        self.run.take().expect("a recorded run")
    }
}

impl Drop for PgTx {
    fn drop(&mut self) {
        if let (Some(session), Some(run)) = (self.session.take(), self.run.take()) {
            settle::release(&self.store, Box::pin(abandon(self.store.clone(), session, run)));
        }
    }
}

/// Rolls a run back, unless its handler ended the transaction.
async fn abandon(store: PgStore, mut session: Session, run: Run) -> Result<(), Error> {
    let cancelled = cancel_run(&store, &run.request);
    if let Ok(false) = unless_busy(still_holds(&mut session), cancelled).await {
        return Err(ended(&store, session, run).await);
    }
    session.rollback().await;
    Ok(())
}

/// Asks a connection. If a statement that the handler gave up keeps it busy, has that statement cancelled: it would hold
/// the key, and a lock that it waits for may never come.
pub(super) async fn unless_busy<T>(ask: impl Future<Output = T>, cancel: impl Future<Output = Result<(), Error>>) -> T {
    let mut ask = pin!(ask);
    if let Ok(answer) = timeout(RELEASE_PATIENCE / 2, &mut ask).await {
        return answer;
    }
    let (answer, cancelled) = join(ask, cancel).await;
    if let Err(error) = cancelled {
        tracing::warn!(target: "idem", code = error.code(), "a statement that was given up was not cancelled");
    }
    answer
}

/// Cancels what the transaction of a run does, from another connection. If its handler has ended that transaction and
/// another run has the key by now, that run fails and can be repeated.
async fn cancel_run(store: &PgStore, request: &Request) -> Result<(), Error> {
    let mut session = Database::begin_renewal(store).await?;
    let records = store.inner().records(&mut session.in_time()).await?;
    records.cancel(&mut session.in_time(), request).await.map_err(store_error)?;
    session.rollback().await;
    Ok(())
}

/// Whether the transaction is still the one that claimed, failed or not. If so, all writes of the handler in it are
/// rolled back. An error means that the transaction cannot be asked. It is lost then, and commits nothing more.
async fn still_holds(session: &mut Session) -> sqlx::Result<bool> {
    let mut undone = session.undo().await;
    if undone.as_ref().is_err_and(is_cancelled) {
        // What was meant for the handler's statement came too late for it.
        undone = session.undo().await;
    }
    match undone {
        Ok(()) => Ok(true),
        Err(error) if has_no_savepoint(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Poisons the key of a handler that ended the transaction it was lent.
async fn ended(store: &PgStore, session: Session, run: Run) -> Error {
    session.rollback().await;
    settle::ended(store, &run.request, run.claim).await
}

impl Deref for PgTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.session.as_ref().expect("a session until the run is settled").connection_ref()
    }
}

impl DerefMut for PgTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.session().connection()
    }
}

impl fmt::Debug for PgTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTx").finish_non_exhaustive()
    }
}

/// For the compile errors only: the transaction is not the handler's to end.
///
/// ```
/// async fn pay(tx: &mut idem_sqlx::PgTx) {
///     drop(tx);
/// }
/// ```
///
/// ```compile_fail,E0277
/// async fn pay(tx: &mut idem_sqlx::PgTx) {
///     drop(tx.commit().await);
/// }
/// ```
///
/// ```compile_fail,E0277
/// async fn pay(tx: &mut idem_sqlx::PgTx) {
///     drop(tx.rollback().await);
/// }
/// ```
#[doc(hidden)]
impl PgTx {
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
impl<'c> Acquire<'c> for &'c mut PgTx {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, sqlx::Result<&'c mut PgConnection>> {
        Box::pin(ready(Ok(&mut **self)))
    }

    fn begin(self) -> BoxFuture<'c, sqlx::Result<sqlx::Transaction<'c, Postgres>>> {
        Acquire::begin(&mut **self)
    }
}

/// As the connection's own, but an error is looked at: the connection may be unfit for the next transaction.
impl<'c> Executor<'c> for &'c mut PgTx {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (connection, fitness) = self.session().parts();
        connection.fetch_many(query).inspect_err(|error| fitness.note(error)).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (connection, fitness) = self.session().parts();
        connection.fetch_optional(query).inspect_err(|error| fitness.note(error)).boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        let (connection, fitness) = self.session().parts();
        connection.prepare_with(sql, parameters).inspect_err(|error| fitness.note(error)).boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        (&mut **self).describe(sql)
    }
}
