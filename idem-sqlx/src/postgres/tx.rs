//! The transactional context.

use std::fmt;
use std::future::{Ready, ready};
use std::ops::{ControlFlow, Deref, DerefMut};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use idem_core::bounds::EndedByItsHolder;
use idem_core::machine::{Decision, decide};
use idem_core::store::{Claim, Claimed, Context, Outcome, RELEASE_PATIENCE, Rejected, Reply, Transaction};
use idem_core::{Disposition, Error, Identity, Kind, Request, Start};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Acquire, Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::{sleep, timeout};

use super::error::{commit_was_refused, has_no_savepoint, is_cancelled, is_lock_timeout, is_serialization_failure};
use super::far::{self, Distance};
use super::in_time::InTime;
use super::leases::Leases;
use super::records::{Holder, LockWords, Records, Secret};
use super::session::{Begin, Session};
use super::store::{Locks, PgStore};
use crate::database::{CommitFailed, Database};
use crate::error::{caused, kind, store_error};
use crate::hints::{Before, mark_runs};
use crate::recent::word;
use crate::retry;
use crate::running::{Asked, Entered, State};
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
/// - Do not release the savepoint `idem_claimed`, nor roll back to it: it belongs to the store. The claim and the
///   handler's writes come after it.
/// - Do not change the role: the completion is written in the same transaction. `search_path` may be changed. In a step
///   do not `RESET ALL`: the setting `idem.step` tells the store that the transaction is still the step's.
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
    pub(super) step: Option<Step>,
    /// What the hints knew of the database before the claim, and then before the completion.
    before: Before,
}

/// What tells the transaction of a step from one that the step itself may have begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// A random number. The transaction has it as a setting and, where there are advisory locks, as a lock.
    pub(super) mark: i64,
    /// Taken before BEGIN, so that a lease never lasts longer by our clock than by the database's.
    pub(super) began: Instant,
}

impl Step {
    pub(super) fn new() -> Result<Self, Error> {
        let began = Instant::now();
        Ok(Self { mark: word(Claim::random()?.as_bytes()).cast_signed(), began })
    }

    /// The statements that mark the transaction. The setting tells a statement of the store whether it is still the one. The
    /// savepoint tells it of a transaction that has failed, too.
    pub(super) fn marks(self, locks: Locks) -> String {
        let Self { mark, .. } = self;
        let lock = match locks {
            Locks::Advisory => format!(", pg_catalog.pg_try_advisory_xact_lock({mark})"),
            Locks::None => String::new(),
        };
        format!("SELECT pg_catalog.set_config('idem.step', '{mark}', true){lock}; SAVEPOINT idem_claimed")
    }
}

/// What the transaction has claimed.
struct Run {
    request: Request,
    claim: Claim,
    /// The numbers of its locks, where there are locks.
    locks: Option<LockWords>,
    /// Before the claim was sent.
    asked: Instant,
    began: Instant,
    /// Other requests of this process see the run until this is dropped, which is after the end of its
    /// transaction.
    entered: Entered,
}

impl Run {
    /// Notes the outcome of a run whose commit is known.
    fn keep(self, store: &PgStore, before: Before, outcome: &Outcome) {
        store.inner().recent.insert(self.entered.digest());
        store.inner().hints.keep_outcome(before, &self.request, outcome, self.asked);
    }
}

