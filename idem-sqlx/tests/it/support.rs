//! Databases for tests.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use idem_core::hint::Hint;
use idem_core::observer::Observer;
use idem_core::seal::Keyring;
use idem_core::store::{Context, Lease};
use idem_sqlx::{Distance, Locks, PgStore, PgStoreBuilder, SqliteStore, SqliteStoreBuilder};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::app::{self, Gauge};

/// Runs each test once on Postgres and once on SQLite. `D` is the database's type, `db` a fresh one, `functions` the
/// plain functions over it.
macro_rules! both {
    ($(async fn $name:ident($db:ident) $body:block)*) => {
        mod postgres {
            use super::*;
            #[allow(dead_code)]
            type D = $crate::support::Postgres;
            #[allow(unused_imports)]
            use $crate::plain::postgres_functions as functions;
            #[allow(unused_imports)]
            use $crate::pay::postgres_steps as steps;
            #[allow(unused_imports)]
            use $crate::orders::postgres_orders as orders;
            #[allow(unused_imports)]
            use $crate::abandoned::postgres_mails as mails;
            #[allow(unused_imports)]
            use $crate::values::postgres_values as values;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let $db = $crate::support::Postgres::create().await;
                    $body
                }
            )*
        }

        mod sqlite {
            use super::*;
            #[allow(dead_code)]
            type D = $crate::support::Sqlite;
            #[allow(unused_imports)]
            use $crate::plain::sqlite_functions as functions;
            #[allow(unused_imports)]
            use $crate::pay::sqlite_steps as steps;
            #[allow(unused_imports)]
            use $crate::orders::sqlite_orders as orders;
            #[allow(unused_imports)]
            use $crate::abandoned::sqlite_mails as mails;
            #[allow(unused_imports)]
            use $crate::values::sqlite_values as values;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let $db = $crate::support::Sqlite::create().await;
                    $body
                }
            )*
        }
    };
}

/// What a time of expiry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    Never,
    Past,
    Unreadable,
}

/// A fresh database with the store's tables and one table for effects, and the application over it.
pub trait Database: Sized {
    type Tx: Context;
    type Lease: Lease<Store = <Self::Tx as Context>::Store, Tx = Self::Tx>;

    /// How many transactions can write at once.
    const WRITERS: usize;

    /// The store's files to be copied.
    const MIGRATIONS: &str;

    /// How long a record lives from its claim, in whole hours.
    const HOURS: &str;

    /// The type of bytes, to which a text is cast.
    const BYTES: &str;

    /// The code of an exception that a trigger raises on the store's own table.
    const EXCEPTION: &str;

    async fn create() -> Self;

    /// The store over a pool of this many connections.
    async fn store(&self, connections: u32) -> <Self::Tx as Context>::Store;

    /// The same with encryption.
    async fn sealed_store(&self, keyring: Keyring) -> <Self::Tx as Context>::Store;

    /// Whether the bytes are in a file of the database, outdated rows and the log of writes included.
    async fn is_in_files(&self, bytes: &[u8]) -> bool;

    /// The expression that changes one bit of the hexadecimal digit at this place of a column.
    fn changed(column: &str, digit: usize) -> String;
    /// The same, telling this observer.
    async fn observed_store(&self, connections: u32, observer: impl Observer) -> <Self::Tx as Context>::Store;

    /// The same, with a hint in front of the database.
    async fn hinted_store(
        &self,
        connections: u32,
        hint: impl Hint,
        observer: impl Observer,
    ) -> <Self::Tx as Context>::Store;

    /// The same, with encryption.
    async fn sealed_hinted_store(
        &self,
        keyring: Keyring,
        hint: impl Hint,
        observer: impl Observer,
    ) -> <Self::Tx as Context>::Store;

    /// The same as without a hint, with encryption if there is a keyring.
    async fn told_store(&self, keyring: Option<Keyring>, observer: impl Observer) -> <Self::Tx as Context>::Store;

    /// The same, each of its connections having tables in front of the store's that have their names and nothing else.
    async fn shadowed_store(&self, connections: u32) -> <Self::Tx as Context>::Store;

