//! What a store owes to a leased run.

use std::future::Future;

use super::handle::{Claimed, Store};
use super::transaction::Transaction;
use crate::entry::Entry;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Request};

/// The right to run one attempt of a leased run, as a store keeps it.
///
/// # What an implementer owes
/// - **Committed first.** When `claim` answers `Run`, every other process sees the lease.
/// - **Fenced.** `renew`, `record`, `complete` and `release` change something only where the record is still held by this
///   claim, in the same statement that asks. Otherwise they answer [`Kind::LeaseLost`](crate::Kind::LeaseLost).
/// - **The store's clock** says when a lease ends.
/// - **One commit.** A step's writes and the step become visible together or not at all; so do the last writes and the
///   outcome.
pub trait Lease: Clone + Send + Sync + 'static {
    /// The store.
    type Store: Store;

    /// What a transaction step gets.
    type Tx: Transaction<Store = Self::Store>;

    /// True if an open step transaction locks out other claimants and our own renewal, as SQLite's write lock does.
    const EXCLUSIVE: bool;

    /// Claims the request, or takes it over where an earlier attempt was abandoned or released.
    ///
    /// # Errors
    /// The store could not be asked, or did not answer. Whatever it has claimed ends with the lease.
    ///
    /// # Cancel safety
    /// Dropped, what it has claimed is released, or ends with the lease.
    fn claim(
        store: &Self::Store,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> impl Future<Output = Result<Claimed<Attempt<Self>>, Error>> + Send;

    /// Lets the lease begin again.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`](crate::Kind::LeaseLost), and what the store says.
    fn renew(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins a transaction for a step, in which the lease was seen to be held.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Commits the entry, with the transaction of its step, and lets the lease begin again. An entry without one that comes
    /// again, since its commit did not answer, is kept once. In the place of a call that was
    /// [started](crate::store::EntryKind::CALL_STARTED) the finished call of its name is kept, or the rejection.
    ///
    /// From an [`EntryKind::REJECTION`](crate::store::EntryKind::REJECTION) on the record does not expire until it is completed, and its state says that it
    /// [is rejected](crate::store::State::Leased).
    ///
    /// # Errors
    /// As for [`renew`](Self::renew); [`Kind::TransactionEnded`](crate::Kind::TransactionEnded) where the step ended the
    /// transaction itself, which bars the record. Nothing was kept, unless it is that or
    /// [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown).
    fn record(&self, tx: Option<Self::Tx>, entry: &Entry) -> impl Future<Output = Result<(), Error>> + Send;

    /// Commits the outcome, with the transaction of the last writes where there are some, and ends the lease.
    ///
    /// # Errors
    /// As for [`record`](Self::record).
    fn complete(&self, tx: Option<Self::Tx>, outcome: &Outcome) -> impl Future<Output = Result<(), Error>> + Send;

    /// Rolls back a transaction of `begin`.
    ///
    /// # Errors
    /// [`Kind::TransactionEnded`](crate::Kind::TransactionEnded) where the step ended the transaction itself, which bars the
    /// record. A store that cannot be reached is no error: it undoes what was not committed.
    fn roll_back(&self, tx: Self::Tx) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends the lease and keeps the finished steps: the next attempt goes on behind them.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    fn release(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// One attempt of a leased run, as it begins.
#[derive(Debug)]
pub struct Attempt<L> {
    /// The right to run it.
    pub lease: L,
    /// Which attempt this is: 1 is the first.
    pub number: u32,
    /// What the first attempt was asked: of a run that is resumed, the one in its record.
    pub fingerprint: Fingerprint,
    /// What earlier attempts have recorded, in its order.
    pub entries: Vec<Entry>,
}
