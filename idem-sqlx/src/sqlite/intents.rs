//! What the flows ask of SQLite.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use idem_core::hint::Confirmed;
use idem_core::observer::Backlog;
use idem_core::operate::{Counts, Cursor, Reason};
use idem_core::seal::{Mark, Sealer};
use idem_core::store::{Abandoned, Claim, Entry, Intent, LeaseTerms, Outcome, Place, Record};
use idem_core::{Error, Fingerprint, Identity, Request, Scope};

use super::error::{has_no_savepoint, is_answer};
use super::session::{Reader, Session, Unfinished};
use super::store::SqliteStore;
use super::tx::SqliteTx;
use crate::accepted::Naming;
use crate::database::{
    CommitFailed, Database, ForgottenBatch, Found, Leased, Looked, Over, Sight, SomeListed, Written,
};
use crate::error::store_error;
use crate::hints::Hints;
use crate::migrations::Migration;
use crate::running::{Asked, Digest, Running};
use crate::sweep::{Batch, Sweep};

impl Database for SqliteStore {
    type Session = Session;
    type Look = Reader;
    type Tx = SqliteTx;

    /// A transaction has the write lock from its first statement on.
    const EXCLUSIVE: bool = true;

    fn sealer(&self) -> &Sealer {
        &self.inner().sealer
    }

    fn running(&self) -> &Running {
        &self.inner().running
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

    fn commit_deadline(&self) -> Duration {
        self.inner().commit_deadline
    }

    async fn begin(&self) -> Result<Session, Error> {
        Session::begin_on(self.connection().await?).await
    }

    async fn begin_renewal(&self) -> Result<Session, Error> {
        Session::begin_on(self.connection_beside_work().await?).await
    }

    fn commit(&self, session: Session) -> impl Future<Output = Result<(), CommitFailed>> + Send + 'static {
        session.commit()
    }

    fn session_of(mut tx: SqliteTx) -> Session {
        tx.take_session()
    }

    async fn insert(&self, session: &mut Session, request: &Request, claim: Claim) -> Result<bool, Error> {
        self.inner().records.insert(session.connection(), request, claim).await.map_err(store_error)
    }

