//! The type of a handler's last parameter, named through its context's store.
//!
//! A type that is no context has no store, so a type that is named through its store does not exist. rustc reports that
//! once, at the context, and reports no errors about the rest of the expansion.

use crate::http::extract::Recorded;
use crate::store::{Context, Store};

/// `Recorded`, which holds the user's last extractor.
pub type RecordedOf<C, T> = <<C as Context>::Store as ThroughStore>::Recorded<C, T>;

/// Every store.
pub trait ThroughStore: Store {
    /// For [`RecordedOf`].
    type Recorded<C: Context<Store = Self>, T>;
}

impl<S: Store> ThroughStore for S {
    type Recorded<C: Context<Store = Self>, T> = Recorded<C, T>;
}
