//! What the attribute asks of types.
//!
//! Nobody implements these traits: whatever can do what is asked has them. They are here for their compile errors, each of
//! which says what to write.

#[cfg(feature = "axum")]
use std::marker::PhantomData;

#[cfg(feature = "axum")]
use axum::extract;
#[cfg(feature = "axum")]
use axum::response::IntoResponse;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

pub use crate::plain::Answer;

/// What a router's state must hold: the store of the handler's context.
///
/// Asked of the state and not of the store: of `PgStore: FromRef<_>`, rustc knows one implementation until the user
/// writes another, and would take a state that it does not know yet to be the store itself.
#[cfg(feature = "axum")]
#[diagnostic::on_unimplemented(
    message = "the router's state `{Self}` does not hold the store `{Store}`",
    label = "a handler on this router needs `{Store}: FromRef<{Self}>`",
    note = "put the store into the state, and write `#[derive(axum::extract::FromRef)]` on it, or let the store be the state: `.with_state(store)`"
)]
pub trait HoldsStore<Store> {
    /// The store.
    fn store(&self) -> Store;
}

#[cfg(feature = "axum")]
#[diagnostic::do_not_recommend]
impl<State, Store: extract::FromRef<State>> HoldsStore<Store> for State {
    fn store(&self) -> Store {
        Store::from_ref(self)
    }
}

/// `Needs<PgStore, FromRef<App>, _>` stands in the error about a router whose state is an `App` that holds no `PgStore`. Of
/// that error, which is Axum's about its `Handler`, the names of types are all that a library can choose.
#[cfg(feature = "axum")]
#[derive(Debug)]
pub struct Needs<Store, Bound, Via>(PhantomData<(Store, Bound, Via)>);

/// Stands for the trait of this name in [`Needs`].
#[cfg(feature = "axum")]
#[derive(Debug)]
pub struct FromRef<State>(PhantomData<State>);

/// What an Axum handler returns.
#[cfg(feature = "axum")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no response",
    label = "is not `IntoResponse`",
    note = "return it as JSON, `Json<…>`, or write `impl axum::response::IntoResponse for {Self}`"
)]
pub trait Replies: IntoResponse {}

#[cfg(feature = "axum")]
#[diagnostic::do_not_recommend]
impl<T: IntoResponse> Replies for T {}

/// What is compared on a retry: an argument of a plain function, or the value of `fingerprint = …`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a part of the fingerprint",
    label = "is not `Serialize`",
    note = "write `#[derive(serde::Serialize)]` on it, or name what has to be equal on a retry: `fingerprint = (order.id, order.amount)`"
)]
pub trait Fingerprinted: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Fingerprinted for T {}

/// What is stored of a plain function: the value of `Ok` and, with `rejects`, that of `Err`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    label = "is not `Serialize` and `Deserialize`, or holds what is not",
    note = "write `#[derive(serde::Serialize, serde::Deserialize)]` on it: a retry gets what the first call has returned"
)]
pub trait Storable: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Storable for T {}

/// The error of a plain function, which has to say that a call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "is not `From<idem_core::Error>`",
    note = "write `impl From<idem_core::Error> for {Self}`: a duplicate in flight, a reused key and an unreachable store are told apart by `kind()`"
)]
pub trait Refusal: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> Refusal for E {}
