//! What the attribute requires of an Axum handler's reply and of its router's state.
//!
//! These traits are not implemented by hand: every type that meets their bounds has them. Naming them in code is not
//! supported: they may change in any release.

use std::marker::PhantomData;

use axum::extract;
use axum::response::IntoResponse;

/// The return type of an Axum handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no response",
    label = "is not `IntoResponse`",
    note = "return it as JSON, `Json<…>`, or write `impl axum::response::IntoResponse` for it; of a `Result`, for its error, too; an error of sqlx becomes an `idem_core::Error` by `idem_sqlx::into_idem_error`",
    note = "if it is a response already, it is one of another axum than 0.8: `cargo tree -d` shows who brings it",
    note = "or, off the web, name its key, which makes it a plain function: `key = order.id`"
)]
pub trait Replies: IntoResponse {}

#[diagnostic::do_not_recommend]
impl<T: IntoResponse> Replies for T {}

/// What a router's state must hold: the store of the handler's context.
///
/// `Needs` names it in Axum's error about a route. Below `#[axum::debug_handler]` the state is known, and the message
/// below says what is missing.
///
/// The bound is on the state and not on the store. For `PgStore: FromRef<_>` rustc knows one implementation until the
/// user writes another, so it would infer that a state not yet known is the store itself.
#[diagnostic::on_unimplemented(
    message = "the router's state `{Self}` does not hold the store `{Store}`",
    label = "needs the store from the router's state",
    note = "put the store into the state, with `#[derive(Clone, axum::extract::FromRef)]` on it, or let the store be the state: `.with_state(store)`; for an `Arc<App>`, write `impl AsRef<{Store}> for App`",
    note = "if the router has another state, name it: `#[axum::debug_handler(state = App)]`"
)]
pub trait HoldsStore<Store> {
    /// The store.
    fn store(&self) -> Store;
}

#[diagnostic::do_not_recommend]
impl<State, Store: extract::FromRef<State>> HoldsStore<Store> for State {
    fn store(&self) -> Store {
        Store::from_ref(self)
    }
}

/// `Needs<PgStore, FromRef<App>, _>` appears in the error about a router whose state is an `App` that holds no
/// `PgStore`. That error is Axum's, about its `Handler` trait; a library can choose only the names of the types in it.
#[derive(Debug)]
pub struct Needs<Store, Bound, Via>(PhantomData<(Store, Bound, Via)>);

/// Stands for the trait of this name in [`Needs`].
#[derive(Debug)]
pub struct FromRef<State>(PhantomData<State>);
