//! The last parameter of a handler, named by way of its context's store.
//!
//! A type that is no context has no store, so that what is named through it has no type: rustc reports that once, at the
//! context, and says nothing of all that an expansion does with it.

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