    /// Whether a connection of the pool has those.
    async fn is_shadowed(store: &<Self::Tx as Context>::Store) -> bool;

    /// The database as it is before any migration.
    async fn drop_tables(&self) {
        self.execute(
            "DROP TABLE idem_journal; DROP TABLE idem_records; DROP TABLE idem_migrations; DROP TABLE idem_epoch",
        )
        .await;
    }

    /// The application over such a store.
    fn app_over(&self, store: <Self::Tx as Context>::Store) -> (Router, Gauge);

    async fn app(&self) -> (Router, Gauge) {
        self.app_over(self.store(8).await)
    }

    async fn execute(&self, sql: &str);

    async fn number(&self, sql: &str) -> i64;

    async fn effects(&self) -> i64 {
        self.number("SELECT count(*) FROM effects").await
    }

    async fn records(&self) -> i64 {
        self.number("SELECT count(*) FROM idem_records").await
    }

    /// All records, as one text.
    async fn stored(&self) -> String;

    /// Makes every COMMIT of an effect fail with this code, where the database has codes to choose.
    async fn refuse_commits(&self, code: &str, words: &str);

    /// Makes every completion fail with these words and a code that means nothing to the store.
    async fn refuse_completions(&self, words: &str);

    /// Lets them succeed again.
    async fn refuse_no_completions(&self);

    /// Makes every record of a step fail, or no more.
    async fn refuse_steps(&self, refuse: bool);

    /// How long the one record still counts.
    async fn seconds_to_live(&self) -> f64;

    /// How long it counts from its completion on.
    async fn seconds_from_completion(&self) -> f64;

    /// How long ago it was claimed for the first time.
    async fn seconds_since_claim(&self) -> f64;

    /// The time in microseconds since 1970, by the database's clock.
    const MICROSECONDS: &str;

    /// The time by the database's clock.
    async fn clock(&self) -> SystemTime {
        let microseconds = self.number(&format!("SELECT {}", Self::MICROSECONDS)).await;
        UNIX_EPOCH + Duration::from_micros(microseconds.cast_unsigned())
    }

    /// The days from now until the times in this column, rounded and added up.
    fn days_left(column: &str) -> String;

    /// Lets every record expire.
    async fn expire(&self);

    /// Lets the pause before the next attempt of every run be over.
    async fn end_pauses(&self);

    /// Takes away by what the database refuses claims under another index key.
    async fn lose_mark(&self);

    /// How many microseconds are left of a pause of this many seconds.
    async fn microseconds_left(&self, pause: i64) -> i64;

    /// The statement after which every lease ended so much earlier.
    fn lease_ended_earlier(time: std::time::Duration) -> String;

    /// Makes each attempt that was released one that ended without a word, as a crash ends it.
    async fn forget_releases(&self) {
        self.execute("UPDATE idem_records SET released = 0").await;
    }
    /// Times of expiry as an operator may write them, and what a record with them is.
    const TIMES: &[(&str, Time)];

    /// Whether a connection of the store's pool is outside of any transaction.
    async fn is_idle(store: &<Self::Tx as Context>::Store) -> bool;

    /// An effect, written through the context.
    async fn effect(tx: &mut Self::Tx, what: &str);
}

pub struct Postgres {
    name: String,
    pub pool: PgPool,
    /// Whether the pooler has all its connections to the server.
    opened: OnceCell<()>,
}

pub struct Sqlite {
    folder: TempDir,
    pub pool: SqlitePool,
}

/// The hexadecimal digits with another one at this place, counted from 1.
fn changed(hex: &str, digit: usize) -> String {
    format!(
        "substr({hex}, 1, {digit} - 1) || CASE substr({hex}, {digit}, 1) WHEN '0' THEN '1' ELSE '0' END
         || substr({hex}, {digit} + 1)"
    )
}

/// Tables in the way.
fn shadows(create: &str) -> String {
    let tables = ["idem_records", "idem_journal", "idem_migrations", "idem_epoch", "old_records"];
    tables.map(|table| format!("CREATE {create}{table} (shadow integer);")).concat()
}

