//! The checks of a file of SQLite.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, SqlitePool};

use super::{Finding, Report, check, index, migrations, records, sqlite, statements};
use crate::args::Options;
use crate::database::Database;
use crate::exit::Exit;
use crate::failure::Failure;

/// What the checks look at.
struct Patient<'a> {
    pool: &'a SqlitePool,
    /// The ids of the keys of the application's keyring.
    key_ids: &'a [u32],
}

pub(super) async fn check(
    database: &Database,
    pool: &SqlitePool,
    options: &Options,
    report: &mut Report,
) -> Result<(), Failure> {
    let patient = &Patient { pool, key_ids: &options.key_id };
    check!(report, patient, sqlite: intact writable journal_mode);
    let (migrated, are_there) = migrations(database, options).await?;
    report.add("migrations", Ok(migrated))?;
    if are_there {
        report.add("index", index(database, options).await)?;
        report.add("statements", statements(database).await)?;
        check!(report, database, records: backlog abandoned stuck);
        check!(report, patient, sqlite: owed sealed);
    }
    Ok(())
}

impl Patient<'_> {
    async fn one<T>(&self, sql: &'static str) -> Result<T, Failure>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        Ok(sqlx::query_as(sql).fetch_one(self.pool).await?)
    }
}

async fn intact(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let (answer,): (String,) = patient.one("PRAGMA quick_check(1)").await?;
    Ok(if answer == "ok" {
        Finding::ok("the file is intact")
    } else {
        Finding::fail("the file is damaged", "restore a backup of the whole file: records and effects belong together")
    })
}

/// By a write that is rolled back. SQLite gives a file that only reads the write lock, and refuses the write.
async fn writable(patient: &Patient<'_>) -> Result<Finding, Failure> {
    Ok(match write(patient.pool).await.map_err(Failure::from) {
        Ok(()) => Finding::ok("the file can be written"),
        Err(failure) if failure.exit == Exit::ReadOnly => Finding::fail(
            "the file cannot be written",
            "give the process the right to write the file and its folder, or leave `mode=ro` out of the URL",
        ),
        Err(failure) if failure.exit == Exit::Busy => Finding::warn(
            "another process keeps the write lock for longer than 5 seconds",
            "look for a handler that hangs, and give handlers a `deadline`",
        ),
        Err(failure) => return Err(failure),
    })
}

async fn write(pool: &SqlitePool) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql("CREATE TABLE main.idem_doctor (x integer)").execute(&mut *transaction).await?;
    transaction.rollback().await
}

async fn journal_mode(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let (mode,): (String,) = patient.one("PRAGMA journal_mode").await?;
    Ok(if mode == "wal" {
        Finding::ok("readers and the writer do not wait for each other (WAL)")
    } else {
        Finding::warn(
            format!("the journal mode is {mode}: replays wait for each writer"),
            "PRAGMA journal_mode = WAL, once for the file",
        )
    })
}

async fn owed(patient: &Patient<'_>) -> Result<Finding, Failure> {
    const OWED: &str = "
        SELECT
            (SELECT count(*) FROM (SELECT DISTINCT scope, operation, key_hash FROM owed WHERE kind = 3)),
            (SELECT count(*) FROM (SELECT DISTINCT scope, operation, key_hash FROM owed WHERE kind = 6))
        FROM (SELECT 1)";
    const RUNS: &str = "
        WITH owed AS (
            SELECT scope, operation, key_hash, entry.kind
            FROM main.idem_journal AS entry JOIN main.idem_records AS record USING (scope, operation, key_hash)
            WHERE entry.kind IN (3, 6)
                AND record.state >= 4
                AND record.lease_until <= CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
                AND record.expires_at > CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
        )";
    let query = sqlx::query_as(AssertSqlSafe(format!("{RUNS}{OWED}")));
    let (undos, calls): (i64, i64) = query.fetch_one(patient.pool).await?;
    Ok(records::owed(undos, calls))
}

async fn sealed(patient: &Patient<'_>) -> Result<Finding, Failure> {
    if patient.key_ids.is_empty() {
        return Ok(records::not_asked());
    }
    const SEALED: &str = "
        SELECT key, count(*)
        FROM (
            SELECT hex(substr(body, 2, 4)) AS key FROM main.idem_records WHERE format >= 256 AND length(body) > 4
            UNION ALL
            SELECT hex(substr(body, 2, 4)) FROM main.idem_journal WHERE format >= 256 AND length(body) > 4
            UNION ALL
            SELECT hex(substr(body, 3, 4)) FROM main.idem_journal
            WHERE position = -1 AND length(body) > 5 AND hex(substr(body, 1, 1)) = '01'
        )
        GROUP BY key
        ORDER BY key";
    let contents: Vec<(String, i64)> = sqlx::query_as(SEALED).fetch_all(patient.pool).await?;
    Ok(records::sealed(&contents, patient.key_ids))
}
