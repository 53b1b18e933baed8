//! The connection, and whether the tables are those of this release.

use std::env;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use idem_core::Error;
use idem_core::observer::{Event, Observer};
use idem_core::operate::Operate;
use idem_sqlx::{Migrations, PgStore, PgStoreBuilder, RefusedStatement, SqliteStore, SqliteStoreBuilder, Sweep};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, SqlitePool};
use tokio::time::timeout;

use crate::args::Options;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::Keys;
use crate::text::printable;

/// How long to wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store over the database that `DATABASE_URL` names.
pub(crate) struct Database {
    pub(crate) store: Store,
    swept: Swept,
    pub(crate) keys: Keys,
}

pub(crate) enum Store {
    Postgres(PgStore),
    Sqlite(SqliteStore),
}

/// How many records a sweep has removed so far.
#[derive(Clone, Default)]
pub(crate) struct Swept(Arc<AtomicU64>);

impl Observer for Swept {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Swept { removed } = event {
            self.0.fetch_add(*removed, Ordering::Relaxed);
        }
    }
}

macro_rules! on_either {
    ($database:expr, $store:ident => $answer:expr) => {
        match &$database.store {
            Store::Postgres($store) => $answer,
            Store::Sqlite($store) => $answer,
        }
    };
}

impl Database {
    /// Connects, and does not look at the tables.
    pub(crate) async fn connect(options: &Options) -> Result<Self, Failure> {
        let url = env::var("DATABASE_URL")
            .map_err(|_| Failure::usage("DATABASE_URL names no database: set it to postgres://… or sqlite:…"))?;
        let (swept, keys) = (Swept::default(), Keys::of(options)?);
        let store = match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                Store::Postgres(postgres(&url, options).await?.observer(swept.clone()).seal(keys.clone()).build())
            }
            Some(("sqlite", _)) => {
                Store::Sqlite(sqlite(&url, options).await?.observer(swept.clone()).seal(keys.clone()).build())
            }
            _ => return Err(Failure::usage("DATABASE_URL begins with postgres:// or sqlite:")),
        };
        Ok(Self { store, swept, keys })
    }

    /// Connects, and refuses tables that are not those of this release.
    pub(crate) async fn open(options: &Options) -> Result<Self, Failure> {
        let database = Self::connect(options).await?;
        let migrations = database.migrations().await?;
        if migrations.done.is_empty() {
            return Err(Failure::new(Exit::NoTables, database.no_tables(options).await));
        }
        if !migrations.later.is_empty() {
            let message = "the tables are of a later release: use the command `idem` of that release";
            return Err(Failure::new(Exit::Newer, message));
        }
        if !migrations.pending.is_empty() {
            return Err(Failure::new(
                Exit::Older,
                format!("the tables are of an earlier release: run `idem migrate` ({})", migrations.pending.join(", ")),
            ));
        }
        Ok(database)
    }

    pub(crate) fn operate(&self) -> &dyn Operate {
        on_either!(self, store => store)
    }

    pub(crate) async fn migrations(&self) -> Result<Migrations, Failure> {
        let migrations = on_either!(self, store => store.migrations().await);
        migrations.map_err(|error| match idem_sqlx::sqlx_error(&error) {
            // No schema at all, which the error explains in the words of the builder.
            None if error.kind() == idem_core::Kind::DeploymentBroken => Failure::new(
                Exit::NoTables,
                "no schema of the search_path is there: name the schema of the tables by --schema",
            ),
            _ => error.into(),
        })
    }

    pub(crate) async fn migrate(&self) -> Result<(), Error> {
        on_either!(self, store => store.migrate().await)
    }

    pub(crate) async fn sweep(&self, sweep: &Sweep) -> Result<u64, Error> {
        on_either!(self, store => store.sweep(sweep).await)
    }

    /// How many records the sweep has removed so far.
    pub(crate) fn swept(&self) -> u64 {
        self.swept.0.load(Ordering::Relaxed)
    }

    pub(crate) async fn refused_statements(&self) -> Result<Vec<RefusedStatement>, Error> {
        on_either!(self, store => store.refused_statements().await)
    }

    /// Where the tables are not, and where they may be.
    pub(crate) async fn no_tables(&self, options: &Options) -> String {
        let Store::Postgres(store) = &self.store else {
            return "the file has no tables of idem: check DATABASE_URL, or run `idem migrate`".to_owned();
        };
        let others = schemas_with_tables(store.pool()).await.unwrap_or_default();
        let here = match &options.schema {
            Some(schema) => format!("the schema `{}`", printable(schema)),
            None => "the first schema of the search_path".to_owned(),
        };
        match others.first() {
            Some(other) => format!("{here} has no tables of idem: say --schema {}", printable(other)),
            None => format!("{here} has no tables of idem: check DATABASE_URL and --schema, or run `idem migrate`"),
        }
    }
}

async fn schemas_with_tables(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    let query = "
        SELECT nspname::text
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = 'idem_records' AND relkind IN ('r', 'p')
        ORDER BY nspname";
    let mut transaction = pool.begin().await?;
    sqlx::query_scalar(query).persistent(false).fetch_all(&mut *transaction).await
}

async fn postgres(url: &str, options: &Options) -> Result<PgStoreBuilder, Failure> {
    // The reason is not printed: it may quote a part of the URL.
    let address = PgConnectOptions::from_str(url)
        .map_err(|_| Failure::usage("DATABASE_URL is no URL: postgres://role:password@host:5432/database"))?;
    let address = address.application_name("idem").disable_statement_logging();
    if options.schema.as_ref().is_some_and(|name| !(1..=63).contains(&name.len()) || name.contains('\0')) {
        return Err(Failure::usage("the name of a schema has 1 to 63 bytes: check --schema"));
    }
    // A pool would try again and again, and say at last only that it took too long.
    let connected = timeout(PATIENCE, sqlx::PgConnection::connect_with(&address)).await;
    let connection = connected.map_err(|_| no_answer())?.map_err(|error| Failure::of_connection(&error))?;
    let _server_gone = connection.close().await;
    let pool = PgPoolOptions::new().max_connections(3).acquire_timeout(PATIENCE).connect_lazy_with(address);
    // Behind a pooler in transaction mode a named statement would be a stranger's. Without names there is no difference.
    let builder = PgStore::builder(pool).unnamed_statements(true);
    Ok(match &options.schema {
        Some(schema) => builder.schema(schema.as_str()),
        None => builder,
    })
}

async fn sqlite(url: &str, options: &Options) -> Result<SqliteStoreBuilder, Failure> {
    if options.schema.is_some() {
        return Err(Failure::usage("a file of SQLite has no schemas: leave --schema out"));
    }
    let address = SqliteConnectOptions::from_str(url)
        .map_err(|_| Failure::usage("DATABASE_URL is no URL: sqlite:shop.db or sqlite:///var/lib/shop.db"))?;
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
    let pool: SqlitePool =
        pool.connect_with(address.disable_statement_logging()).await.map_err(|error| Failure::of_connection(&error))?;
    Ok(SqliteStore::builder(pool))
}

fn no_answer() -> Failure {
    Failure::new(Exit::Unreachable, "the database does not answer within 10 s: check DATABASE_URL, and the server")
}