/// Each row has the word in it that must not be logged. It is put together here, since sqlx logs the statement.
const EFFECTS: &str = "CREATE TABLE effects (who text NOT NULL, what text NOT NULL,
    secret text GENERATED ALWAYS AS ('qcan' || 'aryq') STORED)";

static NEXT: AtomicU32 = AtomicU32::new(0);

fn server() -> PgConnectOptions {
    let url = std::env::var("IDEM_TEST_POSTGRES")
        .expect("IDEM_TEST_POSTGRES names a Postgres server for tests; `cargo xtask test` starts one");
    url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL")
}

/// A pooler in transaction mode before the server, if the stores are to be tested through one.
fn pooler() -> Option<PgConnectOptions> {
    let url = std::env::var("IDEM_TEST_PGBOUNCER").ok().filter(|url| !url.is_empty())?;
    Some(url.parse().expect("IDEM_TEST_PGBOUNCER is a postgres:// URL"))
}

/// Has the server do what no connection to a test's database can.
pub async fn on_server(sql: String) {
    // One test has the server wait for a standby.
    let server = server().options([("synchronous_commit", "local")]);
    let mut connection = PgConnection::connect_with(&server).await.expect("the server of IDEM_TEST_POSTGRES");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("an administrative statement");
    connection.close().await.expect("a clean close");
}

/// Whether the stores of this run use advisory locks. `cargo xtask test` runs the rules' tests both ways.
pub fn locks() -> Locks {
    match std::env::var("IDEM_TEST_LOCKS").as_deref() {
        Ok("none") => Locks::None,
        Ok(other) => panic!("IDEM_TEST_LOCKS is `none` or not set: {other}"),
        Err(_) => Locks::Advisory,
    }
}

/// How far the stores of this run are from their database. `cargo xtask test --postgres 18` is far.
pub fn distance() -> Distance {
    match std::env::var("IDEM_TEST_DISTANCE").as_deref() {
        Ok("far") => Distance::Far,
        Ok("farthest") => Distance::Farthest,
        Ok(other) => panic!("IDEM_TEST_DISTANCE is `far`, `farthest` or not set: {other}"),
        Err(_) => Distance::Near,
    }
}

/// The database that all others are copies of: it has the tables already.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let name = format!("idem_template_{}", std::process::id());
            // Left by a process that had this number before.
            on_server(format!("DROP DATABASE IF EXISTS {name}")).await;
            on_server(format!("CREATE DATABASE {name}")).await;
            let local = [("synchronous_commit", "local")];
            let pool = PgPool::connect_with(server().database(&name).options(local)).await.expect("the template");
            PgStore::builder(pool.clone()).distance(distance()).build().migrate().await.expect("migrations");
            sqlx::raw_sql(EFFECTS).execute(&pool).await.expect("the table for effects");
            pool.close().await;
            name
        })
        .await
}

impl Postgres {
    /// Makes every change of a record fail with these words and this code.
    pub async fn refuse_updates(&self, words: &str, code: &str) {
        self.execute(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION USING MESSAGE = '{words}', ERRCODE = '{code}'; END $$;
            CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON idem_records FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .await;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How an application connects. [`pool`](Self::pool) goes to the server itself.
    pub fn options(&self) -> PgConnectOptions {
        let options = pooler().unwrap_or_else(server).database(&self.name);
        match distance() {
            // The statement that completes has the reply in it, and sqlx logs statements.
            Distance::Farthest => options.disable_statement_logging(),
            _ => options,
        }
    }

    /// Has a default set for all who connect from now on. A pooler knows no other way to choose one.
    pub async fn by_default(&self, setting: &str) {
        on_server(format!("ALTER DATABASE {} SET {setting}", self.name)).await;
    }

    pub async fn pool_of(&self, connections: u32) -> PgPool {
        if pooler().is_some() {
            self.opened.get_or_init(|| self.open_servers()).await;
        }
        PgPoolOptions::new().max_connections(connections).connect_with(self.options()).await.expect("a pool")
    }

    /// Has the pooler open all its connections to the server, so that a client gets another one each time.
    async fn open_servers(&self) {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = PgConnection::connect_with(&self.options()).await.expect("the pooler");
            sqlx::raw_sql("BEGIN").execute(&mut client).await.expect("a connection to the server");
            clients.push(client);
        }
        for mut client in clients {
            sqlx::raw_sql("ROLLBACK").execute(&mut client).await.expect("the end");
            client.close().await.expect("a clean close");
        }
    }

    pub async fn builder(&self, connections: u32) -> PgStoreBuilder {
        Self::builder_over(self.pool_of(connections).await).reply_limit(app::REPLY_LIMIT)
    }

    /// A store as the tests' server needs it.
    pub fn builder_over(pool: PgPool) -> PgStoreBuilder {
        PgStore::builder(pool).locks(locks()).distance(distance()).unnamed_statements(pooler().is_some())
    }
}

impl Database for Postgres {
    type Tx = idem_sqlx::PgTx;
    type Lease = idem_sqlx::PgLease;

