//! What the attribute asks of types. What it asks of an Axum handler's is in `http::bounds`.
//!
//! Nobody implements these traits: whatever can do what is asked has them. They are here for their compile errors, each of
//! which says what to write. To name them in code is not supported: they may change in any release.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

pub use crate::plain::Answer;

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
