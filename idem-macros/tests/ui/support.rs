// What the fixtures share: a context that keeps nothing, and the types of a small payments program.

#[allow(dead_code, unused_imports, clippy::pedantic)]
mod support {
    pub use axum::extract::{FromRequestParts, Path, Query, State};
    pub use axum::http::StatusCode;
    pub use axum::http::request::Parts;
    pub use axum::response::IntoResponse;
    pub use axum::routing::post;
    pub use axum::{Json, Router};
    pub use idem_core::idempotent;
    use idem_core::{Begun, Context, Error, Lease, Outcome, Rejected, Request, Runs, Scope, Store, ToScope};
    use serde::{Deserialize, Serialize};

    /// Stands for the store of `idem_sqlx`.
    #[derive(Clone)]
    pub struct PgStore(Runs);

    impl Store for PgStore {
        fn reply_limit(&self) -> usize {
            0
        }

        fn runs(&self) -> &Runs {
            &self.0
        }
    }

    /// Stands for the transaction of `idem_sqlx`.
    pub struct PgTx;

    impl Context for PgTx {
        type Store = PgStore;

        async fn begin(_: &PgStore, _: &Request, _: &Lease) -> Result<Begun<Self>, Error> {
            Ok(Begun::Run(Self))
        }

        async fn complete(self, _: &Outcome) -> Result<(), Error> {
            Ok(())
        }

        async fn reject(self, _: &Outcome) -> Result<Rejected, Error> {
            Ok(Rejected::Stored)
        }

        async fn release(self) -> Result<(), Error> {
            Ok(())
        }

        async fn begin_unrecorded(_: &PgStore) -> Result<Self, Error> {
            Ok(Self)
        }

        async fn finish_unrecorded(self, _: idem_core::Disposition) -> Result<(), Error> {
            Ok(())
        }
    }

    impl PgTx {
        pub async fn write(&mut self) {}
    }

    #[derive(Clone)]
    pub struct CurrentUser {
        pub id: u64,
        pub name: String,
    }

    impl<S: Sync> FromRequestParts<S> for CurrentUser {
        type Rejection = StatusCode;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
            Err(StatusCode::UNAUTHORIZED)
        }
    }

    impl ToScope for CurrentUser {
        fn to_scope(&self) -> Result<Scope, Error> {
            self.id.to_scope()
        }
    }

    #[derive(Deserialize)]
    pub struct NewPayment {
        pub customer_id: String,
        pub amount: u64,
    }

    #[derive(Serialize)]
    pub struct Payment {
        pub id: u64,
    }
}

#[allow(unused_imports)]
use support::*;
