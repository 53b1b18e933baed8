//! The store in a router's state that is an `Arc<App>`.
//!
//! An application cannot write `FromRef<Arc<App>>` for a store itself, since neither type is its own.

use std::sync::Arc;

use axum::extract::FromRef;

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<App: AsRef<Self>> FromRef<Arc<App>> for crate::PgStore {
    fn from_ref(app: &Arc<App>) -> Self {
        app.as_ref().as_ref().clone()
    }
}

#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<App: AsRef<Self>> FromRef<Arc<App>> for crate::SqliteStore {
    fn from_ref(app: &Arc<App>) -> Self {
        app.as_ref().as_ref().clone()
    }
}
