//! The databases, each with its tables and the application over it.

use std::process;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use idem_sqlx::{Distance, PgStore, PgStoreBuilder, SqliteStore};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::handlers::{postgres, sqlite};
use crate::measure::{Keys, Spread, Variant, key_text, owner, send};
use crate::network::Network;
use crate::observed::{self, Hinted, keyring};

/// The callers that own the keys, in turn.
pub(crate) const OWNERS: u64 = 32;

/// How many records each round starts with, and how many steps, although finished runs have none. On empty tables
/// Postgres would plan a scan, and keep that plan while the tables grow.
pub(crate) const FINISHED: u64 = 20_000;

/// A database with the application over it.
pub(crate) trait Database {
    /// The rows of the table, `bare` first.
    fn variants(&self) -> Vec<Variant>;

    /// The rows with metrics, encryption or logs, after the same without them.
    fn observed(&self) -> Vec<Variant>;

    /// Empties the tables and inserts the finished records again, so that all rounds begin alike.
    async fn reset(&self);

    /// Version and settings.
    async fn facts(&self) -> String;
}

pub(crate) struct Postgres {
    server: PgConnectOptions,
    /// Where there is one between the pool and the server.
    network: Option<Network>,
    database: String,
    pool: PgPool,
}

impl Postgres {
    /// Creates a database on the server.
    pub(crate) async fn create(url: &str) -> Self {
        Self::over(url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL"), None).await
    }

    /// The same behind a network.
    pub(crate) async fn create_far(url: &str) -> Self {
        let server = url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL");
        let network = Network::before(&server).await;
        Self::over(server, Some(network)).await
    }

    async fn over(server: PgConnectOptions, network: Option<Network>) -> Self {
        let database = format!("idem_bench_{}", process::id());
        on_server(&server, format!("CREATE DATABASE {database}")).await;
        let reached = network.as_ref().map_or(&server, |network| &network.server);
        let pool = PgPoolOptions::new()
            .max_connections(32)
            .connect_with(reached.clone().database(&database))
            .await
            .expect("a connection to the new database");
        let far = PgStore::builder(pool.clone()).distance(Distance::Far).build();
        far.migrate().await.expect("the store's tables and functions");
        sqlx::raw_sql(POSTGRES_TABLES).execute(&pool).await.expect("the application's tables");
        Self { server, network, database, pool }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The application over this store. All its handlers, and all stores, share one pool.
    fn app(&self, store: PgStoreBuilder) -> Router {
        Router::new()
            .route("/bare", post(postgres::bare))
            .route("/bound", post(postgres::bound))
            .route("/by-hand", post(postgres::by_hand))
            .route("/lock-and-look", post(postgres::lock_and_look))
            .route("/attribute", post(postgres::attribute))
            .route("/leased-by-hand", post(postgres::leased_by_hand))
            .route("/leased", post(postgres::leased))
            .route("/leased-step", post(postgres::leased_step))
            .with_state(postgres::App { pool: self.pool.clone(), store: store.build() })
    }

    /// A store as it comes. Each works like another process.
    fn store(&self) -> PgStoreBuilder {
        PgStore::builder(self.pool.clone())
    }

    pub(crate) async fn drop(self) {
        self.pool.close().await;
        on_server(&self.server, format!("DROP DATABASE {}", self.database)).await;
    }
}

impl Database for Postgres {
    fn variants(&self) -> Vec<Variant> {
        let usual = self.app(self.store());
        let elsewhere = self.app(self.store());
        let limited = self.app(self.store().idle_limit(Duration::from_secs(90)));
        let unasked = self.app(self.store().ping(false));
        let unasked_elsewhere = self.app(self.store().ping(false));
        let far = self.app(self.store().ping(false).distance(Distance::Far));
        let farthest = self.app(self.store().ping(false).distance(Distance::Farthest));
        vec![
            Variant::new("bare", &usual, "/bare", Keys::Fresh),
            Variant::new("bound", &usual, "/bound", Keys::Fresh),
            Variant::new("by hand", &usual, "/by-hand", Keys::Fresh),
            Variant::new("lock and look", &usual, "/lock-and-look", Keys::Fresh),
            Variant::new("attribute", &usual, "/attribute", Keys::Fresh),
            Variant::new("attribute, idle limit", &limited, "/attribute", Keys::Fresh),
            Variant::new("attribute, no ping", &unasked, "/attribute", Keys::Fresh),
            Variant::new("attribute, far", &far, "/attribute", Keys::Fresh),
            Variant::new("attribute, farthest", &farthest, "/attribute", Keys::Fresh),
            Variant::new("its replay", &usual, "/attribute", Keys::Again),
            Variant::new("its replay, no ping", &unasked, "/attribute", Keys::Again),
            Variant::new("its replay, elsewhere", &elsewhere, "/attribute", Keys::Finished),
            Variant::new("its replay, elsewhere, no ping", &unasked_elsewhere, "/attribute", Keys::Finished),
            Variant::new("leased by hand", &usual, "/leased-by-hand", Keys::Fresh),
            Variant::new("leased, no step", &usual, "/leased", Keys::Fresh),
            Variant::new("leased, no step, no ping", &unasked, "/leased", Keys::Fresh),
            Variant::new("leased, one step", &usual, "/leased-step", Keys::Fresh),
            Variant::new("leased, one step, no ping", &unasked, "/leased-step", Keys::Fresh),
        ]
    }

    fn observed(&self) -> Vec<Variant> {
        observed::variants(
            &self.app(self.store()),
            &self.app(self.store().observer(observed::metrics())),
            &self.app(self.store().seal(keyring())),
            &Hinted {
                memory: self.app(self.store().hint(observed::memory())),
                redis: observed::redis().map(|redis| self.app(self.store().hint(redis))),
            },
        )
    }

    async fn reset(&self) {
        if let Some(network) = &self.network {
            network.adjust().await;
        }
        let empty = format!("TRUNCATE {TABLES}");
        sqlx::raw_sql(AssertSqlSafe(empty)).execute(&self.pool).await.expect("empty");
        send(&self.app(self.store()), "/attribute", "template", "template", false).await;
        let (owners, key_hashes) = finished();
        sqlx::query(POSTGRES_FINISHED).bind(owners).bind(key_hashes).execute(&self.pool).await.expect("records");
        // Vacuum cannot run in a transaction, so each statement is sent by itself.
        for sql in [POSTGRES_OTHERS.to_owned(), format!("VACUUM ANALYZE {TABLES}"), "CHECKPOINT".to_owned()] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect("a statement between rounds");
        }
    }

    async fn facts(&self) -> String {
        let mut facts = Vec::new();
        for setting in ["server_version", "fsync", "synchronous_commit", "shared_buffers"] {
            let value = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&self.pool).await;
            facts.push(format!("{setting} {}", value.unwrap_or_else(|_| "unknown".to_owned())));
        }
        let way = match &self.network {
            None => format!("over {}", self.server.get_host()),
            Some(network) => {
                let Spread { median, lower, upper } = network.measured();
                let loopback = network.loopback;
                format!(
                    "through a proxy: `SELECT 1` took {median:.2} ms ({lower:.2}–{upper:.2}) before the rounds, and \
                     {loopback:.2} ms without the proxy"
                )
            }
        };
        format!("Postgres: {}, {way}, a pool of 32", facts.join(", "))
    }
}

