//! The right to run one attempt of a leased run.

use std::future::Future;

use idem_core::machine::{Decision, decide_leased};
use idem_core::store::{Abandoned, Attempt, Claim, Claimed, Entry, Intent, Lease, LeaseTerms, Outcome, Place, Recover};
use idem_core::{Error, Fingerprint, Kind, Request, Resumed, Steps};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::error::{has_no_savepoint, is_answer};
use super::session::{CommitFailed, Reader, Session};
use super::store::SqliteStore;
use super::tx::{SqliteTx, find_out};
use crate::armed::{self, Unused};
use crate::ended::poison_in_tries;
use crate::error::into_idem_error;
use crate::retry;

/// The steps of a leased run on SQLite: what a handler gets as `steps: &mut SqliteSteps`.
///
/// ```
/// use idem_core::Error;
/// use idem_sqlx::SqliteSteps;
/// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
///
/// async fn pay(steps: &mut SqliteSteps, order: i64) -> Result<String, Error> {
///     steps
///         .transaction("reserve", async |tx| {
///             let reserve = sqlx::query("UPDATE stock SET free = free - 1 WHERE id = $1").bind(order);
///             reserve.execute(tx).await.map(|_| ()).map_err(idem_sqlx::into_idem_error)
///         })
///         .await?;
///     steps.call("charge", async |key| post(key.as_str()).await).await
/// }
/// ```
///
/// # Limitations
/// - A step's transaction has the write lock, as every transaction on SQLite: whatever else writes waits for it. It
///   should be short, and wait for nothing.
pub type SqliteSteps = Steps<SqliteLease>;

/// The right to run one attempt, on SQLite: see [`SqliteSteps`].
#[derive(Debug, Clone)]
pub struct SqliteLease {
    store: SqliteStore,
    request: Request,
    claim: Claim,
    terms: LeaseTerms,
}

/// What came of one try to claim.
enum Tried {
    Run { attempt: u32, fingerprint: Fingerprint, entries: Vec<Entry> },
    Again,
}

impl Lease for SqliteLease {
    type Store = SqliteStore;
    type Tx = SqliteTx;

    /// A transaction has the write lock from its first statement on.
    const EXCLUSIVE: bool = true;

    async fn claim(
        store: &SqliteStore,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        let inner = store.inner();
        let lease = Self { store: store.clone(), request: request.clone(), claim: Claim::random()?, terms: *terms };
        for pause in retry::pauses() {
            // A step may hold the write lock for long, and nobody has to wait for it to read what is finished.
            let mut reader = Reader::acquire(&inner.pool).await?;
            let (record, now) = inner.records.find_alone(&mut reader, &request.identity).await?;
            let order = match decide_leased(record.as_ref(), request, terms, intent, now) {
                Decision::Replay(reply) => return Ok(Claimed::Replay(reply)),
                Decision::Refuse(kind) => return Ok(Claimed::Refuse(kind)),
                order => order,
            };
            // What may have changed since the look, each statement asks for itself.
            let mut session = reader.begin().await?;
            let claimed = lease.carry_out(&mut session, &order).await?;
            if let Tried::Run { attempt, fingerprint, entries } = claimed {
                let lease = armed::commit(lease, session.commit()).await?;
                return Ok(Claimed::Run(Attempt { lease, number: attempt, fingerprint, entries }));
            }
            // The connection goes back first: nobody waits with one in hand.
            drop(session);
            sleep(pause).await;
        }
        Ok(Claimed::Refuse(Kind::KeyInFlight))
    }

