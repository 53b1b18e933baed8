// What the fixtures share: the store in memory, and the types of a small payments program.

#[allow(dead_code, unused_imports, clippy::pedantic)]
mod support {
    use std::future::{Future, Ready, ready};

    pub use axum::extract::{FromRequestParts, Path, Query, State};
    pub use axum::http::StatusCode;
    pub use axum::http::request::Parts;
    pub use axum::response::IntoResponse;
    pub use axum::routing::post;
    pub use axum::{Json, Router};
    use idem_core::bounds::EndedByItsHolder;
    pub use idem_core::idempotent;
    use idem_core::memory::{MemorySteps, MemoryStore, MemoryTx};
    use idem_core::{Error, Scope, ToScope};
    use serde::{Deserialize, Serialize};

    /// Stands for the database: how often something was written.
    #[derive(Clone, Default)]
    pub struct Db {
        pub writes: u64,
    }

    impl Db {
        pub async fn write(&mut self) {
            self.writes += 1;
        }

        // As `PgTx` has them: for their compile error.
        pub fn commit(&mut self) -> Ready<Result<(), Error>>
        where
            for<'c> &'c mut Self: EndedByItsHolder,
        {
            ready(Ok(()))
        }

        pub fn rollback(&mut self) -> Ready<Result<(), Error>>
        where
            for<'c> &'c mut Self: EndedByItsHolder,
        {
            ready(Ok(()))
        }
    }

    /// In the place of those of `idem_sqlx`, which need a database.
    pub type PgStore = MemoryStore<Db>;
    pub type PgTx = MemoryTx<Db>;
    pub type PgSteps = MemorySteps<Db>;

    pub trait Writes {
        /// How often something was written, while nobody writes.
        fn writes(&self) -> u64;
    }

    impl Writes for PgStore {
        fn writes(&self) -> u64 {
            let state = std::pin::pin!(self.state());
            match state.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                std::task::Poll::Ready(db) => db.writes,
                std::task::Poll::Pending => panic!("somebody writes"),
            }
        }
    }

    #[derive(Clone)]
    pub struct CurrentUser {
        pub id: u64,
        pub name: String,
    }

    impl<S: Sync> FromRequestParts<S> for CurrentUser {
        type Rejection = StatusCode;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
            Ok(Self { id: 7, name: "ada".to_owned() })
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
