//! One run of a handler.

use std::future::Future;

use super::handle::{Claimed, Store};
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Reply, Request};

/// One run: what a handler gets as `&mut` in its context parameter.
///
/// # What an implementer owes
/// - **One arbiter.** Of any number of `claim` calls on one identity, over any number of processes, at most one has
///   an undecided `Run` at a time, and none gets `Run` after one was completed or rejected and has not expired.
/// - **One commit.** What the handler writes through the context and the record that `complete` stores become
///   visible together or not at all.
/// - **The store's clock** decides about expiry, never the application's.
/// - **A drop is a release**, at any await: the handler's writes are undone, and no connection goes back to a pool
///   inside a transaction.
/// - **At most one connection** at a time for one context, and none once `claim` has answered anything but `Run`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no idempotency context",
    label = "not the type of a context",
    note = "the `&mut` parameter says how the handler runs: `tx: &mut PgTx` or `tx: &mut SqliteTx` from `idem_sqlx` in one transaction, `steps: &mut PgSteps` or `steps: &mut SqliteSteps` in recorded steps"
)]
pub trait Context: Sized + Send + 'static {
    /// The store that this context belongs to.
    type Store: Store;

    /// Whether dropping the context undoes all that was done through it. Where it does not, a run of which nothing is
    /// recorded goes on when its client is gone: nobody would resume it.
    const IS_ONE_TRANSACTION: bool = true;

    /// Claims the request's identity, or says what is known of it.
    ///
    /// # Errors
    /// The store could not be asked. Nothing is claimed and the handler must not be run.
    fn claim(store: &Self::Store, request: &Request) -> impl Future<Output = Result<Claimed<Self>, Error>> + Send;

    /// The same on the terms of a lease. A transaction has no use for them.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    fn claim_leased(
        store: &Self::Store,
        request: &Request,
        _terms: &LeaseTerms,
        _intent: Intent,
    ) -> impl Future<Output = Result<Claimed<Self>, Error>> + Send {
        Self::claim(store, request)
    }

    /// Is ready when this run has lost its right to run. Then the handler is dropped, and the run released.
    ///
    /// A transaction holds its right as long as it lives, so by default it is never ready.
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }

    /// Makes the handler's writes and the outcome permanent, as one.
    ///
    /// # Errors
    /// Nothing was kept, unless the kind is [`Kind::OutcomeUnknown`] or [`Kind::TransactionEnded`].
    ///
    /// # Cancel safety
    /// Dropped before it answers, it has kept everything or nothing.
    fn complete(self, outcome: &Outcome) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether an earlier attempt was rejected and is not all undone. Then this run, too, is to be rejected once the
    /// handler has ended, whatever that says.
    fn is_rejected(&self) -> bool {
        false
    }

    /// Undoes the handler's writes and makes the outcome permanent. Where [`is_rejected`](Self::is_rejected), the outcome
    /// of the earlier attempt counts instead.
    ///
    /// The identity stays claimed between the two: no other request is run for it. A statement of the handler that
    /// failed, even where that ends what the handler can write, does not free it either.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    fn reject(self, outcome: &Outcome) -> impl Future<Output = Result<Rejected, Error>> + Send;

    /// Undoes the handler's writes and frees the identity.
    ///
    /// # Errors
    /// [`Kind::TransactionEnded`] where the handler ended the transaction itself. A store that cannot be reached is
    /// no error: it undoes what was not committed.
    fn release(self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins a transaction without a record.
    ///
    /// # Errors
    /// The store could not be asked.
    fn begin_unrecorded(store: &Self::Store) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Ends a transaction without a record: keeps the handler's writes or undoes them, as the disposition says.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    fn finish_unrecorded(self, disposition: Disposition) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What became of an outcome without writes.
#[derive(Debug)]
pub enum Rejected {
    /// It is stored.
    Stored,
    /// The outcome of an earlier attempt counts, and is stored: answer with its reply.
    Replay(Reply),
    /// The outcome of an earlier attempt counts, and has no reply: answer with this.
    Refuse(Kind),
}