/// The outcome of one try to claim.
enum Tried {
    Run,
    Replay(Reply, Option<Duration>),
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
        let request = &*store.inner().sealer.request(request)?;
        let claimed = Self::claim_sealed(store, request).await?;
        store.inner().sealer.claimed(&request.identity, claimed)
    }

    async fn complete(mut self, outcome: &Outcome) -> Result<(), Error> {
        let outcome = &*self.store.inner().sealer.outcome(self.identity(), outcome)?;
        if self.store.inner().distance == Distance::Farthest {
            return Box::pin(self.complete_far(outcome)).await;
        }
        self.write_outcome(outcome).await?;
        self.commit_claimed(outcome).await
    }

    async fn reject(self, outcome: &Outcome) -> Result<Rejected, Error> {
        let (store, identity) = (self.store.clone(), self.identity().clone());
        let outcome = &*store.inner().sealer.outcome(&identity, outcome)?;
        let rejected = self.reject_sealed(outcome).await?;
        store.inner().sealer.rejected(&identity, rejected)
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
    /// Claims the request. A reply to replay is still sealed.
    async fn claim_sealed(store: &PgStore, request: &Request) -> Result<Claimed<Self>, Error> {
        let digest = request.identity.digest();
        let asked = Asked { request, digest: &digest, is_compared: true };
        let before = store.inner().hints.before();
        let mut looked = match Box::pin(Self::look_up(store, asked)).await? {
            ControlFlow::Break(begun) => return Ok(begun),
            ControlFlow::Continue(session) => session,
        };
        let locks = lock_words(store, asked).await?;
        for pause in retry::pauses() {
            let claim = Claim::random()?;
            let begin = begin_claim(store, request, locks, claim);
            let sent = Instant::now();
            let session = match looked.take() {
                Some(session) => session.begun(&begin).await?,
                None => match Session::begin_for(store, &begin, asked).await? {
                    ControlFlow::Continue(session) => session,
                    ControlFlow::Break(kind) => return Ok(Claimed::Refuse(kind)),
                },
            };
            let mut tx = Self { store: store.clone(), session: Some(session), run: None, step: None, before };
            let tried = match (tx.session().has_claimed(), begin.claims()) {
                (true, _) => Tried::Run,
                (false, true) => Box::pin(tx.contest(request, claim)).await?,
                (false, false) => tx.try_claim(request, claim, locks).await?,
            };
            match tried {
                Tried::Run => {
                    if store.inner().locks == Locks::None {
                        tx.session().mark().await.map_err(store_error)?;
                    }
                    let entered = store.inner().running.enter(digest, request.fingerprint, State::Transaction);
                    mark_runs(store);
                    // It has begun. A rejection claims again, whenever that is.
                    let request = request.clone().with_first_sent(None);
                    tx.run = Some(Run { request, claim, locks, asked: sent, began: Instant::now(), entered });
                    return Ok(Claimed::Run(tx));
                }
                // The record is in force, so nobody asks for its locks: the rollback goes on behind the answer.
                Tried::Replay(reply, age) => {
                    store.inner().recent.insert(&digest);
                    return Ok(Claimed::Replay(reply, age));
                }
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

    /// Rejects the run. The reply of an earlier attempt is still sealed.
    async fn reject_sealed(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        if !self.holds().await.map_err(store_error)? {
            return Err(self.ended().await);
        }
        if self.store.inner().locks == Locks::None {
            // The claim is in front of the savepoint.
            self.write_outcome(outcome).await?;
            return self.commit_claimed(outcome).await.map(|()| Rejected::Stored);
        }
        // The locks are still held, so no duplicate has begun to run meanwhile.
        let run = self.take_run();
        match self.try_claim(&run.request, run.claim, run.locks).await? {
            Tried::Run => {
                self.run = Some(run);
                self.write_outcome(outcome).await?;
                self.commit_claimed(outcome).await.map(|()| Rejected::Stored)
            }
            // Somebody has ended the transaction's locks: a duplicate was first.
            Tried::Replay(reply, _) => Ok(Rejected::Replay(reply)),
            Tried::Refuse(kind) => Ok(Rejected::Refuse(kind)),
            Tried::Again => Ok(Rejected::Refuse(Kind::KeyInFlight)),
        }
    }

    fn identity(&self) -> &Identity {
        &self.run.as_ref().expect("a recorded run").request.identity
    }

    pub(super) async fn open(store: &PgStore) -> Result<Self, Error> {
        Self::open_by(store, &store.inner().begin).await
    }

    pub(super) async fn open_by(store: &PgStore, begin: &Begin) -> Result<Self, Error> {
        let session = Session::begin(store, begin).await?;
        Ok(Self { store: store.clone(), session: Some(session), run: None, step: None, before: Before::default() })
    }

    /// Answers a request whose first run ended in this process a short while ago, in one round trip. Otherwise the
    /// claim decides, on the connection of this look-up if it took one.
    async fn look_up(store: &PgStore, asked: Asked<'_>) -> Result<ControlFlow<Claimed<Self>, Option<Session>>, Error> {
        if !store.inner().recent.contains(asked.digest) {
            return Ok(ControlFlow::Continue(None));
        }
        let before = store.inner().hints.before();
        let (found, session) = match Session::find_alone(store, asked).await? {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(Claimed::Refuse(kind))),
        };
        let Some((record, now)) = found else { return Ok(ControlFlow::Continue(session)) };
        Ok(match decide(record.as_ref(), asked.request, now) {
            Decision::Replay(reply, age) => {
                store.inner().hints.keep_record(before, asked.request, record.as_ref());
                ControlFlow::Break(Claimed::Replay(reply, age))
            }
            Decision::Refuse(kind) => ControlFlow::Break(Claimed::Refuse(kind)),
            Decision::Claim | Decision::Replace(_) => ControlFlow::Continue(session),
        })
    }

    /// Claims the request in this transaction, or says why not.
    async fn try_claim(&mut self, request: &Request, claim: Claim, locks: Option<LockWords>) -> Result<Tried, Error> {
        let records = self.records().await?;
        match records.insert(&mut self.in_time(), request, claim, locks).await {
            Ok(true) => Ok(Tried::Run),
            // In a box, like every rare path: the future of a usual run does not grow by it.
            Ok(false) => Box::pin(self.contest(request, claim)).await,
            Err(error) if is_serialization_failure(&error) => {
                let begin = begin_claim(&self.store, request, locks, claim);
                self.session().restart(&begin).await.map_err(store_error)?;
                Box::pin(self.contest(request, claim)).await
            }
            // Without advisory locks: another transaction has inserted the record, and has not ended.
            Err(error) if self.store.inner().locks == Locks::None && is_lock_timeout(&error) => {
                Ok(Box::pin(self.look_again(request)).await?.unwrap_or(Tried::Refuse(Kind::KeyInFlight)))
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
            (Decision::Replay(reply, age), _) => {
                self.store.inner().hints.keep_record(self.before, request, record.as_ref());
                Ok(Tried::Replay(reply, age))
            }
            // If the request was first sent too long ago to begin now, its run may have begun in time.
            (Decision::Claim | Decision::Replace(_) | Decision::Refuse(_), Holder::Same) => {
                Ok(Tried::Refuse(Kind::KeyInFlight))
            }
            (Decision::Refuse(kind), _) => Ok(Tried::Refuse(kind)),
            (Decision::Claim | Decision::Replace(_), Holder::Other) => self.refuse_reuse(request).await,
            (Decision::Claim | Decision::Replace(_), Holder::Claimant) | (Decision::Claim, Holder::Nobody) => {
                Ok(Tried::Again)
            }
            (Decision::Replace(expired), Holder::Nobody) => {
                match records.replace(&mut self.in_time(), request, claim, expired).await {
                    Ok(true) => Ok(Tried::Run),
                    Ok(false) => Ok(Tried::Again),
                    Err(error) if is_serialization_failure(&error) => Ok(Tried::Again),
                    Err(error) if self.store.inner().locks == Locks::None && is_lock_timeout(&error) => {
                        Ok(Tried::Refuse(Kind::KeyInFlight))
                    }
                    Err(error) => Err(store_error(error)),
                }
            }
        }
    }

    /// Another request holds the key. It runs, or it is about to lose to a record that this snapshot is too old to
    /// show. In the second case the record decides.
    async fn refuse_reuse(&mut self, request: &Request) -> Result<Tried, Error> {
        if let Some(decided) = self.look_again(request).await? {
            return Ok(decided);
        }
        let is_run = self.records().await?.is_run(&mut self.in_time(), request).await.map_err(store_error)?;
        Ok(Tried::Refuse(if is_run { Kind::KeyReused } else { Kind::KeyInFlight }))
    }

    /// What a record that is in force by now means for the request.
    async fn look_again(&mut self, request: &Request) -> Result<Option<Tried>, Error> {
        let records = self.records().await?;
        // Under a stricter isolation level only a new transaction gets a new snapshot. It claims nothing, so it takes no
        // locks: they would hide the run from other duplicates.
        let begin = self.store.inner().begin.clone();
        self.session().restart(&begin).await.map_err(store_error)?;
        let (record, now) = records.find(&mut self.in_time(), &request.identity).await?;
        Ok(match decide(record.as_ref(), request, now) {
            Decision::Replay(reply, age) => Some(Tried::Replay(reply, age)),
            Decision::Refuse(kind) => Some(Tried::Refuse(kind)),
            Decision::Claim | Decision::Replace(_) => None,
        })
    }

    /// Writes the completion. It is the last statement before COMMIT, so an earlier failure shows here (rule 16).
    async fn write_outcome(&mut self, outcome: &Outcome) -> Result<(), Error> {
        let records = self.records().await?;
        self.before = self.store.inner().hints.before();
        let Self { session: Some(session), run: Some(run), .. } = self else { unreachable!("a recorded run") };
        let elapsed = run.began.elapsed();
        match records.complete(&mut session.in_time(), &run.request, run.claim, outcome, elapsed).await {
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

    /// Writes the completion and commits in one message.
    async fn complete_far(mut self, outcome: &Outcome) -> Result<(), Error> {
        let (store, schema) = (self.store.clone(), self.store.inner().schema().expect("known since the claim"));
        self.before = store.inner().hints.before();
        // Taken out, so that a drop does not cancel a COMMIT that may be waiting for a standby.
        let (mut session, run) = (self.take_session(), self.take_run());
        let completion = far::completion(schema, &run.request, run.claim, outcome, run.began.elapsed());
        let completed = session.complete(completion, store.inner().commit_deadline).await;
        (self.session, self.run) = (Some(session), Some(run));
        let error = match completed {
            Ok(()) => {
                self.take_run().keep(&store, self.before, outcome);
                return Ok(());
            }
            Err(CommitFailed::Unknown(error)) => error,
            Err(refused) => {
                // A savepoint that is open, or a `begin` that failed: the handler may have ended the transaction, too.
                if let Ok(false) = self.holds().await {
                    return Err(self.ended().await);
                }
                self.run = None;
                return Err(refused.into());
            }
        };
        match far::failed(&error) {
            far::Failed::NotHeld => Err(self.ended().await),
            far::Failed::Before => {
                // The failed transaction may not be ours: the handler may have ended ours and begun another.
                if let Ok(false) = self.holds().await {
                    return Err(self.ended().await);
                }
                self.run = None;
                self.take_session().rollback().await;
                Err(store_error(error))
            }
            // A COMMIT that was refused is an answer, but so is a statement that was cancelled after a COMMIT.
            far::Failed::Unknown => {
                let (run, session) = (self.take_run(), self.take_session());
                let refused = commit_was_refused(&error).then(|| kind(&error));
                drop(session);
                let found = find_out(&store, &run.request, run.claim, Err(CommitFailed::Unknown(error))).await;
                // The look-up has found that nothing was kept, and the database has said why.
                found.map_err(|found| match refused {
                    Some(kind) if found.kind() == Kind::StoreUnavailable => Error::new(kind).caused_by(found),
                    _ => found,
                })
            }
        }
    }

    async fn commit_claimed(mut self, outcome: &Outcome) -> Result<(), Error> {
        let (run, session) = (self.take_run(), self.take_session());
        let inner = self.store.inner();
        let committed = session.commit(inner.commit_deadline).await;
        find_out(&self.store, &run.request, run.claim, committed).await?;
        run.keep(&self.store, self.before, outcome);
        Ok(())
    }

    pub(super) async fn holds(&mut self) -> sqlx::Result<bool> {
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

    fn named_or_not<E>(&self, query: E) -> NamedOrNot<E> {
        NamedOrNot { query, may_have_a_name: !self.store.inner().unnamed_statements }
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

/// The numbers of the request's locks, if the store takes locks. A claim makes them once.
async fn lock_words(store: &PgStore, asked: Asked<'_>) -> Result<Option<LockWords>, Error> {
    let inner = store.inner();
    if inner.locks == Locks::None {
        return Ok(None);
    }
    let secret = match inner.known_secret() {
        Some(secret) => secret,
        None => Box::pin(first_secret(store)).await?,
    };
    Ok(Some(LockWords::of_asked(asked.digest, &asked.request.fingerprint, secret)))
}

/// The secret of the database, for which the first request of a process has to ask.
async fn first_secret(store: &PgStore) -> Result<Secret, Error> {
    let mut session = Session::begin(store, &store.inner().begin_own).await?;
    let records = store.inner().records(&mut session.in_time()).await?;
    session.rollback().await;
    Ok(records.secret)
}

/// The message that begins the transaction of a claim, and from far away claims.
fn begin_claim(store: &PgStore, request: &Request, locks: Option<LockWords>, claim: Claim) -> Begin {
    let inner = store.inner();
    let Some(locks) = locks else { return inner.begin_waiting.as_ref().unwrap_or(&inner.begin).clone() };
    let begin = inner.begin.then(locks.taken());
    match inner.schema().filter(|_| inner.distance != Distance::Near) {
        Some(schema) => begin.claiming(far::claim(schema, locks, request, claim)),
        None => begin,
    }
}

/// Rolls a run back, unless its handler ended the transaction.
async fn abandon(store: PgStore, mut session: Session, run: Run) -> Result<(), Error> {
    let cancelled = cancel_run(&store, run.locks);
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
///
/// Without advisory locks the transaction cannot be found, and its process may be on another node: its statement ends by
/// itself.
async fn cancel_run(store: &PgStore, locks: Option<LockWords>) -> Result<(), Error> {
    match locks {
        Some(locks) => cancel_holder(store, locks.identity).await,
        None => Ok(()),
    }
}

/// Cancels what the transaction that holds a lock does.
pub(super) async fn cancel_holder(store: &PgStore, lock: i64) -> Result<(), Error> {
    let mut session = Database::begin_renewal(store).await?;
    let records = store.inner().records(&mut session.in_time()).await?;
    records.cancel(&mut session.in_time(), lock).await.map_err(store_error)?;
    session.rollback().await;
    Ok(())
}

/// Whether the transaction is still the one that claimed, failed or not. If so, the claim and all writes of the handler
/// in it are rolled back, and the locks are kept. An error means that the transaction cannot be asked. It is lost then, and commits nothing more.
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

/// A statement of a handler. It has a name on the server only if its query and the store allow it.
struct NamedOrNot<E> {
    query: E,
    may_have_a_name: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for NamedOrNot<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.may_have_a_name && self.query.persistent()
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

/// As the connection's own, but an error is looked at: the connection may be unfit for the next transaction. And a
/// statement has no name if the store's have none.
impl<'c> Executor<'c> for &'c mut PgTx {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = self.named_or_not(query);
        let (connection, fitness) = self.session().parts();
        connection.fetch_many(query).inspect_err(|error| fitness.note(error)).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = self.named_or_not(query);
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