async fn on_server(server: &PgConnectOptions, sql: String) {
    let mut connection = PgConnection::connect_with(server).await.expect("the server of IDEM_TEST_POSTGRES");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("an administrative statement");
    connection.close().await.expect("a clean close");
}

const TABLES: &str = "payments, idempotency_keys, idempotency_leases, idem_records, idem_journal";

/// Autovacuum off: it would run in some slices and not in others.
const POSTGRES_TABLES: &str = "
CREATE TABLE payments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner text NOT NULL,
    customer_id text NOT NULL,
    amount bigint NOT NULL,
    currency text NOT NULL
);
CREATE TABLE idempotency_keys (
    owner text NOT NULL,
    operation text NOT NULL,
    key_hash bytea NOT NULL,
    request_hash bytea NOT NULL,
    state text NOT NULL,
    status smallint,
    headers bytea,
    body bytea,
    created_at timestamptz NOT NULL,
    completed_at timestamptz,
    expires_at timestamptz,
    PRIMARY KEY (owner, operation, key_hash)
);
CREATE INDEX ON idempotency_keys (expires_at);
CREATE TABLE idempotency_leases (
    owner text NOT NULL,
    operation text NOT NULL,
    key_hash bytea NOT NULL,
    request_hash bytea NOT NULL,
    token bytea NOT NULL,
    lease_until timestamptz,
    status smallint,
    headers bytea,
    body bytea,
    created_at timestamptz NOT NULL,
    completed_at timestamptz,
    expires_at timestamptz,
    PRIMARY KEY (owner, operation, key_hash)
);
CREATE INDEX ON idempotency_leases (expires_at);
ALTER TABLE payments SET (autovacuum_enabled = off);
ALTER TABLE idempotency_keys SET (autovacuum_enabled = off);
ALTER TABLE idempotency_leases SET (autovacuum_enabled = off);
ALTER TABLE idem_records SET (autovacuum_enabled = off);
ALTER TABLE idem_journal SET (autovacuum_enabled = off)";

