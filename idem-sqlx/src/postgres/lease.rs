//! The right to run one attempt of a leased run.

use std::future::Future;
use std::time::Instant;

use idem_core::machine::{Decision, decide_leased};
use idem_core::store::{Abandoned, Attempt, Claim, Claimed, Entry, Intent, Lease, LeaseTerms, Outcome, Place, Recover};
use idem_core::{Error, Fingerprint, Kind, Request, Resumed, Steps};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::session::{Begin, CommitFailed, Session, begin};
use super::store::PgStore;
use super::tx::{PgTx, find_out};
use crate::armed::{self, Unused};
use crate::ended::poison_in_tries;
use crate::error::into_idem_error;
use crate::retry;

/// The steps of a leased run on Postgres: what a handler gets as `steps: &mut PgSteps`.
///
/// ```
/// use idem_core::Error;
/// use idem_sqlx::PgSteps;
/// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
///
/// async fn pay(steps: &mut PgSteps, order: i64) -> Result<String, Error> {
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
/// - A step's transaction has the store's isolation level. Where that is stricter than read committed, a step that is
///   longer than a third of the lease is refused as [`Kind::RetryLater`]: the renewal has changed the record meanwhile.
/// - The lease is renewed on a connection of its own. Where the pool has none for a whole lease, the lease is lost.
pub type PgSteps = Steps<PgLease>;

/// The right to run one attempt, on Postgres: see [`PgSteps`].
#[derive(Debug, Clone)]
pub struct PgLease {
    store: PgStore,
    request: Request,
    claim: Claim,
    terms: LeaseTerms,
}

/// Nobody waits long for a row that somebody else has, with a connection in hand.
const BEGIN: Begin = begin!(" ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '500ms'");

/// What came of one try to claim.
enum Tried {
    Run {
        attempt: u32,
        fingerprint: Fingerprint,
        entries: Vec<Entry>,
    },
    /// Somebody else was first.
    Taken,
    /// Somebody has the row: a run that is just ending, or a lost connection that the server waits for.
    Locked,
}

impl Lease for PgLease {
    type Store = PgStore;
    type Tx = PgTx;

    /// A renewal changes another row than a step's transaction, as long as that does not end.
    const EXCLUSIVE: bool = false;

