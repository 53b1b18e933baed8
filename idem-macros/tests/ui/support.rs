// What the fixtures share: a store in memory, and the types of a small payments program.

#[allow(dead_code, unused_imports, clippy::pedantic)]
mod support {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    pub use axum::extract::{FromRequestParts, Path, Query, State};
    pub use axum::http::StatusCode;
    pub use axum::http::request::Parts;
    pub use axum::response::IntoResponse;
    pub use axum::routing::post;
    pub use axum::{Json, Router};
    pub use idem_core::idempotent;
    use idem_core::{Disposition, Error, Fingerprint, Identity, Kind, Request, Scope, Steps, ToScope};
    use idem_core::store::{Attempt, Claimed, Context, Entry, Intent, Lease, LeaseTerms, Outcome, Rejected, Runs, Store, Transaction};
    use serde::{Deserialize, Serialize};

    /// Stands for the store of `idem_sqlx`: a record for each finished request, and how much was written.
    #[derive(Clone, Default)]
    pub struct PgStore {
        runs: Runs,
        kept: Arc<Mutex<Kept>>,
    }

    #[derive(Default)]
    struct Kept {
        records: HashMap<Identity, (Fingerprint, Outcome)>,
        writes: u64,
    }

    impl PgStore {
        pub fn writes(&self) -> u64 {
            self.kept.lock().unwrap().writes
        }
    }

    impl Store for PgStore {
        fn reply_limit(&self) -> usize {
            1024
        }

        fn runs(&self) -> &Runs {
            &self.runs
        }
    }

    /// Stands for the transaction of `idem_sqlx`.
    pub struct PgTx {
        store: PgStore,
        request: Option<Request>,
        writes: u64,
    }

    impl Context for PgTx {
        type Store = PgStore;

        async fn claim(store: &PgStore, request: &Request) -> Result<Claimed<Self>, Error> {
            Ok(match store.kept.lock().unwrap().records.get(&request.identity) {
                Some((fingerprint, _)) if *fingerprint != request.fingerprint => Claimed::Refuse(Kind::KeyReused),
                Some((_, Outcome::Reply(reply))) => Claimed::Replay(reply.clone()),
                Some((_, Outcome::Oversized)) => Claimed::Refuse(Kind::ReplyTooLarge),
                None => Claimed::Run(Self { store: store.clone(), request: Some(request.clone()), writes: 0 }),
            })
        }

        async fn complete(self, outcome: &Outcome) -> Result<(), Error> {
            let mut kept = self.store.kept.lock().unwrap();
            let request = self.request.expect("a claimed run");
            kept.records.insert(request.identity, (request.fingerprint, outcome.clone()));
            kept.writes += self.writes;
            Ok(())
        }

        async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
            self.writes = 0;
            self.complete(outcome).await.map(|()| Rejected::Stored)
        }

        async fn release(self) -> Result<(), Error> {
            Ok(())
        }

        async fn begin_unrecorded(store: &PgStore) -> Result<Self, Error> {
            <Self as Transaction>::begin(store).await
        }

        async fn finish_unrecorded(self, disposition: Disposition) -> Result<(), Error> {
            self.end(disposition).await
        }
    }

    impl Transaction for PgTx {
        type Store = PgStore;

        async fn begin(store: &PgStore) -> Result<Self, Error> {
            Ok(Self { store: store.clone(), request: None, writes: 0 })
        }

        async fn end(self, disposition: Disposition) -> Result<(), Error> {
            let keep = disposition == Disposition::Commit;
            self.store.kept.lock().unwrap().writes += if keep { self.writes } else { 0 };
            Ok(())
        }
    }

    impl PgTx {
        pub async fn write(&mut self) {
            self.writes += 1;
        }
    }

    /// Stands for the lease of `idem_sqlx`: nobody else wants it.
    #[derive(Clone)]
    pub struct PgLease {
        store: PgStore,
        request: Request,
    }

    pub type PgSteps = Steps<PgLease>;

    impl Lease for PgLease {
        type Store = PgStore;
        type Tx = PgTx;

        const EXCLUSIVE: bool = false;

        async fn claim(
            store: &PgStore,
            request: &Request,
            _: &LeaseTerms,
            _: Intent,
        ) -> Result<Claimed<Attempt<Self>>, Error> {
            Ok(match PgTx::claim(store, request).await? {
                Claimed::Run(_) => {
                    let lease = Self { store: store.clone(), request: request.clone() };
                    Claimed::Run(Attempt { lease, number: 1, fingerprint: request.fingerprint, entries: Vec::new() })
                }
                Claimed::Replay(reply) => Claimed::Replay(reply),
                Claimed::Refuse(kind) => Claimed::Refuse(kind),
            })
        }

        async fn renew(&self) -> Result<(), Error> {
            Ok(())
        }

        async fn begin(&self) -> Result<PgTx, Error> {
            Ok(PgTx { store: self.store.clone(), request: Some(self.request.clone()), writes: 0 })
        }

        async fn record(&self, tx: Option<PgTx>, _: &Entry) -> Result<(), Error> {
            match tx {
                Some(tx) => tx.end(Disposition::Commit).await,
                None => Ok(()),
            }
        }

        async fn complete(&self, tx: Option<PgTx>, outcome: &Outcome) -> Result<(), Error> {
            match tx {
                Some(tx) => tx.complete(outcome).await,
                None => self.begin().await?.complete(outcome).await,
            }
        }

        async fn roll_back(&self, _: PgTx) -> Result<(), Error> {
            Ok(())
        }

        async fn release(&self) -> Result<(), Error> {
            Ok(())
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
