//! Databases, and the command on them.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use idem_sqlx::{PgStore, SqliteStore};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, SqlitePool};
use tempfile::TempDir;

/// Runs each test once on Postgres and once on SQLite.
macro_rules! both {
    ($(async fn $name:ident($db:ident) $body:block)*) => {
        mod postgres {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    let $db = $crate::support::Db::Postgres($crate::support::Postgres::create().await);
                    $body
                }
            )*
        }

        mod sqlite {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    let $db = $crate::support::Db::Sqlite($crate::support::Sqlite::create().await);
                    $body
                }
            )*
        }
    };
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn expect(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "{self:?}");
        self
    }

    /// One line that says this.
    #[track_caller]
    pub fn says(self, exit: i32, words: &str) -> Self {
        let ended = self.expect(exit);
        assert_eq!((ended.err.lines().count(), ended.out.as_str()), (1, ""), "{ended:?}");
        assert!(ended.err.contains(words), "{ended:?}");
        ended
    }

    /// The result in JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What a check of `doctor` has found: its level, and all of its words.
    #[track_caller]
    pub fn check(&self, name: &str) -> (String, String) {
        let report = self.json();
        let checks = report["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["check"] == name);
        let check = check.unwrap_or_else(|| panic!("no check {name}: {report}"));
        let text = |part: &str| check[part].as_str().unwrap_or_default().to_owned();
        (text("level"), format!("{} -> {}", text("found"), text("advice")))
    }
}

/// The command on this database. Standard input is a pipe with this text.
pub fn idem_on(url: &str, arguments: &[&str], input: &str) -> Ended {
    let mut command = idem();
    command.env("DATABASE_URL", url);
    run(command, arguments, input)
}

pub fn idem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idem"));
    command.env_remove("DATABASE_URL").env_remove("PGOPTIONS");
    command
}

pub fn run(mut command: Command, arguments: &[&str], input: &str) -> Ended {
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command");
    // A command that reads no key has gone away by now, maybe.
    let _unread = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("an end");
    Ended {
        exit: status.code().expect("no signal"),
        out: String::from_utf8(stdout).expect("UTF-8"),
        err: String::from_utf8(stderr).expect("UTF-8"),
    }
}

/// A database with the store's tables.
pub enum Db {
    Postgres(Postgres),
    Sqlite(Sqlite),
}

pub struct Postgres {
    name: String,
    pub pool: PgPool,
}

pub struct Sqlite {
    folder: TempDir,
    pub pool: SqlitePool,
}

/// A record as a test inserts it.
pub struct Record<'a> {
    pub scope: &'a str,
    pub key: &'a str,
    /// As `idem_records` has it.
    pub state: i16,
    /// When the lease ends, in seconds from now.
    pub lease: Option<i64>,
    /// When it expires, in seconds from now.
    pub expires: i64,
}

impl Default for Record<'_> {
    /// A stored reply.
    fn default() -> Self {
        Self { scope: "ada", key: "k", state: 2, lease: None, expires: 3600 }
    }
}

pub const COMPLETED: i16 = 2;
pub const LEASED: i16 = 4;
pub const REJECTED: i16 = 5;

/// How the operation of all records is called.
pub const OPERATION: &str = "payments.create";

/// The arguments that name the record, after the command.
pub fn of<'a>(command: &'a str, scope: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command, "--scope", scope, "--operation", OPERATION], more].concat()
}

impl Db {
    pub fn url(&self) -> String {
        match self {
            Self::Postgres(db) => db.url(),
            Self::Sqlite(db) => db.url(""),
        }
    }

    pub fn idem(&self, arguments: &[&str]) -> Ended {
        self.idem_with(arguments, "k\n")
    }

    pub fn idem_with(&self, arguments: &[&str], input: &str) -> Ended {
        idem_on(&self.url(), arguments, input)
    }

