//! What differs between databases: the intents from which the flows of this crate are made.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use idem_core::hint::Confirmed;
use idem_core::machine::Details;
use idem_core::observer::Backlog;
use idem_core::operate::{Counts, Cursor, Forgotten, Listed, Reason};
use idem_core::seal::{Mark, Sealer};
use idem_core::store::{
    Abandoned, Claim, Entry, Intent, LeaseTerms, Outcome, Place, Record, Store, Timestamp, Transaction,
};
use idem_core::{Error, Fingerprint, Identity, Kind, Request, Scope};

use crate::accepted::Naming;
use crate::error::into_idem_error;
use crate::hints::Hints;
use crate::migrations::Migration;
use crate::running::{Digest, Running};
use crate::sweep::{Batch, Sweep};

/// The database under a store. A statement that changes a leased record checks in itself that the claim still holds the
/// record. An intent that gets a transaction works inside that transaction.
pub trait Database: Store + Unpin {
    /// A short transaction of the store itself, at read committed. It rolls back when it is dropped.
    type Session: Send + 'static;

    /// The connection of a look-up. [`write`](Self::write) turns it into a session.
    type Look: Send;

    /// What a handler writes through.
    type Tx: Transaction<Store = Self>;

    /// True if an open transaction locks out other claimants and our own renewal.
    const EXCLUSIVE: bool;

    /// Seals what is stored. The flows seal and open contents, so that no intent sees one in clear.
    fn sealer(&self) -> &Sealer;

    /// The runs of this process.
    fn running(&self) -> &Running;

    /// Notes that the run of an identity has finished, so that the next request with it is probably a retry.
    fn finished(&self, digest: &Digest);

    /// Whether a request with this identity is probably a retry.
    fn is_recent(&self, digest: &Digest) -> bool;

    /// The hints in front of the database.
    fn hints(&self) -> &Hints;

    /// The epoch and the time of the database, from a statement that begins after the call.
    fn confirm(&self) -> impl Future<Output = Result<Confirmed, Error>> + Send;

