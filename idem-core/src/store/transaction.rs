//! A transaction that claims nothing.

use std::future::Future;

use super::handle::Store;
use crate::disposition::Disposition;
use crate::error::Error;

/// A transaction in the store's database, without a claim and without a record: what a step of a leased run writes through,
/// and a request of which nothing is recorded.
///
/// # What an implementer owes
/// - **One commit.** What is written through it becomes visible together or not at all.
/// - **A drop rolls back**, at any await, and no connection goes back to a pool inside a transaction.
pub trait Transaction: Sized + Send + 'static {
    /// The store that it belongs to.
    type Store: Store;

    /// Begins it.
    ///
    /// # Errors
    /// The store could not be asked.
    fn begin(store: &Self::Store) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Commits it, or rolls it back, as the disposition says.
    ///
    /// # Errors
    /// Nothing was kept, unless the kind is [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown) or
    /// [`Kind::TransactionEnded`](crate::Kind::TransactionEnded).
    fn end(self, disposition: Disposition) -> impl Future<Output = Result<(), Error>> + Send;
}