    async fn claim(
        store: &PgStore,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        let inner = store.inner();
        let lease = Self { store: store.clone(), request: request.clone(), claim: Claim::random()?, terms: *terms };
        for (tries, pause) in retry::pauses().enumerate() {
            let mut session = Session::begin(&inner.pool, BEGIN).await?;
            // Most requests come for the first time, and only the others are looked up: the key is the arbiter. To
            // insert waits for whoever has the row; to look does not.
            let mut claimed = match tries {
                0 => lease.carry_out(&mut session, &Decision::Claim.within(terms, intent)).await?,
                _ => Tried::Taken,
            };
            if let Tried::Taken = claimed {
                let records = inner.records(session.connection()).await?;
                let (record, now) = records.find(session.connection(), &request.identity).await?;
                claimed = match decide_leased(record.as_ref(), request, terms, intent, now) {
                    Decision::Replay(reply) => return Ok(Claimed::Replay(reply)),
                    Decision::Refuse(kind) => return Ok(Claimed::Refuse(kind)),
                    order => lease.carry_out(&mut session, &order).await?,
                };
            }
            if let Tried::Run { attempt, fingerprint, entries } = claimed {
                let lease = armed::commit(lease, session.commit(inner.commit_deadline)).await?;
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
        let mut session = Session::begin(&inner.pool, BEGIN).await?;
        let records = inner.records(session.connection()).await?;
        let renewed = records.renew(session.connection(), &self.request, self.claim, &self.terms);
        if !renewed.await.map_err(into_idem_error)? {
            return Err(Error::new(Kind::LeaseLost));
        }
        session.commit(inner.commit_deadline).await?;
        Ok(())
    }

    async fn begin(&self) -> Result<PgTx, Error> {
        // Before its BEGIN: by our clock a lease never lasts longer than by the database's.
        let at = Instant::now();
        let mut tx = PgTx::open(&self.store).await?;
        let records = tx.records().await?;
        let held = records.held_since(&mut tx, &self.request.identity, self.claim);
        match held.await.map_err(into_idem_error)? {
            Some(began) => {
                tx.began = Some((began, at));
                Ok(tx)
            }
            None => Err(Error::new(Kind::LeaseLost)),
        }
    }

    async fn record(&self, tx: Option<PgTx>, entry: &Entry) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut tx = self.or_alone(tx).await?;
        let began = tx.began;
        let records = tx.records().await?;
        let keep = records.record_entry(&mut tx, &self.request, self.claim, &self.terms, began, entry);
        if !keep.await.map_err(into_idem_error)? {
            return Err(self.not_held(tx).await);
        }
        match tx.take_session().commit(inner.commit_deadline).await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => Err(Error::new(Kind::OutcomeUnknown).caused_by(error)),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn complete(&self, tx: Option<PgTx>, outcome: &Outcome) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut tx = self.or_alone(tx).await?;
        let began = tx.began;
        let records = tx.records().await?;
        let finish = records.complete_leased(&mut tx, &self.request, self.claim, began, outcome);
        if !finish.await.map_err(into_idem_error)? {
            return Err(self.not_held(tx).await);
        }
        match tx.take_session().commit(inner.commit_deadline).await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => {
                tracing::warn!(target: "idem", %error, "COMMIT did not answer; looking up what became of it");
                let found = Box::pin(find_out(&self.store, &self.request, self.claim)).await;
                found.map_err(|kind| Error::new(kind).caused_by(error))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    async fn roll_back(&self, mut tx: PgTx) -> Result<(), Error> {
        let Some((began, _)) = tx.began else {
            // It was lent to nobody.
            tx.take_session().rollback().await;
            return Ok(());
        };
        let records = tx.records().await?;
        // One that failed has not ended, and one that cannot be asked is lost.
        let now = records.transaction_start(&mut tx).await.unwrap_or(began);
        tx.take_session().rollback().await;
        if now == began { Ok(()) } else { Err(poison_in_tries(|| self.poison()).await) }
    }

    async fn release(&self) -> Result<(), Error> {
        self.give_back(true).await
    }
}

impl Unused for PgLease {
    fn store(&self) -> &PgStore {
        &self.store
    }

    async fn hand_back(&self) -> Result<(), Error> {
        self.give_back(false).await
    }
}

impl PgLease {
    /// Ends the lease, of an attempt that counts where it has run.
    async fn give_back(&self, has_run: bool) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut session = Session::begin(&inner.pool, BEGIN).await?;
        let nobodys = Claim::random()?;
        let records = inner.records(session.connection()).await?;
        let released = records.release(session.connection(), &self.request.identity, self.claim, nobodys, has_run);
        if !released.await.map_err(into_idem_error)? {
            return Err(Error::new(Kind::LeaseLost));
        }
        session.commit(inner.commit_deadline).await?;
        Ok(())
    }

    async fn carry_out(&self, session: &mut Session, order: &Decision) -> Result<Tried, Error> {
        let Self { store, request, claim, terms } = self;
        let records = store.inner().records(session.connection()).await?;
        let connection = session.connection();
        let (is_claimed, attempt) = match order {
            Decision::Claim => (records.lease(connection, request, *claim, terms).await, 1),
            Decision::Replace(expired) => {
                (records.replace_leased(connection, request, *claim, terms, *expired).await, 1)
            }
            Decision::Resume { claim: earlier, attempt, .. } => {
                (records.take_over(connection, request, *claim, terms, *earlier).await, *attempt + 1)
            }
            Decision::Replay(_) | Decision::Refuse(_) => return Ok(Tried::Taken),
        };
        match is_claimed.map_err(into_idem_error) {
            Ok(true) => {}
            Ok(false) => return Ok(Tried::Taken),
            Err(error) if error.kind() == Kind::RetryLater => return Ok(Tried::Locked),
            Err(error) => return Err(error),
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
    async fn or_alone(&self, tx: Option<PgTx>) -> Result<PgTx, Error> {
        match tx {
            Some(tx) => Ok(tx),
            None => PgTx::open_by(&self.store, BEGIN).await,
        }
    }

    /// The last statement found no row: somebody else holds the lease, or the step ended the transaction that it was
    /// lent.
    async fn not_held(&self, tx: PgTx) -> Error {
        self.roll_back(tx).await.err().unwrap_or_else(|| Error::new(Kind::LeaseLost))
    }

    async fn poison(&self) -> Result<(), Error> {
        let inner = self.store.inner();
        let mut session = Session::begin(&inner.pool, BEGIN).await?;
        let records = inner.records(session.connection()).await?;
        let barred = records.poison_leased(session.connection(), &self.request.identity, self.claim);
        barred.await.map_err(into_idem_error)?;
        session.commit(inner.commit_deadline).await.map_err(Error::from)
    }
}

impl PgStore {
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
        let mut session = Session::begin(&inner.pool, BEGIN).await?;
        let records = inner.records(session.connection()).await?;
        let released = records.reset_attempts(session.connection(), identity).await.map_err(into_idem_error)?;
        session.commit(inner.commit_deadline).await?;
        Ok(released)
    }

    /// Goes on with the runs of an operation that were begun and abandoned: it gives the recorded input of each to the
    /// handler, one after the other. Call it when the process starts, and every now and then.
    ///
    /// ```no_run
    /// use idem_core::{Error, idempotent};
    /// use idem_sqlx::{PgSteps, PgStore};
    /// # async fn deliver(_: &str, _: &str) -> Result<(), Error> { Ok(()) }
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Mail {
    ///     id: String,
    ///     to: String,
    /// }
    ///
    /// #[idempotent(key = mail.id, scope = "mails", operation = "mails.send", record_input = mail)]
    /// async fn send(steps: &mut PgSteps, mail: &Mail) -> Result<(), Error> {
    ///     steps.call("deliver", async |key| deliver(&mail.to, key.as_str()).await).await
    /// }
    ///
    /// async fn go_on(store: &PgStore) -> Result<(), Error> {
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

impl Recover for PgStore {
    async fn abandoned(&self, operation: &str, after: Option<Place>) -> Result<Vec<Abandoned>, Error> {
        let inner = self.inner();
        let mut session = Session::begin(&inner.pool, BEGIN).await?;
        let records = inner.records(session.connection()).await?;
        let abandoned = records.abandoned(session.connection(), operation, after.as_ref()).await;
        let abandoned = abandoned.map_err(into_idem_error)?;
        session.commit(inner.commit_deadline).await?;
        Ok(abandoned)
    }
}
