//! What an application brings along: a state in an `Arc`, and helpers that take any connection.

use axum::Router;

use crate::client::Call;
use crate::support::Database;

/// The application over a store.
trait OverStore {
    fn application(self) -> Router;
}

macro_rules! application {
    ($module:ident, $Database:ident, $Store:ident, $Tx:ident) => {
        mod $module {
            use std::sync::Arc;

            use axum::Router;
            use axum::extract::State;
            use axum::http::StatusCode;
            use axum::routing::post;
            use idem_core::{Error, idempotent};
            use idem_sqlx::{into_idem_error, $Store, $Tx};
            use sqlx::{Acquire, Transaction, $Database};

            struct App {
                store: $Store,
                name: String,
            }

            impl AsRef<$Store> for App {
                fn as_ref(&self) -> &$Store {
                    &self.store
                }
            }

            impl super::OverStore for $Store {
                fn application(self) -> Router {
                    let app = App { store: self, name: "shared".to_owned() };
                    Router::new()
                        .route("/state", post(state))
                        .route("/store", post(store))
                        .route("/helpers", post(helpers))
                        .with_state(Arc::new(app))
                }
            }

            #[idempotent(scope = app.name)]
            async fn state(State(app): State<Arc<App>>, tx: &mut $Tx, what: String) -> Result<StatusCode, Error> {
                insert(tx, &app.name, &what).await.map_err(into_idem_error)?;
                Ok(StatusCode::CREATED)
            }

            /// No other extractor knows the state, and the store itself can be taken from it.
            #[idempotent(scope = global)]
            async fn store(State(store): State<$Store>, tx: &mut $Tx) -> Result<StatusCode, Error> {
                insert(tx, "store", &store.pool().size().to_string()).await.map_err(into_idem_error)?;
                Ok(StatusCode::CREATED)
            }

            #[idempotent(scope = global)]
            async fn helpers(tx: &mut $Tx, what: String) -> Result<StatusCode, Error> {
                insert(&mut *tx, "acquired", &what).await.map_err(into_idem_error)?;
                insert_whole(&mut *tx, "begun", &what).await.map_err(into_idem_error)?;

                // A helper that is written for sqlx's transaction gets a savepoint.
                let mut savepoint = tx.begin().await.map_err(into_idem_error)?;
                insert_twice(&mut savepoint, "kept", &what).await.map_err(into_idem_error)?;
                savepoint.commit().await.map_err(into_idem_error)?;
                let mut savepoint = tx.begin().await.map_err(into_idem_error)?;
                insert_twice(&mut savepoint, "undone", &what).await.map_err(into_idem_error)?;
                savepoint.rollback().await.map_err(into_idem_error)?;
                Ok(StatusCode::CREATED)
            }

            // `async fn` would not do in a handler: sqlx's own page on `Acquire` says so of every implementation, and to
            // write this.
            fn insert<'a, 'c, A>(
                to: A,
                who: &'a str,
                what: &'a str,
            ) -> impl Future<Output = sqlx::Result<()>> + Send + 'a
            where
                A: Acquire<'c, Database = $Database> + Send + 'a,
            {
                async move {
                    let mut connection = to.acquire().await?;
                    let insert = sqlx::query("INSERT INTO effects VALUES ($1, $2)");
                    // To the helper it is any connection. Behind a pooler it has to say so itself.
                    let insert = insert.bind(who.to_owned()).bind(what.to_owned()).persistent(false);
                    insert.execute(&mut *connection).await.map(|_| ())
                }
            }

            fn insert_whole<'a, 'c, A>(
                to: A,
                who: &'a str,
                what: &'a str,
            ) -> impl Future<Output = sqlx::Result<()>> + Send + 'a
            where
                A: Acquire<'c, Database = $Database> + Send + 'a,
            {
                async move {
                    let mut transaction = to.begin().await?;
                    insert_twice(&mut transaction, who, what).await?;
                    transaction.commit().await
                }
            }

            async fn insert_twice(to: &mut Transaction<'_, $Database>, who: &str, what: &str) -> sqlx::Result<()> {
                insert(&mut **to, who, what).await?;
                insert(&mut **to, who, what).await
            }
        }
    };
}

application!(postgres_application, Postgres, PgStore, PgTx);
application!(sqlite_application, Sqlite, SqliteStore, SqliteTx);

both! {
    async fn the_store_comes_from_a_state_in_an_arc(db) {
        let app = db.store(2).await.application();
        for path in ["/state", "/store"] {
            let call = Call::to(path, "note");
            let first = call.send(&app).await;
            first.expect_fresh(201);
            call.send(&app).await.expect_replay_of(&first);
        }
        assert_eq!((db.effects().await, db.records().await), (2, 2));
    }

    async fn r14_helpers_for_any_connection_write_in_the_transaction(db) {
        let app = db.store(1).await.application();
        let call = Call::to("/helpers", "note");
        let first = call.send(&app).await;
        first.expect_fresh(201);
        call.send(&app).await.expect_replay_of(&first);
        assert_eq!((db.effects().await, db.records().await), (5, 1));
        assert_eq!(db.number("SELECT count(*) FROM effects WHERE who = 'undone'").await, 0);
    }
}
