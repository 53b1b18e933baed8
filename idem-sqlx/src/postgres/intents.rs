//! What the flows ask of Postgres.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use idem_core::store::{Abandoned, Claim, Entry, Intent, LeaseTerms, Outcome, Place, Record};
use idem_core::{Error, Identity, Kind, Request};

use super::session::{Begin, Session, begin};
use super::store::PgStore;
use super::tx::{PgTx, unless_busy};
use crate::database::{CommitFailed, Database, Found, Leased, Looked, Over, Written};
use crate::error::store_error;
use crate::migrations::Migration;
use crate::running::{Digest, Running};
use crate::sweep::{Batch, Sweep};

/// Begins a transaction of the store's own. With a lock timeout: a request does not wait long for a locked row while it
/// holds a connection.
pub(super) const BEGIN: Begin = begin!(" ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '500ms'");

impl Database for PgStore {
    type Session = Session;
    type Look = Session;
    type Tx = PgTx;

    /// A step's transaction changes the record's row only in its last statement. Until then the renewal can change the
    /// row.
    const EXCLUSIVE: bool = false;

    fn running(&self) -> &Running {
        &self.inner().running
    }

    fn commit_deadline(&self) -> Duration {
        self.inner().commit_deadline
    }

    async fn begin(&self) -> Result<Session, Error> {
        Session::begin(self, self.inner().begin_own).await
    }

    async fn begin_renewal(&self) -> Result<Session, Error> {
        Session::begin_on(self.inner().spare.acquire(self.pool()).await?, self, self.inner().begin_own).await
    }