    const WRITERS: usize = usize::MAX;

    const BYTES: &str = "bytea";

    const EXCEPTION: &str = "store_failed";

    const TIMES: &[(&str, Time)] = &[
        ("'infinity'", Time::Never),
        ("'294276-12-31 23:59:59.999999 UTC'", Time::Never),
        ("now() + interval '9000 years'", Time::Never),
        ("'-infinity'", Time::Past),
        ("'4713-01-01 00:00:00 BC'", Time::Past),
        ("'1969-12-31 UTC'", Time::Past),
        ("'epoch'", Time::Past),
        ("now()", Time::Past),
    ];

    const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres");

    const HOURS: &str = "round(extract(epoch FROM expires_at - created_at) / 3600)::bigint";

    async fn create() -> Self {
        idem_testkit::logs::watch();
        let template = template().await;
        let name = format!("idem_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Two copies of one template at a time are refused.
        static COPY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let copying = COPY.lock().await;
        on_server(format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        drop(copying);
        // Without standbys it is the same as `on`. See `on_server`.
        on_server(format!("ALTER DATABASE {name} SET synchronous_commit = local")).await;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_with(server().database(&name))
            .await
            .expect("the test's database");
        Self { name, pool, opened: OnceCell::new() }
    }

    async fn observed_store(&self, connections: u32, observer: impl Observer) -> PgStore {
        self.builder(connections).await.observer(observer).build()
    }

    async fn sealed_hinted_store(&self, keyring: Keyring, hint: impl Hint, observer: impl Observer) -> PgStore {
        self.builder(8).await.seal(keyring).hint(hint).observer(observer).build()
    }

    async fn hinted_store(&self, connections: u32, hint: impl Hint, observer: impl Observer) -> PgStore {
        self.builder(connections).await.hint(hint).observer(observer).build()
    }

    async fn told_store(&self, keyring: Option<Keyring>, observer: impl Observer) -> PgStore {
        let builder = self.builder(8).await.observer(observer);
        match keyring {
            Some(keyring) => builder.seal(keyring).build(),
            None => builder.build(),
        }
    }

    async fn store(&self, connections: u32) -> PgStore {
        self.builder(connections).await.build()
    }

    async fn sealed_store(&self, keyring: Keyring) -> PgStore {
        self.builder(8).await.seal(keyring).build()
    }

    async fn is_in_files(&self, bytes: &[u8]) -> bool {
        self.execute("CHECKPOINT").await;
        let files = "SELECT count(*) FROM (
                SELECT pg_relation_filepath(oid) AS path
                FROM pg_class
                WHERE relfilenode <> 0
                    AND relkind IN ('r', 'i', 't')
                    AND (relname LIKE 'idem%' OR relname LIKE 'pg_toast%')
                UNION ALL
                (SELECT 'pg_wal/' || name FROM pg_ls_waldir() ORDER BY modification DESC LIMIT 3)
            ) AS files
            WHERE position($1 IN pg_read_binary_file(path, 0, 100000000, true)) > 0";
        let found = sqlx::query_scalar::<_, i64>(files).bind(bytes).fetch_one(&self.pool).await;
        found.expect("the right to read the server's files") > 0
    }

    fn changed(column: &str, digit: usize) -> String {
        let hex = format!("encode({column}, 'hex')");
        format!("decode({}, 'hex')", changed(&hex, digit))
    }

    async fn shadowed_store(&self, connections: u32) -> PgStore {
        self.execute(&format!("CREATE SCHEMA shadow; {}", shadows("TABLE shadow."))).await;
        let pool = PgPoolOptions::new().max_connections(connections).after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute("SET search_path TO shadow, public").await?;
                connection.execute(sqlx::raw_sql(AssertSqlSafe(shadows("TEMP TABLE ")))).await.map(|_| ())
            })
        });
        let pool = pool.connect_with(self.options()).await.expect("a pool");
        Self::builder_over(pool).schema("public").reply_limit(app::REPLY_LIMIT).build()
    }

    async fn is_shadowed(store: &PgStore) -> bool {
        sqlx::raw_sql("SELECT shadow FROM idem_records").execute(store.pool()).await.is_ok()
    }

    fn app_over(&self, store: PgStore) -> (Router, Gauge) {
        app::postgres::app(store)
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect(sql);
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.expect(sql)
    }

    async fn stored(&self) -> String {
        let rows = "SELECT coalesce(string_agg(record::text, ''), '') FROM idem_records AS record";
        sqlx::query_scalar(rows).fetch_one(&self.pool).await.expect("all records")
    }

    async fn refuse_commits(&self, code: &str, words: &str) {
        self.execute(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION '{words}' USING ERRCODE = '{code}'; END $$;
            CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effects
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .await;
    }

    async fn refuse_completions(&self, words: &str) {
        self.refuse_updates(words, "P0001").await;
    }

    async fn refuse_no_completions(&self) {
        self.execute("DROP TRIGGER refuse ON idem_records").await;
    }

    async fn refuse_steps(&self, refuse: bool) {
        let refusing = "CREATE OR REPLACE FUNCTION refuse_step() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no step'; END $$;
            CREATE TRIGGER refuse_step BEFORE INSERT ON idem_journal FOR EACH ROW EXECUTE FUNCTION refuse_step()";
        self.execute(if refuse { refusing } else { "DROP TRIGGER refuse_step ON idem_journal" }).await;
    }

    async fn seconds_from_completion(&self) -> f64 {
        let sql = "SELECT extract(epoch FROM expires_at - completed_at)::float8 FROM idem_records";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("one record")
    }

    async fn seconds_since_claim(&self) -> f64 {
        let sql = "SELECT extract(epoch FROM now() - created_at)::float8 FROM idem_records";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("one record")
    }

    async fn seconds_to_live(&self) -> f64 {
        let query = sqlx::query_scalar("SELECT extract(epoch FROM expires_at - now())::float8 FROM idem_records");
        query.fetch_one(&self.pool).await.expect("one record")
    }

    const MICROSECONDS: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

    fn days_left(column: &str) -> String {
        format!("SELECT sum(round(extract(epoch FROM {column} - now()) / 86400))::bigint FROM idem_records")
    }

    async fn expire(&self) {
        self.execute("UPDATE idem_records SET expires_at = now() - interval '1 second'").await;
    }

    async fn lose_mark(&self) {
        self.execute(
            "DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE idem_records DROP CONSTRAINT ' || conname FROM pg_constraint
            WHERE conname LIKE 'idem\\_index\\_%'); END $$",
        )
        .await;
    }

    async fn end_pauses(&self) {
        let minute = "lease_until = lease_until - interval '1 minute'";
        self.execute(&format!("UPDATE idem_records SET {minute} WHERE lease_until <= now()")).await;
    }

    fn lease_ended_earlier(time: std::time::Duration) -> String {
        format!("UPDATE idem_records SET lease_until = lease_until - interval '{} microseconds'", time.as_micros())
    }

    async fn microseconds_left(&self, pause: i64) -> i64 {
        let left = "extract(epoch FROM lease_until - now()) * 1000000";
        self.number(&format!("SELECT ({left})::bigint + {pause} * 1000000 FROM idem_records")).await
    }

    async fn is_idle(store: &PgStore) -> bool {
        let mut connection = store.pool().acquire().await.expect("a connection");
        let mut times = Vec::new();
        for _ in 0..2 {
            // The time at which the transaction began: outside of one, each statement has its own.
            let now = sqlx::raw_sql("SELECT extract(epoch FROM now())::float8").fetch_one(&mut *connection).await;
            times.push(now.expect("the time").get::<f64, _>(0));
        }
        times[0] != times[1]
    }

    async fn effect(tx: &mut Self::Tx, what: &str) {
        let query = sqlx::query("INSERT INTO effects VALUES ('test', $1)").bind(what.to_owned());
        query.execute(tx).await.expect("an effect");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A test's runtime cannot be waited for in its own drop.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(on_server(sql));
        });
        let _failed_already = dropping.join();
    }
}