const POSTGRES_FINISHED: &str = "
INSERT INTO idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
     created_at, completed_at, expires_at)
SELECT finished.owner, operation, finished.key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
    created_at, completed_at, expires_at
FROM idem_records, unnest($1::text[], $2::bytea[]) AS finished (owner, key_hash)";

const POSTGRES_OTHERS: &str = "
INSERT INTO idempotency_keys
SELECT scope, operation, key_hash, fingerprint, 'completed', status, headers, body, created_at, completed_at, expires_at
FROM idem_records;
INSERT INTO idempotency_leases
SELECT scope, operation, key_hash, fingerprint, claim, NULL, status, headers, body, created_at, completed_at, expires_at
FROM idem_records;
INSERT INTO idem_journal
    (scope, operation, key_hash, claim, position, name, kind, format, headers, body, attempt, created_at)
SELECT scope, operation, key_hash, claim, 0, 'insert', 1, format, '', body, attempt, created_at
FROM idem_records;
INSERT INTO payments (owner, customer_id, amount, currency)
SELECT scope, 'c1', 4200, 'USD'
FROM idem_records";

pub(crate) struct Sqlite {
    _folder: TempDir,
    pool: SqlitePool,
    app: Router,
    /// The same over a store that does not let the pool ask for a sign of life.
    unasked: Router,
    /// The same over a store that is observed, and over one that encrypts.
    observed: [Router; 2],
    /// The same over stores with hints.
    hinted: Hinted,
}

impl Sqlite {
    /// Creates a database in a temporary folder.
    pub(crate) async fn create() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("bench.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().max_connections(8).connect_with(options).await.expect("a new file");
        let store = SqliteStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        sqlx::raw_sql(SQLITE_TABLES).execute(&pool).await.expect("the application's tables");
        let app = |store| {
            let pool = pool.clone();
            Router::new()
                .route("/bare", post(sqlite::bare))
                .route("/bound", post(sqlite::bound))
                .route("/by-hand", post(sqlite::by_hand))
                .route("/attribute", post(sqlite::attribute))
                .route("/leased-by-hand", post(sqlite::leased_by_hand))
                .route("/leased", post(sqlite::leased))
                .route("/leased-step", post(sqlite::leased_step))
                .with_state(sqlite::App { pool, store })
        };
        let unasked = SqliteStore::builder(pool.clone()).ping(false).build();
        let observed = SqliteStore::builder(pool.clone()).observer(observed::metrics()).build();
        let sealed = SqliteStore::builder(pool.clone()).seal(keyring()).build();
        let over = |hinted: idem_sqlx::SqliteStoreBuilder| app(hinted.build());
        let hinted = Hinted {
            memory: over(SqliteStore::builder(pool.clone()).hint(observed::memory())),
            redis: observed::redis().map(|redis| over(SqliteStore::builder(pool.clone()).hint(redis))),
        };
        let (observed, app, unasked) = ([app(observed), app(sealed)], app(store), app(unasked));
        Self { _folder: folder, pool, app, unasked, observed, hinted }
    }
}

impl Database for Sqlite {
    fn variants(&self) -> Vec<Variant> {
        let usual = &self.app;
        vec![
            Variant::new("bare", usual, "/bare", Keys::Fresh),
            Variant::new("bound", usual, "/bound", Keys::Fresh),
            Variant::new("by hand", usual, "/by-hand", Keys::Fresh),
            Variant::new("attribute", usual, "/attribute", Keys::Fresh),
            Variant::new("attribute, no ping", &self.unasked, "/attribute", Keys::Fresh),
            Variant::new("its replay", usual, "/attribute", Keys::Again),
            Variant::new("its replay, elsewhere", usual, "/attribute", Keys::Finished),
            Variant::new("leased by hand", usual, "/leased-by-hand", Keys::Fresh),
            Variant::new("leased, no step", usual, "/leased", Keys::Fresh),
            Variant::new("leased, one step", usual, "/leased-step", Keys::Fresh),
        ]
    }

