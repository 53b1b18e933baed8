//! The database: SQLite, or Postgres if the feature `postgres` is on. No other code of the program depends on this
//! choice.

use sqlx::Executor;

use crate::Failure;

#[cfg(feature = "postgres")]
use postgres as chosen;
#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
use sqlite as chosen;

pub(crate) use chosen::{Pool, Steps, Store, Tx, open};

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
compile_error!("choose a database: `--features sqlite` or `--features postgres`");

#[cfg(feature = "postgres")]
mod postgres {
    use crate::Failure;

    pub(crate) use idem_sqlx::{PgSteps as Steps, PgStore as Store, PgTx as Tx};
    pub(crate) use sqlx::PgPool as Pool;

    pub(super) const TABLES: &str = include_str!("../schema/postgres.sql");

    pub(crate) async fn open(url: &str) -> Result<Pool, Failure> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("this build runs on Postgres: set DATABASE_URL to a postgres:// URL, \
                        or leave `--features postgres` away"
                .into());
        }
        let pool = Pool::connect(url).await;
        pool.map_err(|error| format!("cannot connect to the database of DATABASE_URL: {error}").into())
    }
}

#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
mod sqlite {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

    use crate::Failure;

    pub(crate) use idem_sqlx::{SqliteSteps as Steps, SqliteStore as Store, SqliteTx as Tx};
    pub(crate) use sqlx::SqlitePool as Pool;

    pub(super) const TABLES: &str = include_str!("../schema/sqlite.sql");

    pub(crate) async fn open(url: &str) -> Result<Pool, Failure> {
        if !url.starts_with("sqlite:") {
            return Err("this build runs on SQLite: set DATABASE_URL to a sqlite:// URL, \
                        or add `--features postgres` for a postgres:// URL"
                .into());
        }
        let options: SqliteConnectOptions = url.parse()?;
        let options = options
            .create_if_missing(true)
            // Readers continue beside the one writer.
            .journal_mode(SqliteJournalMode::Wal)
            // Each commit is on the disk before its answer is sent. A weaker setting could lose the last orders in a
            // power failure.
            .synchronous(SqliteSynchronous::Full);
        let pool = Pool::connect_with(options).await;
        pool.map_err(|error| format!("cannot open the database of DATABASE_URL: {error}").into())
    }
}

/// The program's own tables. A larger program keeps them in migrations: sqlx's migrations and the store's do not
/// disturb each other.
pub(crate) async fn create_tables(pool: &Pool) -> Result<(), Failure> {
    pool.execute(sqlx::raw_sql(chosen::TABLES)).await?;
    Ok(())
}
