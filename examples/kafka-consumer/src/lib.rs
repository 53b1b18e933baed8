//! A Kafka consumer: each order reserves its stock once, however often it is delivered.
//!
//! - `orders` is what a message does
//! - `consumer` is the loop: when an offset counts as done, and what becomes of a message that fails

pub mod consumer;
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