impl Sqlite {
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(self.folder.path().join("test.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
    }

    pub async fn pool_of(&self, connections: u32) -> SqlitePool {
        SqlitePoolOptions::new().max_connections(connections).connect_with(self.options()).await.expect("a pool")
    }

    pub async fn builder(&self, connections: u32) -> SqliteStoreBuilder {
        SqliteStore::builder(self.pool_of(connections).await).reply_limit(app::REPLY_LIMIT)
    }
}

impl Database for Sqlite {
    type Tx = idem_sqlx::SqliteTx;
    type Lease = idem_sqlx::SqliteLease;

    const WRITERS: usize = 1;

    const BYTES: &str = "blob";

    const EXCEPTION: &str = "deployment_broken";

    const TIMES: &[(&str, Time)] = &[
        ("9223372036854775807", Time::Never),
        ("9e999", Time::Never),
        ("9.5e15", Time::Never),
        ("-9e999", Time::Past),
        ("-9223372036854775808", Time::Past),
        ("-1", Time::Past),
        ("0", Time::Past),
        ("'infinity'", Time::Unreadable),
        ("x'00'", Time::Unreadable),
    ];

    const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");

    const HOURS: &str = "(expires_at - created_at) / 3600000000";

    async fn create() -> Self {
        idem_testkit::logs::watch();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.db");
        let options =
            SqliteConnectOptions::new().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("a database");
        SqliteStore::new(pool.clone()).migrate().await.expect("migrations");
        sqlx::raw_sql(EFFECTS).execute(&pool).await.expect("the table for effects");
        Self { folder, pool }
    }