    pub async fn execute(&self, sql: &str) {
        match self {
            Self::Postgres(db) => db.execute(sql).await,
            Self::Sqlite(db) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db.pool).await.expect(sql);
            }
        }
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql);
        let number = match self {
            Self::Postgres(db) => sqlx::query_scalar(sql).fetch_one(&db.pool).await,
            Self::Sqlite(db) => sqlx::query_scalar(sql).fetch_one(&db.pool).await,
        };
        number.expect("a number")
    }

    pub async fn records(&self) -> i64 {
        self.number("SELECT count(*) FROM idem_records").await
    }

    /// So many seconds from now.
    pub fn time(&self, seconds: i64) -> String {
        match self {
            Self::Postgres(_) => format!("now() + interval '{seconds} s'"),
            Self::Sqlite(_) => {
                format!("CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) + {seconds} * 1000000")
            }
        }
    }

    pub fn bytes(&self, hex: &str) -> String {
        match self {
            Self::Postgres(_) => format!("'\\x{hex}'::bytea"),
            Self::Sqlite(_) => format!("x'{hex}'"),
        }
    }

    pub async fn insert(&self, record: &Record<'_>) {
        let Record { scope, key, state, lease, expires } = *record;
        let lease = lease.map_or("NULL".to_owned(), |lease| self.time(lease));
        let is_over = state < LEASED;
        let done = if is_over { self.time(-60) } else { "NULL".to_owned() };
        let reply = |hex| if is_over { self.bytes(hex) } else { "NULL".to_owned() };
        self.execute(&format!(
            "INSERT INTO idem_records (scope, operation, key_hash, fingerprint, state, claim, attempt, released,
                lease_until, format, status, headers, body, created_at, completed_at, expires_at)
            VALUES ('{scope}', '{OPERATION}', {}, {}, {state}, {}, 1, 0, {lease}, 1, {}, {}, {}, {}, {done}, {})",
            self.bytes(&hash_of(key)),
            self.bytes(&format!("01{}", "00".repeat(32))),
            self.bytes(&"07".repeat(16)),
            if is_over { "201" } else { "NULL" },
            reply(""),
            reply("7b7d"),
            self.time(-60),
            self.time(expires),
        ))
        .await;
    }

    /// An entry in the journal of the record of `ada` and `k`. Kind 3 is a rejection, 6 a started call.
    pub async fn insert_entry(&self, position: i32, kind: i16, name: &str) {
        self.execute(&format!(
            "INSERT INTO idem_journal (scope, operation, key_hash, position, kind, name, claim, attempt, created_at)
            VALUES ('ada', '{OPERATION}', {}, {position}, {kind}, '{name}', {}, 1, {})",
            self.bytes(&hash_of("k")),
            self.bytes(&"07".repeat(16)),
            self.time(-60),
        ))
        .await;
    }

    /// All of the store's tables, as one text.
    pub async fn stored(&self) -> String {
        let mut stored = String::new();
        for table in ["idem_records", "idem_journal", "idem_migrations"] {
            stored += &match self {
                Self::Postgres(db) => {
                    let rows =
                        format!("SELECT coalesce(string_agg(r::text, ' ' ORDER BY r::text), '') FROM {table} AS r");
                    sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_one(&db.pool).await.expect("rows")
                }
                Self::Sqlite(db) => {
                    let columns = format!(
                        "SELECT group_concat('quote(' || name || ')', ' || ') FROM pragma_table_info('{table}')"
                    );
                    let columns: String =
                        sqlx::query_scalar(AssertSqlSafe(columns)).fetch_one(&db.pool).await.expect("columns");
                    let rows = format!(
                        "SELECT coalesce(group_concat(r, ' '), '') FROM (SELECT {columns} AS r FROM {table} ORDER BY 1)"
                    );
                    sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_one(&db.pool).await.expect("rows")
                }
            };
        }
        stored
    }
}

/// As the store computes it.
pub fn hash_of(key: &str) -> String {
    let key = idem_core::Key::of(key).expect("a key").expect("not blank");
    key.hash().iter().map(|byte| format!("{byte:02x}")).collect()
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn server() -> PgConnectOptions {
    let url = std::env::var("IDEM_TEST_POSTGRES")
        .expect("IDEM_TEST_POSTGRES names a Postgres server for tests; `cargo xtask test` starts one");
    url.parse().expect("IDEM_TEST_POSTGRES is a postgres:// URL")
}

pub async fn on_server(sql: String) {
    let mut connection = PgConnection::connect_with(&server()).await.expect("the server of IDEM_TEST_POSTGRES");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("an administrative statement");
    connection.close().await.expect("a clean close");
}

/// The URL of a database behind a server or a pooler, which the variable names.
fn url(variable: &str, database: &str) -> Option<String> {
    let url = std::env::var(variable).ok().filter(|url| !url.is_empty())?;
    let (server, parameters) = url.split_once('?').map_or((url.as_str(), ""), |(server, more)| (server, more));
    let (server, _) = server.rsplit_once('/').expect("a database in the URL");
    Some(format!("{server}/{database}?{parameters}"))
}

impl Postgres {
    pub async fn create() -> Self {
        let db = Self::empty().await;
        PgStore::new(db.pool.clone()).migrate().await.expect("tables");
        db
    }

    pub async fn empty() -> Self {
        let name = format!("idem_cli_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        on_server(format!("CREATE DATABASE {name}")).await;
        let pool = PgPool::connect_with(server().database(&name)).await.expect("the test's database");
        Self { name, pool }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        url("IDEM_TEST_POSTGRES", &self.name).expect("a server")
    }

    /// Through the pooler, if there is one.
    pub fn pooled_url(&self) -> Option<String> {
        url("IDEM_TEST_PGBOUNCER", &self.name)
    }

    /// With settings of the connection, such as `lock_timeout=100ms`.
    pub fn url_with(&self, setting: &str) -> String {
        format!("{}&options=-c%20{}", self.url(), setting.replace('=', "%3D"))
    }

    /// As another role, which logs in without a password.
    pub fn url_as(&self, role: &str) -> String {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        format!("{scheme}://{role}@{place}")
    }

    /// A role that may log in, and has no rights. It is dropped with the database.
    pub async fn role(&self) -> String {
        let role = format!("{}_role", self.name);
        on_server(format!("CREATE ROLE {role} LOGIN")).await;
        role
    }

    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect(sql);
    }

    pub fn doctor(&self, arguments: &[&str]) -> Ended {
        idem_on(&self.url(), &[&["doctor", "--json"], arguments].concat(), "")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let name = self.name.clone();
        // A test's runtime cannot be waited for in its own drop.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                on_server(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
                on_server(format!("DROP ROLE IF EXISTS {name}_role")).await;
            });
        });
        let _failed_already = dropping.join();
    }
}

impl Sqlite {
    pub async fn create() -> Self {
        let db = Self::empty().await;
        SqliteStore::new(db.pool.clone()).migrate().await.expect("tables");
        db
    }

    pub async fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("shop.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("a file");
        Self { folder, pool }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self, parameters: &str) -> String {
        format!("sqlite://{}{parameters}", self.folder.path().join("shop.db").display())
    }
}
