//! What Axum asks of the stores and their contexts.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use idem_core::http::bounds::FromTheRequest;

macro_rules! of_axum {
    ($store:ident, $tx:ident) => {
        /// For a router whose state is an `Arc<App>`: an application cannot write `FromRef<Arc<App>>` itself, since
        /// neither type is its own.
        #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
        impl<App: AsRef<Self>> FromRef<Arc<App>> for crate::$store {
            fn from_ref(app: &Arc<App>) -> Self {
                app.as_ref().as_ref().clone()
            }
        }

        // For its compile error only: see `FromTheRequest`.
        #[doc(hidden)]
        impl<S: Sync> FromRequestParts<S> for &mut crate::$tx
        where
            Self: FromTheRequest,
        {
            type Rejection = Infallible;

            async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
                unreachable!("no context comes from a request")
            }
        }
    };
}

#[cfg(feature = "postgres")]
of_axum!(PgStore, PgTx);
#[cfg(feature = "sqlite")]
of_axum!(SqliteStore, SqliteTx);