    async fn observed_store(&self, connections: u32, observer: impl Observer) -> SqliteStore {
        self.builder(connections).await.observer(observer).build()
    }

    async fn sealed_hinted_store(&self, keyring: Keyring, hint: impl Hint, observer: impl Observer) -> SqliteStore {
        self.builder(8).await.seal(keyring).hint(hint).observer(observer).build()
    }

    async fn hinted_store(&self, connections: u32, hint: impl Hint, observer: impl Observer) -> SqliteStore {
        self.builder(connections).await.hint(hint).observer(observer).build()
    }

    async fn told_store(&self, keyring: Option<Keyring>, observer: impl Observer) -> SqliteStore {
        let builder = self.builder(8).await.observer(observer);
        match keyring {
            Some(keyring) => builder.seal(keyring).build(),
            None => builder.build(),
        }
    }

    async fn store(&self, connections: u32) -> SqliteStore {
        self.builder(connections).await.build()
    }

    async fn sealed_store(&self, keyring: Keyring) -> SqliteStore {
        self.builder(8).await.seal(keyring).build()
    }

    async fn is_in_files(&self, bytes: &[u8]) -> bool {
        let files = std::fs::read_dir(self.folder.path()).expect("the folder");
        let mut files = files.map(|file| std::fs::read(file.expect("a file").path()).expect("its content"));
        files.any(|content| content.windows(bytes.len()).any(|window| window == bytes))
    }

    fn changed(column: &str, digit: usize) -> String {
        format!("unhex({})", changed(&format!("hex({column})"), digit))
    }

