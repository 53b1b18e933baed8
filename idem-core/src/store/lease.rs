//! What a store owes to a leased run.

use std::future::Future;

use super::handle::{Claimed, Store};
use super::transaction::Transaction;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Reply, Request};

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

    /// Commits the step, with the transaction that it had, and lets the lease begin again. A step without one that comes
    /// again, since its commit did not answer, is kept once. In the place of a call that was [made](StepForm::MADE), the
    /// step of its name is kept, or the rejection.
    ///
    /// With a [`StepForm::REJECTION`] the record stops to expire until it is finished, and from then on its state says that
    /// it [is rejected](crate::store::State::Leased).
    ///
    /// # Errors
    /// As for [`renew`](Self::renew); [`Kind::TransactionEnded`](crate::Kind::TransactionEnded) where the step ended the
    /// transaction itself, which bars the record. Nothing was kept, unless it is that or
    /// [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown).
    fn record(&self, tx: Option<Self::Tx>, step: &Step) -> impl Future<Output = Result<(), Error>> + Send;

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
    /// The steps that earlier attempts have kept, in their order: the last one may be a call that was
    /// [made](StepForm::MADE).
    pub steps: Vec<Step>,
}

/// A step that is kept, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its place among the steps of the run: 0 is the first.
    pub position: u32,
    /// Its name.
    pub name: String,
    /// What kind of step it is.
    pub form: StepForm,
    /// Its result.
    pub result: Reply,
}

/// What kind of step it is: a number that a later release may add to, and never gives another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepForm(pub i16);

impl StepForm {
    /// A transaction in the store's database.
    pub const TRANSACTION: Self = Self(1);

    /// A call of the outside world.
    pub const CALL: Self = Self(2);

    /// That the run is rejected, with its outcome and the steps to undo. No other step comes behind it.
    pub const REJECTION: Self = Self(3);

    /// That a step is undone, behind the rejection.
    pub const UNDO: Self = Self(4);

    /// No step of a run, but what it was begun with.
    pub const INPUT: Self = Self(5);

    /// A call that was made, and of which it is not known what came of it. The finished call takes its place.
    pub const MADE: Self = Self(6);
}
