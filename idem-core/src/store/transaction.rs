//! A transaction without a claim.

use std::future::Future;

use super::handle::Store;
use crate::disposition::Disposition;
use crate::error::Error;

/// A transaction in the store's database, without a claim and without a record. A step of a leased run writes through
/// it, and so does a request that is not recorded.
///
/// # What an implementer must guarantee
/// - **One commit.** All writes through the transaction become visible together or not at all.
/// - **A drop rolls back**, at any await, and no connection goes back to a pool inside a transaction.
pub trait Transaction: Sized + Send + 'static {
    /// The store that this transaction belongs to.
    type Store: Store;

    /// Begins a transaction.
    ///
    /// # Errors
    /// The store could not be asked.
    fn begin(store: &Self::Store) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Commits the transaction or rolls it back, as the disposition says.
    ///
    /// # Errors
    /// Nothing was committed, unless the kind is [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown) or
    /// [`Kind::TransactionEnded`](crate::Kind::TransactionEnded).
    fn end(self, disposition: Disposition) -> impl Future<Output = Result<(), Error>> + Send;
}