    async fn replace(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> Result<bool, Error> {
        let records = self.inner().records;
        records.replace(session.connection(), request, claim, expired).await.map_err(store_error)
    }

    async fn find(&self, session: &mut Session, identity: &Identity) -> Result<Found, Error> {
        self.inner().records.find(session.connection(), identity).await
    }

    async fn find_settled(&self, request: &Request, _claim: Claim) -> Result<Option<Record>, Error> {
        // The write lock is free only after the transaction has ended, so this BEGIN waits for its end.
        let mut session = Session::begin(self.pool()).await?;
        let (record, _now) = self.inner().records.find(session.connection(), &request.identity).await?;
        Ok(record)
    }

    /// A step may hold the write lock for long. Reading a finished record does not need the lock.
    async fn look(
        &self,
        request: &Request,
        digest: &Digest,
        intent: Intent,
        _tries: usize,
    ) -> Result<Looked<Reader>, Error> {
        let asked = Asked { request, digest, is_compared: intent == Intent::Run };
        let connection = match self.connection_for(asked).await? {
            ControlFlow::Continue(connection) => connection,
            ControlFlow::Break(kind) => return Ok(ControlFlow::Break(kind)),
        };
        let mut reader = Reader::on(connection);
        let found = self.inner().records.find_alone(&mut reader, &request.identity).await?;
        Ok(ControlFlow::Continue((reader, Some(found))))
    }

    async fn write(&self, look: Reader) -> Result<Session, Error> {
        look.begin().await
    }

    async fn lease(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        over: Over,
    ) -> Result<Leased, Error> {
        let (records, connection) = (self.inner().records, session.connection());
        let leased = match over {
            Over::Nothing => records.lease(connection, request, claim, terms).await,
            Over::Expired(expired) => records.replace_leased(connection, request, claim, terms, expired).await,
            Over::Attempt(earlier) => records.take_over(connection, request, claim, terms, earlier).await,
        };
        Ok(if leased.map_err(store_error)? { Leased::Claimed } else { Leased::Taken })
    }

    async fn entries(&self, session: &mut Session, identity: &Identity) -> Result<Vec<Entry>, Error> {
        self.inner().records.entries(session.connection(), identity).await
    }

    async fn read_entries(&self, identity: &Identity) -> Result<Vec<Entry>, Error> {
        let mut session = Session::begin_reading(self.pool()).await?;
        let entries = Database::entries(self, &mut session, identity).await;
        session.rollback().await;
        entries
    }

    async fn renew(
        &self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> Result<bool, Error> {
        self.inner().records.renew(session.connection(), request, claim, terms).await.map_err(store_error)
    }

    async fn release(
        &self,
        session: &mut Session,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> Result<bool, Error> {
        let records = self.inner().records;
        records.release(session.connection(), identity, claim, nobodys, has_run).await.map_err(store_error)
    }

    async fn poison_leased(&self, session: &mut Session, identity: &Identity, claim: Claim) -> Result<bool, Error> {
        self.inner().records.poison_leased(session.connection(), identity, claim).await.map_err(store_error)
    }

    async fn reset_attempts(&self, session: &mut Session, identity: &Identity) -> Result<bool, Error> {
        self.inner().records.reset_attempts(session.connection(), identity).await.map_err(store_error)
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
        let mut reader = Reader::acquire(self.pool()).await?;
        self.inner().records.abandoned(&mut reader, operation, after).await.map_err(store_error)
    }

    /// Does not look at the lease: the step's last statement does, and nobody else writes until then.
    async fn begin_step(&self, _identity: &Identity, _claim: Claim) -> Result<Option<SqliteTx>, Error> {
        SqliteTx::open(self).await.map(Some)
    }

    async fn begin_alone(&self) -> Result<SqliteTx, Error> {
        SqliteTx::open(self).await
    }

    async fn record_entry(
        &self,
        tx: &mut SqliteTx,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> Result<Written, Error> {
        let finished = self.inner().records.record_entry(tx.session(), request, claim, terms, entry).await;
        written_in(tx, finished).await
    }

    async fn complete_leased(
        &self,
        tx: &mut SqliteTx,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> Result<Written, Error> {
        let finished = self.inner().records.complete_leased(tx.session(), request, claim, outcome).await;
        written_in(tx, finished).await
    }

    async fn roll_back(&self, mut tx: SqliteTx) -> bool {
        let is_whole = is_whole(&mut tx).await;
        tx.take_session().rollback().await;
        is_whole
    }

    /// Other writers try for the write lock only at intervals, and have to find it free: half of the time is theirs.
    const SWEEP_REST: f64 = 1.0;

    async fn sweep_batch(&self, sweep: &Sweep, _from: Option<i64>) -> Result<Batch, Error> {
        self.sweep_one_batch(sweep).await
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
        run.map(|_| ()).map_err(store_error)
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

/// A COMMIT has been sent with what was written. [`Database::commit`] tells its answer.
async fn written_in(tx: &mut SqliteTx, finished: Result<(), Unfinished>) -> Result<Written, Error> {
    let committed = match finished {
        Ok(()) => Ok(()),
        Err(Unfinished::Commit(failed)) => Err(failed),
        Err(Unfinished::NotHeld) => return Ok(Written::NotHeld),
        // The code can also mean another SQL error. The second savepoint tells the two apart.
        Err(Unfinished::Failed(error)) if has_no_savepoint(&error) && !is_whole(tx).await => return Ok(Written::Ended),
        Err(Unfinished::Failed(error)) => return Err(store_error(error)),
    };
    tx.session().note(committed);
    Ok(Written::Kept)
}

/// Whether a step's transaction is still the one that was begun: otherwise its savepoint is gone. A transaction that
/// cannot be asked is lost, and counts as not ended.
async fn is_whole(tx: &mut SqliteTx) -> bool {
    !matches!(tx.session().check().await, Err(error) if is_answer(&error))
}
