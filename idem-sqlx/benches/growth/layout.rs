//! The layouts of the table, each in a schema of its own.

use std::process;

use idem_sqlx::PgStore;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// What makes it of the migrated table.
    change: &'static str,
    /// Whether the table is full of records.
    big: bool,
}

/// The first one is what the others are compared with.
pub(crate) const LAYOUTS: [Layout; 9] = [
    Layout { name: "as migrated", change: "", big: false },
    Layout { name: "as migrated, big", change: "", big: true },
    Layout { name: "fillfactor 60", change: "ALTER TABLE idem_records SET (fillfactor = 60)", big: false },
    Layout { name: "fillfactor 80", change: "ALTER TABLE idem_records SET (fillfactor = 80)", big: false },
    Layout { name: "fillfactor 90", change: "ALTER TABLE idem_records SET (fillfactor = 90)", big: false },
    Layout { name: "fillfactor 100", change: "ALTER TABLE idem_records SET (fillfactor = 100)", big: false },
    Layout { name: "BRIN", change: BRIN, big: false },
    Layout { name: "BRIN, big", change: BRIN, big: true },
    Layout { name: "texts first", change: TEXTS_FIRST, big: false },
];

const BRIN: &str = "DROP INDEX idem_records_expires_at;
    CREATE INDEX idem_records_expires_at ON idem_records USING brin (expires_at)";

/// In the order in which one would write the columns down. Numbers and times are aligned after each text.
const TEXTS_FIRST: &str = "ALTER TABLE idem_records RENAME TO other;
    ALTER TABLE other RENAME CONSTRAINT idem_records_pkey TO other_pkey;
    ALTER INDEX idem_records_expires_at RENAME TO other_expires_at;
    CREATE TABLE idem_records WITH (fillfactor = 60) AS
    SELECT scope, operation, key_hash, fingerprint, state, claim, attempt, released, lease_until, format, status,
        headers, body, created_at, completed_at, expires_at
    FROM other;
    ALTER TABLE idem_records ALTER COLUMN scope TYPE text COLLATE \"C\", ALTER COLUMN operation TYPE text COLLATE \"C\";
    ALTER TABLE idem_records ALTER COLUMN released SET DEFAULT 0;
    ALTER TABLE idem_records ADD CONSTRAINT idem_records_pkey PRIMARY KEY (scope, operation, key_hash);
    CREATE INDEX idem_records_expires_at ON idem_records (expires_at)";

/// A database for this run, and nothing else.
pub(crate) struct Scratch {
    server: PgConnectOptions,
    database: String,
    pool: PgPool,
}

/// One table with its store.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) store: PgStore,
    schema: String,
    big: bool,
    pool: PgPool,
}

impl Scratch {
    pub(crate) async fn create(url: &str) -> Self {
        let server: PgConnectOptions = url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL");
        let database = format!("idem_bench_growth_{}", process::id());
        on_server(&server, format!("CREATE DATABASE {database}")).await;
        let options = PgPoolOptions::new().max_connections(32);
        let pool = options.connect_with(server.clone().database(&database)).await.expect("the new database");
        let payments = "CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint)";
        sqlx::raw_sql(payments).execute(&pool).await.expect("the application's table");
        Self { server, database, pool }
    }

    pub(crate) async fn table(&self, place: usize, layout: &Layout, records: u64) -> Table {
        let schema = format!("layout_{place}");
        let store = PgStore::builder(self.pool.clone()).schema(&schema).build();
        store.migrate().await.expect("the store's tables");
        let &Layout { name, change, big } = layout;
        let table = Table { name, store, schema, big, pool: self.pool.clone() };
        table.run(change).await;
        // It would run in some windows and not in others.
        table.run("ALTER TABLE idem_records SET (autovacuum_enabled = off)").await;
        if big {
            table.run(&format!("{FILL} FROM generate_series(1, {records}) AS n, {TIMES}")).await;
        }
        table
    }

    pub(crate) async fn drop(self) {
        self.pool.close().await;
        on_server(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.database)).await;
    }
}

impl Table {
    /// Runs statements in the table's schema, on a connection that is closed afterwards.
    async fn run(&self, sql: &str) {
        let mut connection = self.pool.acquire().await.expect("a connection").detach();
        let sql = format!("SET search_path TO {}; {sql}", self.schema);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a change of the table");
        connection.close().await.expect("a clean close");
    }

    /// Empties a small table but for a few records: for a table that was empty when it was vacuumed, Postgres plans to
    /// read the whole table, until the next vacuum. Vacuum cannot run in a transaction, so each statement is sent by
    /// itself.
    pub(crate) async fn reset(&self) {
        if !self.big {
            self.run(&format!("TRUNCATE idem_records; {FILL} FROM generate_series(1, {FEW}) AS n, {TIMES}")).await;
        }
        let table = self.named();
        let forget = format!("SELECT pg_stat_reset_single_table_counters(regclass '{table}')");
        for sql in [format!("VACUUM ANALYZE {table}"), forget, "CHECKPOINT".to_owned()] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect("a statement before the rounds");
        }
    }

    fn named(&self) -> String {
        format!("{}.idem_records", self.schema)
    }

    /// Bytes a record of the table and of its two indexes, and the share of the updates that were heap-only.
    pub(crate) async fn sizes(&self) -> [f64; 4] {
        let table = self.named();
        let sql = format!(
            "SELECT pg_relation_size('{table}')::float8 / records, pg_relation_size('{table}_pkey')::float8 / records,
                pg_relation_size('{table}_expires_at')::float8 / records, heap_only
            FROM (SELECT count(*)::float8 AS records FROM {table}) AS counted,
                (SELECT n_tup_hot_upd::float8 / greatest(n_tup_upd, 1) AS heap_only
                FROM pg_stat_user_tables WHERE relid = regclass '{table}') AS updated"
        );
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let (heap, primary, expiry, heap_only) = query.fetch_one(&self.pool).await.expect("sizes");
        [heap, primary, expiry, heap_only]
    }
}

/// Records in a small table at the start.
const FEW: u64 = 10_000;

const FILL: &str = "
INSERT INTO idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
     created_at, completed_at, expires_at)
SELECT 'user-' || left(md5(n::text), 12), 'payments.create', sha256(n::text::bytea), sha256(n::text::bytea), 2,
    decode(md5(n::text), 'hex'), 1, 1, 201, '', convert_to(repeat('x', 300), 'UTF8'), at, at, at + interval '24 hours'";

const TIMES: &str = "LATERAL (SELECT now() - interval '1 hour' + n * interval '1 millisecond' AS at) AS times";

async fn on_server(server: &PgConnectOptions, sql: String) {
    let mut connection = PgConnection::connect_with(server).await.expect("the server of IDEM_TEST_POSTGRES");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("an administrative statement");
    connection.close().await.expect("a clean close");
}
