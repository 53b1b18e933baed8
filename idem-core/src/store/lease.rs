//! What a store must provide for leased runs.

use std::future::Future;

use super::handle::{Claimed, Store};
use super::transaction::Transaction;
use crate::entry::Entry;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Request};

/// The right to run one attempt of a leased run, as the store records it.
///
/// # What an implementer must guarantee
/// - **Committed first.** When `claim` answers `Run`, the lease is visible to every other process.
/// - **Fenced.** `renew`, `record`, `complete` and `release` change the record only if this claim still holds it, and
///   check that in the same statement. Otherwise they answer [`Kind::LeaseLost`](crate::Kind::LeaseLost).
/// - **The store's clock** says when a lease ends.
/// - **One commit.** A step's writes and its record become visible together or not at all. So do the last writes and
///   the outcome.
pub trait Lease: Clone + Send + Sync + 'static {
    /// The store.
    type Store: Store;

    /// The transaction that a transaction step gets. Unless it is a [`Context`](super::Context), the steps of this store
    /// are calls alone: a step in a transaction does not compile.
    type Tx: Transaction<Store = Self::Store>;

    /// True if an open step transaction locks out other claimants and our own renewal, as SQLite's write lock does.
    const EXCLUSIVE: bool;

    /// Claims the request, or takes it over if an earlier attempt was abandoned or released. Attempts that were
    /// released are [spaced](Claimed::TooSoon).
    ///
    /// # Errors
    /// The store could not be asked, or did not answer. A claim that it may have made ends with the lease.
    ///
    /// # Cancel safety
    /// Dropped, its claim is released, or ends with the lease.
    fn claim(
        store: &Self::Store,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> impl Future<Output = Result<Claimed<Attempt<Self>>, Error>> + Send;

    /// The fence number of this attempt, if the store gives one: greater than that of every earlier attempt of the
    /// identity, also over releases and expired records.
    fn fence(&self) -> Option<u64> {
        None
    }

    /// Renews the lease: its full duration begins again.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`](crate::Kind::LeaseLost), and the errors of the store.
    fn renew(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins a transaction for a step. It may check that the lease is held. [`record`](Self::record) and
    /// [`complete`](Self::complete) have to: a lost lease keeps nothing.
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Commits the entry together with the transaction of its step, if there is one, and renews the lease. An entry
    /// without a transaction may be recorded again after a commit that did not answer; it is stored once. The finished
    /// call, or a rejection, replaces the entry of a call that was [started](crate::store::EntryKind::CALL_STARTED).
    ///
    /// From an [`EntryKind::REJECTION`](crate::store::EntryKind::REJECTION) on the record does not expire until it is
    /// completed, and its state says that it [is rejected](crate::store::State::Leased).
    ///
    /// # Errors
    /// As for [`renew`](Self::renew). [`Kind::TransactionEnded`](crate::Kind::TransactionEnded) if the step ended the
    /// transaction itself, which poisons the record. Nothing was committed, unless the kind is that one or
    /// [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown).
    fn record(&self, tx: Option<Self::Tx>, entry: &Entry) -> impl Future<Output = Result<(), Error>> + Send;

    /// Commits the outcome together with the transaction of the last writes, if there is one, and ends the lease.
    ///
    /// # Errors
    /// As for [`record`](Self::record).
    fn complete(&self, tx: Option<Self::Tx>, outcome: &Outcome) -> impl Future<Output = Result<(), Error>> + Send;

    /// Rolls back a transaction of `begin`.
    ///
    /// # Errors
    /// [`Kind::TransactionEnded`](crate::Kind::TransactionEnded) if the step ended the transaction itself, which
    /// poisons the record. A store that cannot be reached is no error: it undoes what was not committed.
    fn roll_back(&self, tx: Self::Tx) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends the lease and keeps the finished steps: the next attempt resumes after them. The attempt is counted among
    /// those that were [released](crate::store::State::Leased::released).
    ///
    /// # Errors
    /// As for [`renew`](Self::renew).
    fn release(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// One attempt of a leased run, at its beginning.
#[derive(Debug)]
pub struct Attempt<L> {
    /// The right to run this attempt.
    pub lease: L,
    /// The number of this attempt: 1 is the first.
    pub number: u32,
    /// The fingerprint of the request. For a run that is resumed it is read from the record.
    pub fingerprint: Fingerprint,
    /// The entries that earlier attempts have recorded, in order.
    pub entries: Vec<Entry>,
}