    /// Begins another epoch: no entry of a hint counts any more that was made before.
    fn new_epoch(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// How long to wait for the answer to a COMMIT, and once more for the look-up of a COMMIT that got no answer.
    fn commit_deadline(&self) -> Duration;

    // Transactions.

    fn begin(&self) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    /// Begins a transaction for a sign of life, which does not queue behind the work that it keeps alive.
    fn begin_renewal(&self) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    fn commit(&self, session: Self::Session) -> impl Future<Output = Result<(), CommitFailed>> + Send + 'static;

    /// Takes the session out of a handler's transaction, to commit it.
    fn session_of(tx: Self::Tx) -> Self::Session;

    // Records.

    /// Inserts the running record. The primary key is the arbiter.
    fn insert(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Replaces an expired record, if it is still the record that was seen.
    fn replace(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// The record of an identity, and the database's time.
    fn find(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
    ) -> impl Future<Output = Result<Found, Error>> + Send;

    /// The record as the transaction of this claim has left it. Waits until that transaction has ended.
    fn find_settled(
        &self,
        request: &Request,
        claim: Claim,
    ) -> impl Future<Output = Result<Option<Record>, Error>> + Send;

    // Leases.

    /// Looks the record of a request up. `None` means that nothing was looked up, because the insert will show whether
    /// there is a record. `tries` is the number of earlier tries of this claim. Breaks if there is no connection, and a
    /// run of this process answers the request.
    fn look(
        &self,
        request: &Request,
        digest: &Digest,
        intent: Intent,
        tries: usize,
    ) -> impl Future<Output = Result<Looked<Self::Look>, Error>> + Send;

    /// The session to write in, on the connection of a look-up.
    fn write(&self, look: Self::Look) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    /// Inserts a leased record, replaces an expired record, or takes over from an attempt whose lease has ended.
    fn lease(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        over: Over,
    ) -> impl Future<Output = Result<Leased, Error>> + Send;

    /// The entries that earlier attempts have recorded, in their order.
    fn entries(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
    ) -> impl Future<Output = Result<Vec<Entry>, Error>> + Send;

    /// The same entries, in a transaction that only reads.
    fn read_entries(&self, identity: &Identity) -> impl Future<Output = Result<Vec<Entry>, Error>> + Send;

    fn renew(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Ends the lease and keeps the journal. `nobodys` replaces the claim. The attempt is numbered, and counted among the
    /// released ones, only if `has_run` is true.
    fn release(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Poisons a leased run, so that it does not run again: what the run has kept is not known.
    fn poison_leased(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
        claim: Claim,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Resets the attempts of a run that is not over and that no process holds.
    fn reset_attempts(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Gives a run up that is not over and that no process holds, under a claim that is nobody's, and removes its journal.
    fn give_up(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
        nobodys: Claim,
        reason: &Reason,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    // For operators.

    /// What is seen of an identity. It takes no lock, so it stands in no request's way. It looks for a transaction that
    /// runs the identity first: one that ends in between has left its record.
    fn seen(
        &self,
        identity: &Identity,
        asked: Option<Fingerprint>,
    ) -> impl Future<Output = Result<Sight, Error>> + Send;

    /// Records after a place, of one scope or of all, in the order of the primary key.
    fn list_some(
        &self,
        scope: Option<&Scope>,
        after: &Cursor,
        most: u32,
    ) -> impl Future<Output = Result<SomeListed, Error>> + Send;

    /// How many records there are, among those that expire last.
    fn count_records(&self) -> impl Future<Output = Result<Counts, Error>> + Send;

    /// One batch of the finished records of a scope, after an operation and key hash.
    fn forget_batch(
        &self,
        scope: &Scope,
        after: &(String, Vec<u8>),
        is_dry: bool,
    ) -> impl Future<Output = Result<ForgottenBatch, Error>> + Send;

    /// A page of the abandoned runs of an operation.
    fn abandoned(
        &self,
        operation: &str,
        after: Option<&Place>,
    ) -> impl Future<Output = Result<Vec<Abandoned>, Error>> + Send;

    // Steps.

    /// A transaction for a step. `None` if the lease is seen to be lost. What is recorded in it asks for the lease again.
    fn begin_step(
        &self,
        identity: &Identity,
        claim: Claim,
    ) -> impl Future<Output = Result<Option<Self::Tx>, Error>> + Send;

    /// A transaction for an entry or a completion outside of a step's transaction.
    fn begin_alone(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Records an entry and renews the lease. It is the last statement before COMMIT.
    fn record_entry(
        &self,
        tx: &mut Self::Tx,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Completes a leased record and removes its journal. It is the last statement before COMMIT.
    fn complete_leased(
        &self,
        tx: &mut Self::Tx,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Rolls a step's transaction back. Returns false if the step had ended the transaction that it was lent. A
    /// transaction that cannot be asked is lost, and counts as not ended.
    fn roll_back(&self, tx: Self::Tx) -> impl Future<Output = bool> + Send;

    // Upkeep.

    /// How long a sweep rests after a full batch, as a share of the time that the batch took.
    const SWEEP_REST: f64;

    /// One batch of a sweep. `from` is where the previous batch ended.
    fn sweep_batch(&self, sweep: &Sweep, from: Option<i64>) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// What is left to sweep and to resume.
    fn count_backlog(&self) -> impl Future<Output = Result<Backlog, Error>> + Send;

    /// The names of the migrations that have been run. The right to read is enough.
    fn migrated(&self) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// A transaction in which no other process migrates, and the names of the migrations that have been run by then.
    fn begin_migrations(&self) -> impl Future<Output = Result<(Self::Session, Vec<String>), Error>> + Send;

    /// Runs one migration.
    fn run_migration(
        &self,
        session: &mut Self::Session,
        migration: &Migration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// How the database names records. The right to read is enough.
    fn naming(&self) -> impl Future<Output = Result<Naming, Error>> + Send;

    /// The same, in a transaction.
    fn naming_in(&self, session: &mut Self::Session) -> impl Future<Output = Result<Naming, Error>> + Send;

    /// From the commit on, the database accepts claims under this mark alone. Waits for the claims that are not committed.
    /// Returns false if a record in force is of another mark. The session must be rolled back then.
    fn name_records(
        &self,
        session: &mut Self::Session,
        mark: Option<Mark>,
    ) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// A look-up and the record that it found, or what a run of this process means for the request.
pub(crate) type Looked<L> = ControlFlow<Kind, (L, Option<Found>)>;

/// What is seen of an identity.
#[derive(Debug)]
pub struct Sight {
    /// The refusal by a transaction of another process that runs the identity and is not committed, where the database
    /// shows such a transaction.
    pub(crate) in_flight: Option<Kind>,
    pub(crate) found: Found,
    pub(crate) details: Details,
}

/// Some records of a list.
#[derive(Debug)]
pub struct SomeListed {
    pub(crate) records: Vec<Listed>,
    pub(crate) now: Timestamp,
}

/// One batch of records that were forgotten, or would be.
#[derive(Debug)]
pub struct ForgottenBatch {
    pub(crate) forgotten: Forgotten,
    /// Finished records that another transaction has locked.
    pub(crate) busy: u64,
    /// The operation and key hash of the last record. `None`: there are no more records.
    pub(crate) reached: Option<(String, Vec<u8>)>,
}

/// The record of an identity, if there is one, and the database's time.
pub(crate) type Found = (Option<Record>, Timestamp);

/// What the claim of a leased run replaces.
#[derive(Debug, Clone, Copy)]
pub enum Over {
    /// No record: the claim inserts one.
    Nothing,
    /// An expired record.
    Expired(Claim),
    /// An attempt whose lease has ended.
    Attempt(Claim),
}

/// The outcome of a claim on a leased run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    /// The run is claimed.
    Claimed,
    /// Another claimant was first.
    Taken,
    /// Another transaction holds the row, and our transaction is over. The other one is of a run that is just ending,
    /// or of a lost connection.
    Locked,
}

/// The outcome of the last statement of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The statement has written.
    Kept,
    /// The claim no longer holds the lease.
    NotHeld,
    /// The step has ended the transaction that it was lent.
    Ended,
}

/// Why a COMMIT is not known to have succeeded.
#[derive(Debug)]
pub enum CommitFailed {
    /// The handler left a savepoint open: COMMIT was not sent.
    SavepointOpen,
    /// The database refused: nothing was kept.
    Refused(sqlx::Error),
    /// The answer was lost, or did not come in time.
    Unknown(sqlx::Error),
}

impl From<CommitFailed> for Error {
    /// For a COMMIT that kept nothing, or where it does not matter whether it did.
    fn from(failed: CommitFailed) -> Self {
        match failed {
            CommitFailed::Refused(error) | CommitFailed::Unknown(error) => into_idem_error(error),
            CommitFailed::SavepointOpen => Error::new(Kind::TransactionAborted)
                .because("the handler left a savepoint open; nothing was kept, retry the request"),
        }
    }
}
