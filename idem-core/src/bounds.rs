//! What the attribute asks of types. What it asks of an Axum handler's is in `http::bounds`.
//!
//! Nobody implements these traits: whatever can do what is asked has them. They are here for their compile errors, each of
//! which says what to write. To name them in code is not supported: they may change in any release.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::store::Context;

/// What is compared on a retry: an argument of a plain function, or the value of `fingerprint = …`.
///
/// Values are compared by serde's data model ([`Fingerprint::of_value`](crate::Fingerprint::of_value)), in which a set is a
/// list. A `HashSet` iterates in another order each time it is made: wrap it in [`Unordered`](crate::Unordered), mark the
/// field with `#[serde(serialize_with = "idem_core::unordered")]`, or use a `BTreeSet`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a part of the fingerprint",
    label = "is not `Serialize`",
    note = "write `#[derive(serde::Serialize)]` on it, or name what has to be equal on a retry: `fingerprint = (order.id, order.amount)`"
)]
pub trait Fingerprinted: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Fingerprinted for T {}

/// What is recorded of a plain function's arguments, for whoever goes on with an abandoned run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be recorded",
    label = "is not `Serialize`",
    note = "write `#[derive(serde::Serialize, serde::Deserialize)]` on it, or name what the function can be called with again: `record_input = (order.id, order.amount)`"
)]
pub trait Recordable: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Recordable for T {}

/// What is stored of a plain function: the value of `Ok` and, with `rejects`, that of `Err`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    label = "is not `Serialize` and `Deserialize`, or holds what is not",
    note = "write `#[derive(serde::Serialize, serde::Deserialize)]` on it: a retry gets what the first call has returned",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Storable: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Storable for T {}

/// The error of a plain function, which has to say that a call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "is not `From<idem_core::Error>`",
    note = "write `impl From<idem_core::Error> for {Self}`: a duplicate in flight, a reused key and an unreachable store are told apart by `kind()`",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Refusal: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> Refusal for E {}

/// What a plain function returns: a result, whose error can say that the call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "an idempotent function returns a `Result`",
    note = "write `Result<T, E>`, where `T` can be stored and `E` is `From<idem_core::Error>`",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Answer: sealed::Sealed + Sized {
    /// What is stored.
    type Value;
    /// What a refusal becomes.
    type Error;

    /// The answer as what it is.
    fn of(result: Result<Self::Value, Self::Error>) -> Self;

    /// And back.
    fn as_result(&self) -> Result<&Self::Value, &Self::Error>;
}

mod sealed {
    pub trait Sealed {}

    impl<T, E> Sealed for Result<T, E> {}
}

impl<T, E> Answer for Result<T, E> {
    type Value = T;
    type Error = E;

    fn of(result: Self) -> Self {
        result
    }

    fn as_result(&self) -> Result<&T, &E> {
        self.as_ref()
    }
}

/// A context that holds a lease: [`Steps`](crate::Steps).
#[diagnostic::on_unimplemented(
    message = "`{Self}` holds no lease",
    label = "only a leased handler has one",
    note = "remove `lease`, `attempts` and `record_input`, or run the handler in steps: `steps: &mut PgSteps` or `steps: &mut SqliteSteps`"
)]
pub trait Leased: Context {}

/// An async function of a transaction whose future may go to another thread: what [`Steps::undo`] takes.
///
/// Every such function and closure is one: there is nothing to implement.
///
/// [`Steps::undo`]: crate::Steps::undo
#[diagnostic::on_unimplemented(
    message = "this cannot undo a step",
    label = "not an async function of `&mut` transaction whose future is `Send`",
    note = "write `async move |tx| …`; what it holds across an await is `Send`, and its error is `Into<Box<dyn Error + Send + Sync>>`"
)]
pub trait UndoIn<'t, T: 't, E> {
    /// Its future.
    type Undone: Future<Output = Result<(), E>> + Send + 't;

    /// Calls it.
    fn undo(self, tx: &'t mut T) -> Self::Undone;
}

impl<'t, T: 't, E, F, R> UndoIn<'t, T, E> for F
where
    F: FnOnce(&'t mut T) -> R,
    R: Future<Output = Result<(), E>> + Send + 't,
{
    type Undone = R;

    fn undo(self, tx: &'t mut T) -> R {
        self(tx)
    }
}
