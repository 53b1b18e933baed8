//! What the flows ask of Postgres.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use idem_core::hint::Confirmed;
use idem_core::observer::Backlog;
use idem_core::operate::{Counts, Cursor, Reason};
use idem_core::seal::{Mark, Sealer};
use idem_core::store::{Abandoned, Claim, Entry, Intent, LeaseTerms, Outcome, Place, Record};
use idem_core::{Error, Fingerprint, Identity, Kind, Request, Scope};

use super::migrate::not_created;
use super::session::{Begin, Session, begin};
use super::store::{Locks, PgStore};
use super::tx::{PgTx, Step, cancel_holder, unless_busy};
use crate::accepted::Naming;
use crate::database::{
    CommitFailed, Database, ForgottenBatch, Found, Leased, Looked, Over, Sight, SomeListed, Written,
};
use crate::error::store_error;
use crate::hints::Hints;
use crate::migrations::Migration;
use crate::running::{Asked, Digest, Running};
use crate::sweep::{Batch, Sweep};

/// Begins a transaction of the store's own. With a lock timeout: a request does not wait long for a locked row while it
/// holds a connection.
pub(super) const BEGIN: Begin = begin!(" ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '500ms'");

impl Database for PgStore {
    type Session = Session;
    type Look = Option<Session>;
    type Tx = PgTx;

    /// A step's transaction changes the record's row only in its last statement. Until then the renewal can change the
    /// row.
    const EXCLUSIVE: bool = false;

    fn sealer(&self) -> &Sealer {
        &self.inner().sealer
    }

    fn running(&self) -> &Running {
        &self.inner().running
    }

    fn commit_deadline(&self) -> Duration {
        self.inner().commit_deadline
    }

    async fn begin(&self) -> Result<Session, Error> {
        Session::begin(self, &self.inner().begin_own).await
    }

    async fn begin_renewal(&self) -> Result<Session, Error> {
        Session::begin_on(self.inner().spare.acquire(self.pool()).await?, self, &self.inner().begin_own).await
    }

