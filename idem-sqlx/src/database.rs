//! What differs between databases: the intents that the flows of this crate are made of.

use std::future::Future;
use std::time::Duration;

use idem_core::store::{Abandoned, Claim, Entry, LeaseTerms, Outcome, Place, Record, Store, Timestamp, Transaction};
use idem_core::{Error, Identity, Kind, Request};

use crate::error::into_idem_error;
use crate::migrations::Migration;
use crate::sweep::{Batch, Sweep};

/// A database under a store. Each statement that changes something on a lease asks in itself whether the claim still holds
/// the record; each intent takes part in the transaction that it is given.
pub trait Database: Store + Unpin {
    /// A transaction of the store's own, short and read committed. Dropped, it rolls back.
    type Session: Send + 'static;

    /// A connection on which a record was looked up, and which may go on to write.
    type Look: Send;

    /// What a handler writes through.
    type Tx: Transaction<Store = Self>;

    /// True if an open transaction locks out other claimants and our own renewal.
    const EXCLUSIVE: bool;

    /// How long the answer to a COMMIT is waited for, and again what became of one that did not answer.
    fn commit_deadline(&self) -> Duration;

    // Transactions.

    fn begin(&self) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    fn commit(&self, session: Self::Session) -> impl Future<Output = Result<(), CommitFailed>> + Send + 'static;

    /// The session of a handler's transaction, to be committed.
    fn session_of(tx: Self::Tx) -> Self::Session;

    // Records.

    /// Inserts the running record. The primary key is the arbiter.
    fn insert(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Takes the place of an expired record, if it is still the one that was seen.
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

    /// The record as the transaction of this claim has left it. It waits for the end of that one.
    fn find_settled(
        &self,
        request: &Request,
        claim: Claim,
    ) -> impl Future<Output = Result<Option<Record>, Error>> + Send;

    // Leases.

    /// Looks a record up, or says that nobody has looked, where to insert tells as well. `tries` is how often this was
    /// asked before.
    fn look(
        &self,
        identity: &Identity,
        tries: usize,
    ) -> impl Future<Output = Result<(Self::Look, Option<Found>), Error>> + Send;

    /// To write, on the connection of a look.
    fn write(&self, look: Self::Look) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    /// Inserts a leased record, takes the place of an expired one, or takes over from an attempt that is over.
    fn lease(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        over: Over,
    ) -> impl Future<Output = Result<Leased, Error>> + Send;

    /// What earlier attempts have recorded, in its order.
    fn entries(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
    ) -> impl Future<Output = Result<Vec<Entry>, Error>> + Send;

    fn renew(
        &self,
        session: &mut Self::Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Ends the lease and keeps the journal. The claim becomes nobody's; an attempt that nobody has run does not count.
    fn release(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Sees to it that a leased run does not run again: nobody knows what it has kept.
    fn poison_leased(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
        claim: Claim,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Lets a run that is not over begin as often as it may once more.
    fn reset_attempts(
        &self,
        session: &mut Self::Session,
        identity: &Identity,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// A page of the abandoned runs of an operation.
    fn abandoned(
        &self,
        operation: &str,
        after: Option<&Place>,
    ) -> impl Future<Output = Result<Vec<Abandoned>, Error>> + Send;

    // Steps.

    /// A transaction for a step, in which the lease was seen to be held. Nothing where it is not.
    fn begin_step(
        &self,
        identity: &Identity,
        claim: Claim,
    ) -> impl Future<Output = Result<Option<Self::Tx>, Error>> + Send;

    /// A transaction for an entry that has no step.
    fn begin_alone(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Records an entry, and lets the lease begin again: the last statement before COMMIT.
    fn record_entry(
        &self,
        tx: &mut Self::Tx,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Completes a leased record, and removes its journal: the last statement before COMMIT.
    fn complete_leased(
        &self,
        tx: &mut Self::Tx,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Rolls a step's transaction back. Says whether it was still the one that was begun; one that cannot be asked is lost,
    /// and counts as that one.
    fn roll_back(&self, tx: Self::Tx) -> impl Future<Output = bool> + Send;

    // Upkeep.

    /// One batch of a sweep, from where the one before it has ended.
    fn sweep_batch(&self, sweep: &Sweep, from: Option<i64>) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// The names of the migrations that have been run, as a role can see them that may only read.
    fn migrated(&self) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// A transaction in which nobody else migrates, and what has been run by then.
    fn begin_migrations(&self) -> impl Future<Output = Result<(Self::Session, Vec<String>), Error>> + Send;

    /// Runs one.
    fn run_migration(
        &self,
        session: &mut Self::Session,
        migration: &Migration,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The record of an identity, if there is one, and the database's time.
pub(crate) type Found = (Option<Record>, Timestamp);

/// In whose place a leased run is claimed.
#[derive(Debug, Clone, Copy)]
pub enum Over {
    /// Nobody's.
    Nothing,
    /// That of an expired record.
    Expired(Claim),
    /// That of an attempt that is over.
    Attempt(Claim),
}

/// What came of a claim on a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    /// It is claimed.
    Claimed,
    /// Somebody else was first.
    Taken,
    /// Somebody has the row, and the transaction is over: a run that is just ending, or a connection that is lost.
    Locked,
}

/// What came of the last statement of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Kept,
    /// The lease is somebody else's.
    NotHeld,
    /// The step has ended the transaction that it was lent.
    Ended,
}

/// Why a COMMIT is not known to have succeeded.
#[derive(Debug)]
pub enum CommitFailed {
    /// The handler left a savepoint open: COMMIT was not sent.
    SavepointOpen,
    /// The database said no: nothing was kept.
    Refused(sqlx::Error),
    /// The answer was lost, or did not come in time.
    Unknown(sqlx::Error),
}

impl From<CommitFailed> for Error {
    /// Where nothing was kept, or where it does not matter whether it was.
    fn from(failed: CommitFailed) -> Self {
        match failed {
            CommitFailed::Refused(error) | CommitFailed::Unknown(error) => into_idem_error(error),
            CommitFailed::SavepointOpen => Error::new(Kind::TransactionAborted)
                .because("the handler left a savepoint open; nothing was kept, retry the request"),
        }
    }
}