    async fn renew(&self) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut session = Session::begin(&inner.pool).await?;
        let renewed = inner.records.renew(session.connection(), &self.request, self.claim, &self.terms);
        if !renewed.await.map_err(into_idem_error)? {
            return Err(Error::new(Kind::LeaseLost));
        }
        session.commit().await?;
        Ok(())
    }

    async fn begin(&self) -> Result<SqliteTx, Error> {
        let mut tx = SqliteTx::open(&self.store).await?;
        let held = self.store.inner().records.is_held(&mut tx, &self.request.identity, self.claim);
        if held.await.map_err(into_idem_error)? { Ok(tx) } else { Err(Error::new(Kind::LeaseLost)) }
    }

    async fn record(&self, tx: Option<SqliteTx>, entry: &Entry) -> Result<(), Error> {
        let mut tx = self.or_alone(tx).await?;
        let kept =
            self.store.inner().records.record_entry(&mut tx, &self.request, self.claim, &self.terms, entry).await;
        let mut tx = self.held(tx, kept).await?;
        match tx.take_session().commit().await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => Err(Error::new(Kind::OutcomeUnknown).caused_by(error)),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn complete(&self, tx: Option<SqliteTx>, outcome: &Outcome) -> Result<(), Error> {
        let mut tx = self.or_alone(tx).await?;
        let finished = self.store.inner().records.complete_leased(&mut tx, &self.request, self.claim, outcome).await;
        let mut tx = self.held(tx, finished).await?;
        match tx.take_session().commit().await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => {
                tracing::warn!(target: "idem", %error, "COMMIT did not answer; looking up what became of it");
                let found = Box::pin(find_out(&self.store, &self.request, self.claim)).await;
                found.map_err(|kind| Error::new(kind).caused_by(error))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    async fn roll_back(&self, mut tx: SqliteTx) -> Result<(), Error> {
        // One that cannot be asked is lost.
        if let Ok(false) = is_whole(&mut tx).await {
            return Err(self.ended(tx).await);
        }
        tx.take_session().rollback().await;
        Ok(())
    }

    async fn release(&self) -> Result<(), Error> {
        self.give_back(true).await
    }
}

impl Unused for SqliteLease {
    fn store(&self) -> &SqliteStore {
        &self.store
    }

    async fn hand_back(&self) -> Result<(), Error> {
        self.give_back(false).await
    }
}

impl SqliteLease {
    /// Ends the lease, of an attempt that counts where it has run.
    async fn give_back(&self, has_run: bool) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut session = Session::begin(&inner.pool).await?;
        let nobodys = Claim::random()?;
        let released =
            inner.records.release(session.connection(), &self.request.identity, self.claim, nobodys, has_run);
        if !released.await.map_err(into_idem_error)? {
            return Err(Error::new(Kind::LeaseLost));
        }
        session.commit().await?;
        Ok(())
    }

    async fn carry_out(&self, session: &mut Session, order: &Decision) -> Result<Tried, Error> {
        let Self { store, request, claim, terms } = self;
        let records = store.inner().records;
        let connection = session.connection();
        let (is_claimed, attempt) = match order {
            Decision::Claim => (records.lease(connection, request, *claim, terms).await, 1),
            Decision::Replace(expired) => {
                (records.replace_leased(connection, request, *claim, terms, *expired).await, 1)
            }
            Decision::Resume { claim: earlier, attempt, .. } => {
                (records.take_over(connection, request, *claim, terms, *earlier).await, *attempt + 1)
            }
            Decision::Replay(_) | Decision::Refuse(_) => return Ok(Tried::Again),
        };
        if !is_claimed.map_err(into_idem_error)? {
            return Ok(Tried::Again);
        }
        // A new record has none. One that an operator let begin again has, and counts from 1 again.
        let (fingerprint, entries) = match order {
            Decision::Resume { fingerprint, .. } => {
                (*fingerprint, records.entries(session.connection(), &request.identity).await?)
            }
            _ => (request.fingerprint, Vec::new()),
        };
        Ok(Tried::Run { attempt, fingerprint, entries })
    }

    /// The transaction of a step, or one of its own.
    async fn or_alone(&self, tx: Option<SqliteTx>) -> Result<SqliteTx, Error> {
        match tx {
            Some(tx) => Ok(tx),
            None => SqliteTx::open(&self.store).await,
        }
    }

    /// The transaction, where its last statement has found the lease held.
    async fn held(&self, mut tx: SqliteTx, is_held: sqlx::Result<bool>) -> Result<SqliteTx, Error> {
        match is_held {
            Ok(true) => Ok(tx),
            Ok(false) => Err(Error::new(Kind::LeaseLost)),
            // By the code it may be another mistake in the SQL. By the second savepoint it is told.
            Err(error) if has_no_savepoint(&error) => match is_whole(&mut tx).await {
                Ok(false) => Err(self.ended(tx).await),
                _ => Err(into_idem_error(error)),
            },
            Err(error) => Err(into_idem_error(error)),
        }
    }

    /// The step ended the transaction that it was lent.
    async fn ended(&self, mut tx: SqliteTx) -> Error {
        tx.take_session().rollback().await;
        poison_in_tries(|| self.poison()).await
    }

    async fn poison(&self) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut session = Session::begin(&inner.pool).await?;
        let barred = inner.records.poison_leased(session.connection(), &self.request.identity, self.claim);
        barred.await.map_err(into_idem_error)?;
        session.commit().await.map_err(Error::from)
    }
}

