//! A database that is gone when it is dropped.

use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, Executor};

use crate::Failure;
use crate::database;

#[cfg(feature = "postgres")]
use postgres::Place;
#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
use sqlite::Place;

/// A new, empty database. Dropped, it is removed, whoever is still connected to it.
pub(crate) struct Scratch {
    pub(crate) url: String,
    _place: Place,
}

impl Scratch {
    pub(crate) async fn create(prefix: &str) -> Result<Self, Failure> {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let (place, url) = Place::create(format!("{prefix}_{}_{nanoseconds}", process::id())).await?;
        Ok(Self { url, _place: place })
    }

    /// How many orders there are, and how many lamps are on the shelf.
    pub(crate) async fn rows(&self) -> Result<(i64, i64), Failure> {
        // Opened each time, so that no connection is there when the database is removed.
        let pool = database::open(&self.url).await?;
        let rows = "SELECT (SELECT count(*) FROM orders), (SELECT available FROM stock WHERE item = 'lamp')";
        let rows = sqlx::query_as(rows).fetch_one(&pool).await?;
        pool.close().await;
        Ok(rows)
    }

    /// Takes lamps out of the sale, or back into it.
    pub(crate) async fn sell_lamps(&self, on_sale: bool) -> Result<(), Failure> {
        let is = if on_sale { "true" } else { "false" };
        self.execute(format!("UPDATE stock SET on_sale = {is} WHERE item = 'lamp'")).await
    }

    pub(crate) async fn execute(&self, statements: String) -> Result<(), Failure> {
        let pool = database::open(&self.url).await?;
        // Ours, and nobody else's words in them.
        pool.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await?;
        pool.close().await;
        Ok(())
    }
}

#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
mod sqlite {
    use std::path::PathBuf;
    use std::{env, fs};

    use sqlx::ConnectOptions;
    use sqlx::sqlite::SqliteConnectOptions;

    use crate::Failure;

    /// A folder for the file and its journal.
    pub(super) struct Place(PathBuf);

    impl Place {
        pub(super) async fn create(name: String) -> Result<(Self, String), Failure> {
            let folder = env::temp_dir().join(name);
            fs::create_dir(&folder)?;
            let url = SqliteConnectOptions::new().filename(folder.join("checkout.db")).to_url_lossy();
            Ok((Self(folder), url.into()))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            if let Err(error) = fs::remove_dir_all(&self.0) {
                eprintln!("{} is left behind: {error}", self.0.display());
            }
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::{env, thread};

    use sqlx::postgres::{PgConnectOptions, PgConnection};
    use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
    use tokio::runtime;

    use crate::Failure;

    /// A database on the server that the environment names.
    pub(super) struct Place {
        server: PgConnectOptions,
        name: String,
    }

    impl Place {
        pub(super) async fn create(name: String) -> Result<(Self, String), Failure> {
            // `DATABASE_URL` may well be somebody's own database.
            let url = env::var("IDEM_TEST_POSTGRES").ok().filter(|url| url.starts_with("postgres"));
            let url = url.ok_or("set IDEM_TEST_POSTGRES to a postgres:// server on which a database may be created")?;
            let server: PgConnectOptions = url.parse()?;
            execute(&server, format!("CREATE DATABASE {name}")).await?;
            let url = server.clone().database(&name).to_url_lossy();
            Ok((Self { server, name }, url.into()))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let (server, name) = (self.server.clone(), self.name.clone());
            // A drop cannot wait for the runtime that it may be running on; a thread with one of its own can.
            let dropped = thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")))
            });
            if !matches!(dropped.join(), Ok(Ok(()))) {
                eprintln!("the database {} is left behind", self.name);
            }
        }
    }

    async fn execute(server: &PgConnectOptions, statement: String) -> Result<(), Failure> {
        let mut connection = PgConnection::connect_with(server).await?;
        // The name is ours: letters, digits and underscores.
        connection.execute(AssertSqlSafe(statement)).await?;
        Ok(connection.close().await?)
    }
}
