//! What the attribute asks of an Axum handler's reply, and of its router's state.
//!
//! Nobody implements these traits: whatever can do what is asked has them. To name them in code is not supported: they may
//! change in any release.

use std::marker::PhantomData;

use axum::extract;
use axum::response::IntoResponse;

/// What an Axum handler returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no response",
    label = "is not `IntoResponse`",
    note = "return it as JSON, `Json<…>`, or write `impl axum::response::IntoResponse` for it; of a `Result`, for its error, too",
    note = "or, off the web, name its key, which makes it a plain function: `key = order.id`"
)]
pub trait Replies: IntoResponse {}

#[diagnostic::do_not_recommend]
impl<T: IntoResponse> Replies for T {}

/// What a router's state must hold: the store of the handler's context.
///
/// Asked of the state and not of the store: of `PgStore: FromRef<_>`, rustc knows one implementation until the user
/// writes another, and would take a state that it does not know yet to be the store itself.
pub trait HoldsStore<Store> {
    /// The store.
    fn store(&self) -> Store;
}

impl<State, Store: extract::FromRef<State>> HoldsStore<Store> for State {
    fn store(&self) -> Store {
        Store::from_ref(self)
    }
}

/// `Needs<PgStore, FromRef<App>, _>` stands in the error about a router whose state is an `App` that holds no `PgStore`. Of
/// that error, which is Axum's about its `Handler`, the names of types are all that a library can choose.
#[derive(Debug)]
pub struct Needs<Store, Bound, Via>(PhantomData<(Store, Bound, Via)>);

/// Stands for the trait of this name in [`Needs`].
#[derive(Debug)]
pub struct FromRef<State>(PhantomData<State>);