    async fn shadowed_store(&self, connections: u32) -> SqliteStore {
        let pool = SqlitePoolOptions::new().max_connections(connections).after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute(sqlx::raw_sql(AssertSqlSafe(shadows("TEMP TABLE ")))).await.map(|_| ())
            })
        });
        let pool = pool.connect_with(self.options()).await.expect("a pool");
        SqliteStore::builder(pool).reply_limit(app::REPLY_LIMIT).build()
    }

    async fn is_shadowed(store: &SqliteStore) -> bool {
        sqlx::raw_sql("SELECT shadow FROM idem_records").execute(store.pool()).await.is_ok()
    }

    fn app_over(&self, store: SqliteStore) -> (Router, Gauge) {
        app::sqlite::app(store)
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect(sql);
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.expect(sql)
    }

    async fn stored(&self) -> String {
        let rows =
            "SELECT coalesce(group_concat(concat_ws(' ', scope, operation, hex(key_hash), hex(fingerprint), state,
            hex(claim), hex(headers), hex(body), expires_at)), '')
            FROM idem_records";
        sqlx::query_scalar(rows).fetch_one(&self.pool).await.expect("all records")
    }

    async fn refuse_commits(&self, _code: &str, _words: &str) {
        // Each effect gets an orphan, which is asked for its parent at the COMMIT.
        self.execute(
            "CREATE TABLE parents (id integer PRIMARY KEY);
            CREATE TABLE orphans (parent integer REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
            CREATE TRIGGER refuse AFTER INSERT ON effects BEGIN INSERT INTO orphans VALUES (1); END",
        )
        .await;
    }

    async fn refuse_completions(&self, words: &str) {
        self.execute(&format!(
            "DROP TRIGGER IF EXISTS refuse;
            CREATE TRIGGER refuse BEFORE UPDATE ON idem_records BEGIN SELECT RAISE(ABORT, '{words}'); END"
        ))
        .await;
    }

    async fn refuse_no_completions(&self) {
        self.execute("DROP TRIGGER refuse").await;
    }

    async fn refuse_steps(&self, refuse: bool) {
        let refusing =
            "CREATE TRIGGER refuse_step BEFORE INSERT ON idem_journal BEGIN SELECT RAISE(ABORT, 'no step'); END";
        self.execute(if refuse { refusing } else { "DROP TRIGGER refuse_step" }).await;
    }

    async fn seconds_from_completion(&self) -> f64 {
        let sql = "SELECT (expires_at - completed_at) / 1000000.0 FROM idem_records";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("one record")
    }

    async fn seconds_since_claim(&self) -> f64 {
        let sql = "SELECT (julianday('now') - 2440587.5) * 86400 - created_at / 1000000.0 FROM idem_records";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("one record")
    }

    async fn seconds_to_live(&self) -> f64 {
        let query = sqlx::query_scalar("SELECT expires_at / 1000000.0 - unixepoch() FROM idem_records");
        query.fetch_one(&self.pool).await.expect("one record")
    }

    const MICROSECONDS: &str = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)";

    fn days_left(column: &str) -> String {
        format!("SELECT CAST(sum(round(({column} / 1000000.0 - unixepoch()) / 86400)) AS INTEGER) FROM idem_records")
    }

    async fn expire(&self) {
        self.execute("UPDATE idem_records SET expires_at = 1").await;
    }

    async fn lose_mark(&self) {
        self.execute("DELETE FROM idem_index").await;
    }

    async fn end_pauses(&self) {
        let is_over = "lease_until <= (julianday('now') - 2440587.5) * 86400000000";
        self.execute(&format!("UPDATE idem_records SET lease_until = lease_until - 60000000 WHERE {is_over}")).await;
    }

    fn lease_ended_earlier(time: std::time::Duration) -> String {
        format!("UPDATE idem_records SET lease_until = lease_until - {}", time.as_micros())
    }

    async fn microseconds_left(&self, pause: i64) -> i64 {
        let now = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)";
        self.number(&format!("SELECT lease_until - {now} + {pause} * 1000000 FROM idem_records")).await
    }

    async fn is_idle(store: &SqliteStore) -> bool {
        let mut connection = store.pool().acquire().await.expect("a connection");
        // SQLite refuses it inside of a transaction.
        sqlx::raw_sql("BEGIN; ROLLBACK").execute(&mut *connection).await.is_ok()
    }

    async fn effect(tx: &mut Self::Tx, what: &str) {
        let query = sqlx::query("INSERT INTO effects VALUES ('test', $1)").bind(what.to_owned());
        query.execute(tx).await.expect("an effect");
    }
}