    fn commit(&self, session: Session) -> impl Future<Output = Result<(), CommitFailed>> + Send + 'static {
        session.commit(self.inner().commit_deadline)
    }

    fn session_of(mut tx: PgTx) -> Session {
        tx.take_session()
    }

    async fn insert(&self, session: &mut Session, request: &Request, claim: Claim) -> Result<bool, Error> {
        let records = self.inner().records(&mut session.in_time()).await?;
        records.insert(&mut session.in_time(), request, claim).await.map_err(store_error)
    }

    async fn replace(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> Result<bool, Error> {
        let records = self.inner().records(&mut session.in_time()).await?;
        records.replace(&mut session.in_time(), request, claim, expired).await.map_err(store_error)
    }

    async fn find(&self, session: &mut Session, identity: &Identity) -> Result<Found, Error> {
        let records = self.inner().records(&mut session.in_time()).await?;
        records.find(&mut session.in_time(), identity).await
    }

    async fn find_settled(&self, request: &Request, claim: Claim) -> Result<Option<Record>, Error> {
        // With the lock timeout: the wait for a hanging COMMIT must not hold this connection beyond the deadline.
        let mut session = Database::begin(self).await?;
        let records = self.inner().records(&mut session.in_time()).await?;
        let found = records.find_settled(&mut session.in_time(), request, claim).await?;
        if found.is_some() {
            // This server has the record. Under synchronous replication its standby may not: a server that has crashed
            // shows commits that no standby has confirmed. The look-up has locked the row, so it has a transaction id,
            // and its COMMIT waits for the standby. The log is replicated in its order, so the record is there, too.
            session.commit(self.inner().commit_deadline).await?;
        }
        Ok(found)
    }

    /// The first try looks nothing up: most requests are new, and the primary key shows whether there is a record.
    /// Later tries look first, because an insert waits for the transaction that holds the row, and a look-up does not.
    async fn look(
        &self,
        request: &Request,
        digest: &Digest,
        intent: Intent,
        tries: usize,
    ) -> Result<Looked<Session>, Error> {
        let connection = match self.inner().running.acquire(self.pool(), request, digest, intent == Intent::Run).await?
        {
            ControlFlow::Continue(connection) => connection,
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
        };
        let mut session = Session::begin_on(connection, self, self.inner().begin_own).await?;
        let found = match tries {
            0 => None,
            _ => Some(Database::find(self, &mut session, &request.identity).await?),
        };
        Ok(ControlFlow::Continue((session, found)))
    }

    async fn write(&self, look: Session) -> Result<Session, Error> {
        Ok(look)
    }

    async fn lease(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        over: Over,
    ) -> Result<Leased, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        let connection = &mut session.in_time();
        let leased = match over {
            Over::Nothing => leases.lease(connection, request, claim, terms).await,
            Over::Expired(expired) => leases.replace_leased(connection, request, claim, terms, expired).await,
            Over::Attempt(earlier) => leases.take_over(connection, request, claim, terms, earlier).await,
        };
        match leased.map_err(store_error) {
            Ok(true) => Ok(Leased::Claimed),
            Ok(false) => Ok(Leased::Taken),
            Err(error) if error.kind() == Kind::RetryLater => Ok(Leased::Locked),
            Err(error) => Err(error),
        }
    }

    async fn entries(&self, session: &mut Session, identity: &Identity) -> Result<Vec<Entry>, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        leases.entries(&mut session.in_time(), identity).await
    }

    async fn renew(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> Result<bool, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        leases.renew(&mut session.in_time(), request, claim, terms).await.map_err(store_error)
    }

    async fn release(
        &self,
        session: &mut Session,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> Result<bool, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        leases.release(&mut session.in_time(), identity, claim, nobodys, has_run).await.map_err(store_error)
    }

    async fn poison_leased(&self, session: &mut Session, identity: &Identity, claim: Claim) -> Result<bool, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        leases.poison_leased(&mut session.in_time(), identity, claim).await.map_err(store_error)
    }

    async fn reset_attempts(&self, session: &mut Session, identity: &Identity) -> Result<bool, Error> {
        let leases = self.inner().leases(&mut session.in_time()).await?;
        leases.reset_attempts(&mut session.in_time(), identity).await.map_err(store_error)
    }

    async fn abandoned(&self, operation: &str, after: Option<&Place>) -> Result<Vec<Abandoned>, Error> {
        let mut session = Database::begin(self).await?;
        let leases = self.inner().leases(&mut session.in_time()).await?;
        let abandoned = leases.abandoned(&mut session.in_time(), operation, after).await.map_err(store_error)?;
        session.commit(self.inner().commit_deadline).await?;
        Ok(abandoned)
    }

    async fn begin_step(&self, identity: &Identity, claim: Claim) -> Result<Option<PgTx>, Error> {
        // Taken before BEGIN, so that a lease never lasts longer by our clock than by the database's.
        let at = Instant::now();
        let mut tx = PgTx::open(self).await?;
        let leases = tx.leases().await?;
        let held = leases.held_since(&mut tx.in_time(), identity, claim).await.map_err(store_error)?;
        Ok(held.map(|(began, backend)| {
            tx.began = Some((began, at));
            tx.backend = Some(backend);
            tx
        }))
    }

    async fn begin_alone(&self) -> Result<PgTx, Error> {
        PgTx::open_by(self, self.inner().begin_own).await
    }

    async fn record_entry(
        &self,
        tx: &mut PgTx,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> Result<Written, Error> {
        let (leases, began) = (tx.leases().await?, tx.began);
        let written = leases.record_entry(&mut tx.in_time(), request, claim, terms, began, entry).await;
        written_in(tx, written).await
    }

    async fn complete_leased(
        &self,
        tx: &mut PgTx,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> Result<Written, Error> {
        let (leases, began) = (tx.leases().await?, tx.began);
        let written = leases.complete_leased(&mut tx.in_time(), request, claim, began, outcome).await;
        written_in(tx, written).await
    }

    async fn roll_back(&self, mut tx: PgTx) -> bool {
        let backend = tx.backend;
        let is_whole = unless_busy(is_whole(&mut tx), self.cancel_backend(backend)).await;
        tx.take_session().rollback().await;
        is_whole
    }

    async fn sweep_batch(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        self.sweep_one_batch(sweep, from).await
    }

    async fn migrated(&self) -> Result<Vec<String>, Error> {
        self.migrated_files().await
    }

    async fn begin_migrations(&self) -> Result<(Session, Vec<String>), Error> {
        self.begin_to_migrate().await
    }

    async fn run_migration(&self, session: &mut Session, migration: &Migration) -> Result<(), Error> {
        let run = sqlx::raw_sql(migration.sql).execute(session.connection()).await;
        run.map(|_| ()).map_err(store_error)
    }
}

impl PgStore {
    /// Cancels what a step's transaction does, from another connection.
    async fn cancel_backend(&self, backend: Option<i32>) -> Result<(), Error> {
        let Some(backend) = backend else { return Ok(()) };
        let mut session = self.begin_renewal().await?;
        let cancel = sqlx::query("SELECT pg_catalog.pg_cancel_backend($1)").persistent(false).bind(backend);
        cancel.execute(&mut session.in_time()).await.map_err(store_error)?;
        session.rollback().await;
        Ok(())
    }
}

/// If the last statement found no row, another attempt holds the lease, or the step ended the transaction that it was
/// lent. After such an end the statement can also fail: a trigger may refuse it, and a pooler may send its two halves to
/// two servers.
async fn written_in(tx: &mut PgTx, is_written: sqlx::Result<bool>) -> Result<Written, Error> {
    match is_written {
        Ok(true) => Ok(Written::Kept),
        Ok(false) if is_whole(tx).await => Ok(Written::NotHeld),
        Err(error) if is_whole(tx).await => Err(store_error(error)),
        Ok(false) | Err(_) => Ok(Written::Ended),
    }
}

/// Whether a step's transaction is still the one that was begun, by its start time. A failed transaction has not ended.
/// A transaction that cannot be asked is lost, and counts as not ended.
async fn is_whole(tx: &mut PgTx) -> bool {
    let Some((began, _)) = tx.began else {
        // This transaction was not lent to a step.
        return true;
    };
    let Ok(leases) = tx.leases().await else { return true };
    !leases.transaction_start(&mut tx.in_time()).await.is_ok_and(|now| now != began)
}
