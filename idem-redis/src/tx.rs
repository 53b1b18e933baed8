//! The transaction that Redis does not have.

use std::convert::Infallible;

use idem_core::store::Transaction;
use idem_core::{Disposition, Error, Kind};

use crate::store::RedisStore;

/// No transaction: it has no value, and it is no context of a handler.
///
/// Redis has no transaction that an application could write in together with its record: what a handler writes elsewhere,
/// in a database or by a call, is not committed with it. So a handler on a [`RedisStore`] runs in
/// [steps](crate::RedisSteps), and each of them is a call.
///
/// ```compile_fail
/// use idem_core::{Error, idempotent};
/// use idem_redis::RedisTx;
///
/// #[idempotent(scope = "accounts", key = id)]
/// async fn create(tx: &mut RedisTx, id: &str) -> Result<u32, Error> {
///     Ok(7)
/// }
/// ```
#[derive(Debug)]
pub struct RedisTx(Infallible);

impl RedisTx {
    /// No attempt has a transaction to begin, and the compiler does not let a handler ask for one.
    pub(crate) fn refused() -> Error {
        Error::new(Kind::StepMismatch).because("Redis has no transaction: each step is a call")
    }

    pub(crate) fn never<T>(self) -> T {
        match self.0 {}
    }
}

impl Transaction for RedisTx {
    type Store = RedisStore;

    async fn begin(_store: &RedisStore) -> Result<Self, Error> {
        Err(Self::refused())
    }

    async fn end(self, _disposition: Disposition) -> Result<(), Error> {
        self.never()
    }
}
