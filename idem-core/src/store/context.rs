//! The context: one run of a handler.

use std::future::Future;
use std::time::Duration;

use super::handle::{Claimed, Store};
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Reply, Request};

/// The context of one run. A handler gets it as `&mut` in its context parameter.
///
/// # What an implementer must guarantee
/// - **One arbiter.** Of any number of `claim` calls on one identity, in any number of processes, at most one has an
///   undecided `Run` at a time. While a completed or rejected run has not expired, none gets `Run`.
/// - **One commit.** The handler's writes through the context and the record that `complete` stores become visible
///   together or not at all.
/// - **The store's clock** decides about expiry, never the application's clock.
/// - **A drop is a release**, at any await: the handler's writes are undone, and no connection goes back to a pool
///   inside a transaction.
/// - **At most one connection** at a time for one context, and none once `claim` has answered anything but `Run`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no idempotency context",
    label = "not the type of a context",
    note = "the `&mut` parameter says how the handler runs: `tx: &mut PgTx` or `tx: &mut SqliteTx` from `idem_sqlx` in one transaction, `steps: &mut PgSteps`, `steps: &mut SqliteSteps` or `steps: &mut RedisSteps` in recorded steps"
)]
pub trait Context: Sized + Send + 'static {
    /// The store that this context belongs to.
    type Store: Store;

    /// True if dropping the context undoes everything that was done through it. If false, a run that is not recorded
    /// continues after its client is gone, since no retry could resume it.
    const IS_ONE_TRANSACTION: bool = true;

    /// Claims the request's identity, or answers from its record.
    ///
    /// # Errors
    /// The store could not be asked. Nothing is claimed and the handler must not be run.
    fn claim(store: &Self::Store, request: &Request) -> impl Future<Output = Result<Claimed<Self>, Error>> + Send;

    /// Claims the request's identity on lease terms. A context that is one transaction has no use for the terms.
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

    /// Is ready when this run has lost its right to run. The handler is dropped then, and the run is released.
    ///
    /// A transaction holds its right as long as it lives, so the default is never ready.
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }

    /// Sets the deadline of the run, which is also how long its undos may take if it is rejected. A context without undos
    /// has no use for it.
    fn set_deadline(&mut self, _deadline: Duration) {}

    /// The number of this attempt: 1 is the first.
    fn attempt(&self) -> u32 {
        1
    }

    /// The error after which nothing more can be recorded in this run, if there was one. The observer is told.
    fn stopped(&self) -> Option<Kind> {
        None
    }

    /// Commits the handler's writes and the outcome together.
    ///
    /// # Errors
    /// Nothing was committed, unless the kind is [`Kind::OutcomeUnknown`] or [`Kind::TransactionEnded`].
    ///
    /// # Cancel safety
    /// Dropped before it answers, it has committed everything or nothing.
    fn complete(self, outcome: &Outcome) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether an earlier attempt was rejected and is not completely undone. If so, this run is rejected too once the
    /// handler has ended, whatever the handler returns.
    fn is_rejected(&self) -> bool {
        false
    }

    /// Undoes the handler's writes and commits the outcome. If [`is_rejected`](Self::is_rejected), the outcome of the
    /// earlier attempt is committed instead.
    ///
    /// The identity stays claimed between the two steps, so no other request runs for it. A failed statement of the
    /// handler does not free the identity either, even if the handler can write nothing after it.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    fn reject(self, outcome: &Outcome) -> impl Future<Output = Result<Rejected, Error>> + Send;

    /// Undoes the handler's writes and frees the identity.
    ///
    /// # Errors
    /// [`Kind::TransactionEnded`] if the handler ended the transaction itself. A store that cannot be reached is no
    /// error: it undoes what was not committed.
    fn release(self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins a transaction without a record.
    ///
    /// # Errors
    /// The store could not be asked.
    fn begin_unrecorded(store: &Self::Store) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Ends a transaction without a record: commits the handler's writes or undoes them, as the disposition says.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    fn finish_unrecorded(self, disposition: Disposition) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What became of a rejection.
#[derive(Debug)]
pub enum Rejected {
    /// Its outcome is stored.
    Stored,
    /// The outcome of an earlier attempt counts and is stored: answer with its reply.
    Replay(Reply),
    /// The outcome of an earlier attempt counts and has no reply: answer with this kind.
    Refuse(Kind),
}