    fn observed(&self) -> Vec<Variant> {
        let [metrics, sealed] = &self.observed;
        observed::variants(&self.app, metrics, sealed, &self.hinted)
    }

    async fn reset(&self) {
        let empty = "DELETE FROM payments; DELETE FROM idempotency_keys; DELETE FROM idempotency_leases;
            DELETE FROM idem_records; DELETE FROM idem_journal";
        sqlx::raw_sql(empty).execute(&self.pool).await.expect("empty");
        send(&self.app, "/attribute", "template", "template", false).await;
        let mut tx = self.pool.begin().await.expect("a transaction");
        let (owners, key_hashes) = finished();
        for (owner, key_hash) in owners.into_iter().zip(key_hashes) {
            sqlx::query(SQLITE_FINISHED).bind(owner).bind(key_hash).execute(&mut *tx).await.expect("a record");
        }
        sqlx::raw_sql(SQLITE_OTHERS).execute(&mut *tx).await.expect("the other tables");
        tx.commit().await.expect("records");
        let tidy = "ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)";
        sqlx::raw_sql(tidy).execute(&self.pool).await.expect("a statement between rounds");
    }

    async fn facts(&self) -> String {
        let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&self.pool).await;
        let version: String = version.expect("SQLite's version");
        format!("SQLite: {version}, journal_mode wal, synchronous full, a pool of 8")
    }
}

const SQLITE_TABLES: &str = "
CREATE TABLE payments (
    id integer PRIMARY KEY,
    owner text NOT NULL,
    customer_id text NOT NULL,
    amount integer NOT NULL,
    currency text NOT NULL
);
CREATE TABLE idempotency_keys (
    owner text NOT NULL,
    operation text NOT NULL,
    key_hash blob NOT NULL,
    request_hash blob NOT NULL,
    state text NOT NULL,
    status integer,
    headers blob,
    body blob,
    created_at integer NOT NULL,
    completed_at integer,
    expires_at integer,
    PRIMARY KEY (owner, operation, key_hash)
);
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
CREATE TABLE idempotency_leases (
    owner text NOT NULL,
    operation text NOT NULL,
    key_hash blob NOT NULL,
    request_hash blob NOT NULL,
    token blob NOT NULL,
    lease_until integer,
    status integer,
    headers blob,
    body blob,
    created_at integer NOT NULL,
    completed_at integer,
    expires_at integer,
    PRIMARY KEY (owner, operation, key_hash)
);
CREATE INDEX idempotency_leases_expires_at ON idempotency_leases (expires_at)";

const SQLITE_FINISHED: &str = "
INSERT INTO idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
     created_at, completed_at, expires_at)
SELECT $1, operation, $2, fingerprint, state, claim, attempt, format, status, headers, body,
    created_at, completed_at, expires_at
FROM idem_records
WHERE scope = 'template'";

const SQLITE_OTHERS: &str = "
INSERT INTO idempotency_keys
SELECT scope, operation, key_hash, fingerprint, 'completed', status, headers, body, created_at, completed_at, expires_at
FROM idem_records;
INSERT INTO idempotency_leases
SELECT scope, operation, key_hash, fingerprint, claim, NULL, status, headers, body, created_at, completed_at, expires_at
FROM idem_records;
INSERT INTO idem_journal
    (scope, operation, key_hash, claim, position, name, kind, format, headers, body, attempt, created_at)
SELECT scope, operation, key_hash, claim, 0, 'insert', 1, format, '', body, attempt, created_at
FROM idem_records;
INSERT INTO payments (owner, customer_id, amount, currency)
SELECT scope, 'c1', 4200, 'USD'
FROM idem_records";

/// Owners and key hashes of the finished records, side by side.
fn finished() -> (Vec<String>, Vec<Vec<u8>>) {
    (0..FINISHED).map(|key| (owner(key), Sha256::digest(key_text(key)).to_vec())).unzip()
}