/// Whether the transaction is still the one that was begun, by the savepoint that is gone otherwise.
async fn is_whole(tx: &mut SqliteTx) -> Result<bool, Error> {
    match tx.session().check().await {
        Ok(()) => Ok(true),
        Err(error) if is_answer(&error) => Ok(false),
        Err(error) => Err(into_idem_error(error)),
    }
}

impl SqliteStore {
    /// Lets a leased run begin again that was begun as often as its `attempts` allow: the next retry runs it, behind its
    /// finished steps. Says whether there was such a run, or one that is not over.
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn reset_attempts(&self, identity: &idem_core::Identity) -> Result<bool, Error> {
        let inner = self.inner();
        let mut session = Session::begin(&inner.pool).await?;
        let released = inner.records.reset_attempts(session.connection(), identity).await.map_err(into_idem_error)?;
        session.commit().await?;
        Ok(released)
    }

    /// Goes on with the runs of an operation that were begun and abandoned: it gives the recorded input of each to the
    /// handler, one after the other. Call it when the process starts, and every now and then.
    ///
    /// ```no_run
    /// use idem_core::{Error, idempotent};
    /// use idem_sqlx::{SqliteSteps, SqliteStore};
    /// # async fn deliver(_: &str, _: &str) -> Result<(), Error> { Ok(()) }
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Mail {
    ///     id: String,
    ///     to: String,
    /// }
    ///
    /// #[idempotent(key = mail.id, scope = "mails", operation = "mails.send", record_input = mail)]
    /// async fn send(steps: &mut SqliteSteps, mail: &Mail) -> Result<(), Error> {
    ///     steps.call("deliver", async |key| deliver(&mail.to, key.as_str()).await).await
    /// }
    ///
    /// async fn go_on(store: &SqliteStore) -> Result<(), Error> {
    ///     let resumed = store.resume_abandoned("mails.send", async |mail: Mail| send(store, &mail).await).await?;
    ///     println!("{} mails sent, {} not", resumed.succeeded, resumed.failed);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Rules
    /// - The handler is the annotated function itself, called with what its `record_input` recorded. It claims the run
    ///   as a retry does, so any number of processes can do this at a time, beside the callers.
    /// - A run is abandoned when its lease is over and it is not: its process died, or it failed and was released.
    /// - Each is given once in a pass, and each time counts as an attempt, but for one that is rejected and only to be
    ///   undone. One whose attempts are used up answers `Err`, until an operator releases it.
    /// - It begins nothing: a run that is over by then, or has expired, answers
    ///   [`NothingToResume`](idem_core::Kind::NothingToResume). So does a call under another operation, scope or key in
    ///   front of the run's own. What the run itself calls is free, as is what the handler spawns.
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Dropped, the run at hand is released, or ends with its lease.
    ///
    /// # Limitations
    /// - The input is in the database as JSON, until its run is over or expires.
    pub async fn resume_abandoned<T, F, R, E>(
        &self,
        operation: &str,
        handler: impl Fn(T) -> F,
    ) -> Result<Resumed, Error>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<R, E>>,
    {
        idem_core::resume_abandoned(self, operation, handler).await
    }
}

impl Recover for SqliteStore {
    async fn abandoned(&self, operation: &str, after: Option<Place>) -> Result<Vec<Abandoned>, Error> {
        let inner = self.inner();
        let mut reader = Reader::acquire(&inner.pool).await?;
        inner.records.abandoned(&mut reader, operation, after.as_ref()).await.map_err(into_idem_error)
    }
}