    fn commit(&self, session: Session) -> impl Future<Output = Result<(), CommitFailed>> + Send + 'static {
        session.commit(self.inner().commit_deadline)
    }

    fn session_of(mut tx: PgTx) -> Session {
        tx.take_session()
    }

    async fn insert(&self, session: &mut Session, request: &Request, claim: Claim) -> Result<bool, Error> {
        let records = self.inner().records(&mut session.in_time()).await?;
        let locks = records.lock_words(request);
        records.insert(&mut session.in_time(), request, claim, locks).await.map_err(store_error)
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

    /// The first try looks nothing up: most requests are new, and the primary key shows whether there is a record. Later
    /// tries look first, because an insert waits for the transaction that holds the row, and a look-up does not. So does
    /// the first try of a request that is probably a retry.
    async fn look(
        &self,
        request: &Request,
        digest: &Digest,
        intent: Intent,
        tries: usize,
    ) -> Result<Looked<Option<Session>>, Error> {
        let asked = Asked { request, digest, is_compared: intent == Intent::Run };
        if tries == 0 && self.inner().recent.contains(digest) {
            return Session::find_alone(self, asked)
                .await
                .map(|looked| looked.map_continue(|(found, look)| (look, found)));
        }
        let mut session = match Session::begin_for(self, &self.inner().begin_own, asked).await? {
            ControlFlow::Continue(session) => session,
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
        };
        let found = match tries {
            0 => None,
            _ => Some(Database::find(self, &mut session, &request.identity).await?),
        };
        Ok(ControlFlow::Continue((Some(session), found)))
    }

    async fn write(&self, look: Option<Session>) -> Result<Session, Error> {
        match look {
            Some(session) if session.has_begun() => Ok(session),
            Some(session) => session.begun(&self.inner().begin_own).await,
            None => Database::begin(self).await,
        }
    }

    fn finished(&self, digest: &Digest) {
        self.inner().recent.insert(digest);
    }

    fn is_recent(&self, digest: &Digest) -> bool {
        self.inner().recent.contains(digest)
    }

    fn hints(&self) -> &Hints {
        &self.inner().hints
    }

    async fn confirm(&self) -> Result<Confirmed, Error> {
        self.ask_for_epoch().await
    }

    async fn new_epoch(&self) -> Result<(), Error> {
        self.begin_epoch().await
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

    async fn read_entries(&self, identity: &Identity) -> Result<Vec<Entry>, Error> {
        let mut session = Database::begin(self).await?;
        let entries = Database::entries(self, &mut session, identity).await?;
        session.commit(self.inner().commit_deadline).await?;
        Ok(entries)
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

    async fn give_up(
        &self,
        session: &mut Session,
        identity: &Identity,
        nobodys: Claim,
        reason: &Reason,
    ) -> Result<bool, Error> {
        self.give_up_by(session, identity, nobodys, reason).await
    }

    async fn seen(&self, identity: &Identity, asked: Option<Fingerprint>) -> Result<Sight, Error> {
        self.look_at(identity, asked).await
    }

    async fn list_some(&self, scope: Option<&Scope>, after: &Cursor, most: u32) -> Result<SomeListed, Error> {
        self.list_after(scope, after, most).await
    }

    async fn count_records(&self) -> Result<Counts, Error> {
        self.count().await
    }

    async fn forget_batch(
        &self,
        scope: &Scope,
        after: &(String, Vec<u8>),
        is_dry: bool,
    ) -> Result<ForgottenBatch, Error> {
        self.forget_some(scope, after, is_dry).await
    }

    async fn abandoned(&self, operation: &str, after: Option<&Place>) -> Result<Vec<Abandoned>, Error> {
        let mut session = Database::begin(self).await?;
        let leases = self.inner().leases(&mut session.in_time()).await?;
        let abandoned = leases.abandoned(&mut session.in_time(), operation, after).await.map_err(store_error)?;
        session.commit(self.inner().commit_deadline).await?;
        Ok(abandoned)
    }

    async fn begin_step(&self, _identity: &Identity, _claim: Claim) -> Result<Option<PgTx>, Error> {
        let step = Step::new()?;
        let mut tx = PgTx::open_by(self, &self.inner().begin.then(step.marks(self.inner().locks))).await?;
        tx.step = Some(step);
        Ok(Some(tx))
    }

    async fn begin_alone(&self) -> Result<PgTx, Error> {
        PgTx::open_by(self, &self.inner().begin_own).await
    }

    async fn record_entry(
        &self,
        tx: &mut PgTx,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> Result<Written, Error> {
        let (leases, step) = (tx.leases().await?, tx.step);
        let written = leases.record_entry(&mut tx.in_time(), request, claim, terms, step.as_ref(), entry).await;
        written_in(tx, written).await
    }

    async fn complete_leased(
        &self,
        tx: &mut PgTx,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> Result<Written, Error> {
        let (leases, step) = (tx.leases().await?, tx.step);
        let written = leases.complete_leased(&mut tx.in_time(), request, claim, step.as_ref(), outcome).await;
        written_in(tx, written).await
    }

    async fn roll_back(&self, mut tx: PgTx) -> bool {
        let lock = tx.step.map(|step| step.mark).filter(|_| self.inner().locks == Locks::Advisory);
        let cancel = async {
            match lock {
                Some(lock) => cancel_holder(self, lock).await,
                None => Ok(()),
            }
        };
        let is_whole = unless_busy(is_whole(&mut tx), cancel).await;
        tx.take_session().rollback().await;
        is_whole
    }

    /// By measurement: two thirds of one connection's time are still enough for the fastest writers, and a shorter rest
    /// takes more from requests than it removes.
    const SWEEP_REST: f64 = 0.5;

    async fn sweep_batch(&self, sweep: &Sweep, from: Option<i64>) -> Result<Batch, Error> {
        self.sweep_one_batch(sweep, from).await
    }

    async fn count_backlog(&self) -> Result<Backlog, Error> {
        self.look_at_backlog().await
    }

    async fn migrated(&self) -> Result<Vec<String>, Error> {
        self.migrated_files().await
    }

    async fn begin_migrations(&self) -> Result<(Session, Vec<String>), Error> {
        self.begin_to_migrate().await
    }

    async fn run_migration(&self, session: &mut Session, migration: &Migration) -> Result<(), Error> {
        let run = sqlx::raw_sql(migration.sql).execute(session.connection()).await;
        run.map(|_| ()).map_err(not_created)
    }

    async fn naming(&self) -> Result<Naming, Error> {
        self.look_at_naming().await
    }

    async fn naming_in(&self, session: &mut Session) -> Result<Naming, Error> {
        self.read_naming(session).await
    }

    async fn name_records(&self, session: &mut Session, mark: Option<Mark>) -> Result<bool, Error> {
        self.name_by(session, mark).await
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

/// Whether a step's transaction is still the one that was begun, failed or not. If so, it is rolled back. A transaction
/// that cannot be asked is lost, and counts as not ended.
async fn is_whole(tx: &mut PgTx) -> bool {
    // Another transaction was not lent to a step.
    tx.step.is_none() || !matches!(tx.holds().await, Ok(false))
}
