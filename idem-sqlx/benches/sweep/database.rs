//! The databases, each with a table full of records.

use std::process;
use std::time::Duration;

use idem_core::{Fingerprint, Identity, Request, Start};
use idem_sqlx::{PgStore, SqliteStore, Sweep, Sweeper};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::Scopes;

pub(crate) trait Database {
    fn sweeper(&self, sweep: Sweep) -> Sweeper;

    /// What one client needs.
    fn requester(&self) -> impl Requester;

    async fn has_expired(&self) -> bool;
}

pub(crate) trait Requester: Send + 'static {
    /// A request that has not been sent before.
    fn request(&self, key: u64) -> impl Future<Output = ()> + Send;
}

pub(crate) struct Postgres {
    server: PgConnectOptions,
    database: String,
    pool: PgPool,
    store: PgStore,
}

impl Postgres {
    pub(crate) async fn create(url: &str, scopes: Scopes, expired: u64, live: u64) -> Self {
        let server: PgConnectOptions = url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL");
        let database = format!("idem_bench_sweep_{}", process::id());
        on_server(&server, format!("CREATE DATABASE {database}")).await;
        let options = PgPoolOptions::new().max_connections(16);
        let pool = options.connect_with(server.clone().database(&database)).await.expect("the new database");
        let store = PgStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        let scope = match scopes {
            Scopes::OneEach => "'user-' || left(md5(n::text), 12)",
            Scopes::Ten => "'tenant-' || n % 10",
        };
        let fill = format!(
            "CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint NOT NULL);
            CREATE TABLE old_records (LIKE idem_records);
            INSERT INTO idem_records
                (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
                 created_at, completed_at, expires_at)
            SELECT {scope}, 'payments.create', sha256(n::text::bytea), sha256(n::text::bytea), 2,
                decode(md5(n::text), 'hex'), 1, 1, 201, '', convert_to(repeat('x', 100), 'UTF8'), at, at,
                at + interval '24 hours'
            FROM generate_series(1, {expired} + {live}) AS n,
                LATERAL (SELECT CASE WHEN n <= {expired}
                    THEN now() - interval '30 hours' + n * interval '1 hour' / {expired}
                    ELSE now() - interval '20 hours' + n * interval '1 hour' / ({expired} + {live}) END AS at) AS times"
        );
        // Vacuum cannot run in a transaction, so each statement is sent by itself.
        for sql in [fill, "VACUUM ANALYZE".to_owned(), "CHECKPOINT".to_owned()] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.expect("records");
        }
        Self { server, database, pool, store }
    }

    pub(crate) async fn drop(self) {
        self.pool.close().await;
        on_server(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.database)).await;
    }
}

async fn on_server(server: &PgConnectOptions, sql: String) {
    let mut connection = PgConnection::connect_with(server).await.expect("the server of IDEM_TEST_POSTGRES");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("an administrative statement");
    connection.close().await.expect("a clean close");
}

impl Database for Postgres {
    fn sweeper(&self, sweep: Sweep) -> Sweeper {
        self.store.sweeper(sweep)
    }

    fn requester(&self) -> impl Requester {
        self.store.clone()
    }

    async fn has_expired(&self) -> bool {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM idem_records WHERE expires_at <= now())");
        query.fetch_one(&self.pool).await.expect("an answer")
    }
}

impl Requester for PgStore {
    async fn request(&self, key: u64) {
        let Start::Run(mut run) = self.begin(&request(key)).await.expect("a claim") else { panic!("a new key") };
        let insert = sqlx::query("INSERT INTO payments (amount) VALUES (1)");
        insert.execute(&mut *run).await.expect("a payment");
        run.complete(&key).await.expect("a commit");
    }
}

pub(crate) struct Sqlite {
    _folder: TempDir,
    store: SqliteStore,
}

impl Sqlite {
    pub(crate) async fn create(scopes: Scopes, expired: u64, live: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("bench.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().max_connections(16).connect_with(options).await.expect("a new file");
        let store = SqliteStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        let scope = match scopes {
            Scopes::OneEach => "'user-' || hex(randomblob(6))",
            Scopes::Ten => "'tenant-' || n % 10",
        };
        let fill = format!(
            "CREATE TABLE payments (id integer PRIMARY KEY, amount integer NOT NULL);
            CREATE TABLE old_records AS SELECT * FROM idem_records WHERE false;
            INSERT INTO idem_records
                (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
                 created_at, completed_at, expires_at)
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {expired} + {live})
            SELECT {scope}, 'payments.create', randomblob(32), randomblob(32), 2, randomblob(16), 1, 1, 201, x'',
                randomblob(100), n, n, iif(n <= {expired}, n, (unixepoch() + 90000) * 1000000 + n)
            FROM numbers
            ORDER BY 1;
            ANALYZE;
            PRAGMA wal_checkpoint(TRUNCATE)"
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.expect("records");
        Self { _folder: folder, store }
    }
}

impl Database for Sqlite {
    fn sweeper(&self, sweep: Sweep) -> Sweeper {
        self.store.sweeper(sweep)
    }

    fn requester(&self) -> impl Requester {
        self.store.clone()
    }

    async fn has_expired(&self) -> bool {
        let now = "SELECT EXISTS (SELECT 1 FROM idem_records WHERE expires_at <= unixepoch() * 1000000)";
        sqlx::query_scalar(now).fetch_one(self.store.pool()).await.expect("an answer")
    }
}

impl Requester for SqliteStore {
    async fn request(&self, key: u64) {
        let Start::Run(mut run) = self.begin(&request(key)).await.expect("a claim") else { panic!("a new key") };
        let insert = sqlx::query("INSERT INTO payments (amount) VALUES (1)");
        insert.execute(&mut *run).await.expect("a payment");
        run.complete(&key).await.expect("a commit");
    }
}

fn request(key: u64) -> Request {
    Request::new(
        Identity::new(format!("client-{key}"), "payments.create", &key.to_string()).expect("an identity"),
        Fingerprint::of_value(&key).expect("a fingerprint"),
        Duration::from_secs(24 * 60 * 60),
    )
    .expect("a request")
}
