//! The bounds that the attribute puts on types. The bounds on an Axum handler are in `http::bounds`.
//!
//! These traits are not implemented by hand: every type that meets their bounds has them. They exist for their compile
//! errors, each of which says what to write. Naming them in code is not supported: they may change in any release.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::store::Context;

/// A value that is compared on a retry: an argument of a plain function, or the value of `fingerprint = …`.
///
/// Values are compared by serde's data model ([`Fingerprint::of_value`](crate::Fingerprint::of_value)), in which a set
/// is a list. A `HashSet` iterates in another order each time it is made: wrap it in [`Unordered`](crate::Unordered),
/// mark the field with `#[serde(serialize_with = "idem_core::unordered")]`, or use a `BTreeSet`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a part of the fingerprint",
    label = "is not `Serialize`",
    note = "write `#[derive(serde::Serialize)]` on it, or name what has to be equal on a retry: `fingerprint = (order.id, order.amount)`"
)]
pub trait Fingerprinted: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Fingerprinted for T {}

/// The recorded arguments of a plain function, for a process that resumes its abandoned run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be recorded",
    label = "is not `Serialize`",
    note = "write `#[derive(serde::Serialize, serde::Deserialize)]` on it, or name what the function can be called with again: `record_input = (order.id, order.amount)`"
)]
pub trait Recordable: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Recordable for T {}

/// A stored answer of a plain function: the value of `Ok` and, with `rejects`, the value of `Err`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    label = "is not `Serialize` and `Deserialize`, or holds what is not",
    note = "write `#[derive(serde::Serialize, serde::Deserialize)]` on it: a retry gets what the first call has returned",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Storable: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Storable for T {}

/// The error of a plain function. It must be able to report that a call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "is not `From<idem_core::Error>`",
    note = "write `impl From<idem_core::Error> for {Self}`: a duplicate in flight, a reused key and an unreachable store are told apart by `kind()`; for an error of another crate, return `idem_core::Error`, which `idem_sqlx::into_idem_error` makes of sqlx's",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Refusal: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> Refusal for E {}

/// The return type of a plain function: a `Result` whose error can report that the call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "an idempotent function returns a `Result`",
    note = "write `Result<T, E>`, where `T` can be stored and `E` is `From<idem_core::Error>`",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Answer: sealed::Sealed + Sized {
    /// The value that is stored.
    type Value;
    /// The error that a refusal becomes.
    type Error;

    /// The answer from a `Result`.
    fn of(result: Result<Self::Value, Self::Error>) -> Self;

    /// The answer as a `Result`.
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

/// A transaction that a step can write in. That of a store without transactions is none.
#[diagnostic::on_unimplemented(
    message = "the steps of this store have no transaction",
    label = "each step is a call",
    note = "write `steps.call(\"name\", async |key| …)`, and `steps.undo_call(\"name\", async move |key| …)` for its undo",
    note = "a step that writes to a database belongs to a handler with `steps: &mut PgSteps` or `steps: &mut SqliteSteps` from `idem_sqlx`"
)]
pub trait Writable: Context {}

#[diagnostic::do_not_recommend]
impl<T: Context> Writable for T {}

/// A transaction that its holder ends. No context is one.
#[diagnostic::on_unimplemented(
    message = "a handler does not end its transaction",
    label = "only lent to the handler",
    note = "remove the call: what the handler wrote is committed with its reply when the handler has returned",
    note = "to roll back, return an error; to roll back and keep the reply, add `Disposition::Reject` to it; to undo a part, begin a savepoint: `sqlx::Acquire::begin(&mut *tx)`"
)]
pub trait EndedByItsHolder {}

/// An async function of a transaction whose future is `Send`: the argument of [`Steps::undo`].
///
/// Every such function and closure implements this trait: there is nothing to write.
///
/// [`Steps::undo`]: crate::Steps::undo
#[diagnostic::on_unimplemented(
    message = "this cannot undo a step",
    label = "not an async function of `&mut` transaction whose future is `Send`",
    note = "write `async move |tx| …`; what it holds across an await is `Send`, and its error is `Into<Box<dyn Error + Send + Sync>>`"
)]
pub trait UndoIn<'t, T: 't, E> {
    /// The future of the function.
    type Undone: Future<Output = Result<(), E>> + Send + 't;

    /// Calls the function.
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
