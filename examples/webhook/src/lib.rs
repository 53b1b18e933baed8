//! An endpoint for [Standard Webhooks](https://www.standardwebhooks.com): each message takes effect once.

mod events;
mod signed;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::post;
use idem_sqlx::SqliteStore;
use sqlx::Executor;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use standardwebhooks::Webhook;

/// The router's state.
#[derive(Clone, FromRef)]
struct App {
    store: SqliteStore,
    /// Has the secret with which the sender signs.
    sender: Arc<Webhook>,
}

/// The endpoint's routes, for messages that this sender signs.
pub fn app(store: SqliteStore, sender: Webhook) -> Router {
    Router::new()
        .route("/webhooks/messages", post(events::on_message))
        .route("/webhooks/events", post(events::on_event))
        .with_state(App { store, sender: Arc::new(sender) })
}

/// Opens the file, with its tables.
///
/// # Errors
/// The file cannot be opened or written.
pub async fn open(options: SqliteConnectOptions) -> sqlx::Result<SqlitePool> {
    let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePool::connect_with(options).await?;
    pool.execute(sqlx::raw_sql(include_str!("../schema.sql"))).await?;
    Ok(pool)
}
