//! The tables.

use idem_core::Error;
use sqlx::AssertSqlSafe;

use super::session::Session;
use super::store::{Isolation, PgStore};
use crate::error::classify;

/// In order; never edited after a release.
const MIGRATIONS: [(&str, &str); 2] = [
    ("20261122_create_records", include_str!("../../migrations/postgres/20261122_create_records.sql")),
    ("20261122_create_steps", include_str!("../../migrations/postgres/20261122_create_steps.sql")),
];

/// One number for all who migrate: the word `idem` in ASCII.
const LOCK: i64 = 0x6964_656d;

impl PgStore {
    /// Creates and alters the store's tables, as far as that has not been done.
    ///
    /// Any number of processes may call it at once, at every start. It keeps its own list in `idem_migrations` and
    /// never touches the application's `_sqlx_migrations`. To have the tables among the application's migrations
    /// instead, copy the files of `migrations/postgres` and do not call this.
    ///
    /// # Errors
    /// The database cannot be reached, or refused a statement. Then nothing has changed.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut session = Session::begin(self.pool(), Isolation::ReadCommitted.begin()).await?;
        let transaction = session.connection();
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .persistent(false)
            .bind(LOCK)
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        // Postgres would notice at every start that the table exists.
        sqlx::raw_sql("SET LOCAL client_min_messages = warning").execute(&mut *transaction).await.map_err(classify)?;
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS idem_migrations (name text PRIMARY KEY)")
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        for (name, sql) in MIGRATIONS {
            let new = sqlx::query("INSERT INTO idem_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING")
                .persistent(false)
                .bind(name)
                .execute(&mut *transaction)
                .await
                .map_err(classify)?
                .rows_affected()
                == 1;
            if new {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(classify)?;
            }
        }
        session.commit(self.inner().commit_deadline).await?;
        Ok(())
    }
}
