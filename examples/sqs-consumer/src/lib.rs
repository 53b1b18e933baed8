//! Books seats from an SQS queue: each message takes effect once, however often it is delivered.
//!
//! [`bookings`] says what a message does, and knows no queue. [`consumer`] takes messages from a queue, tells the queue
//! what became of each, and knows no bookings.

pub mod bookings;
pub mod consumer;

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
