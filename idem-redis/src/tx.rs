//! The transaction that Redis does not have: types and bounds for the compile errors.

use std::convert::Infallible;
use std::marker::PhantomData;

use idem_core::store::{Claimed, Context, Outcome, Rejected, Transaction};
use idem_core::{Disposition, Error, Kind, Request};

use crate::store::RedisStore;

/// No transaction. It has no value, and no handler can have it as its context: it exists for the compile error that says
/// why.
///
/// ```compile_fail
/// use axum::http::StatusCode;
/// use idem_core::idempotent;
/// use idem_redis::RedisTx;
///
/// #[idempotent(scope = global)]
/// async fn create(tx: &mut RedisTx) -> StatusCode {
///     StatusCode::CREATED
/// }
/// ```
#[derive(Debug)]
pub struct RedisTx<Anything = ()> {
    never: Infallible,
    of: PhantomData<fn() -> Anything>,
}

/// A context whose writes and reply are one commit.
#[diagnostic::on_unimplemented(
    message = "Redis has no transaction that a handler could write in",
    label = "its writes and its reply could not be one commit",
    note = "run the handler in steps, each of which is a call: `steps: &mut RedisSteps`, and `steps.call(\"name\", async |key| …)`",
    note = "a handler that writes to a database keeps its records there: `tx: &mut PgTx` or `tx: &mut SqliteTx` from `idem_sqlx`"
)]
pub trait OneCommit: sealed::Sealed {
    /// Never called.
    fn never() -> Infallible;
}

mod sealed {
    /// No type is one.
    pub trait Sealed {}
}

impl RedisTx {
    /// No attempt has a transaction to begin, and the compiler does not let a handler ask for one.
    pub(crate) fn refused() -> Error {
        Error::new(Kind::StepMismatch).because("Redis has no transaction: each step is a call")
    }

    pub(crate) fn never<T>(self) -> T {
        match self.never {}
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

/// Never used: the bound holds for no type.
impl<Anything: Send + 'static> Context for RedisTx<Anything>
where
    RedisTx<Anything>: OneCommit,
{
    type Store = RedisStore;

    async fn claim(_store: &RedisStore, _request: &Request) -> Result<Claimed<Self>, Error> {
        match Self::never() {}
    }

    async fn complete(self, _outcome: &Outcome) -> Result<(), Error> {
        match self.never {}
    }

    async fn reject(self, _outcome: &Outcome) -> Result<Rejected, Error> {
        match self.never {}
    }

    async fn release(self) -> Result<(), Error> {
        match self.never {}
    }

    async fn begin_unrecorded(_store: &RedisStore) -> Result<Self, Error> {
        match Self::never() {}
    }

    async fn finish_unrecorded(self, _disposition: Disposition) -> Result<(), Error> {
        match self.never {}
    }
}
