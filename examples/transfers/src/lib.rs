//! Plain functions that run once. See the README for when a record is needed, and when a constraint is enough.

pub mod accounts;
pub mod orders;

use sqlx::Executor;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};

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
