//! The checks of a Postgres database, in their order.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, FromRow, PgPool};

use super::{Finding, Report, check, index, migrations, records, server, statements, tables};
use crate::args::{Doctor, Options};
use crate::database::Database;
use crate::failure::Failure;

/// What the checks look at.
pub(super) struct Patient<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) asked: &'a Doctor,
    /// The ids of the keys of the application's keyring.
    pub(super) key_ids: &'a [u32],
    /// The schema of the tables, as it is stored.
    pub(super) schema: String,
    pub(super) has_named_schema: bool,
    /// The role of the application.
    pub(super) role: String,
}

pub(super) async fn check(
    database: &Database,
    pool: &PgPool,
    asked: &Doctor,
    options: &Options,
    report: &mut Report,
) -> Result<(), Failure> {
    let who: (String, Option<String>) =
        one(pool, "SELECT current_user::text, current_schema()::text".to_owned(), &[]).await?;
    let patient = &Patient {
        pool,
        asked,
        key_ids: &options.key_id,
        schema: options.schema.clone().or(who.1).unwrap_or_default(),
        has_named_schema: options.schema.is_some(),
        role: asked.role.clone().unwrap_or(who.0),
    };
    check!(report, patient, server: version primary pooler clock isolation commits idle_transactions dead_hosts);
    let migrated = migrations(database, options).await;
    // Without the right to read the list, the other checks say what is missing.
    let are_there = migrated.as_ref().map_or(true, |(_, are_there)| *are_there);
    report.add("migrations", migrated.map(|(finding, _)| finding))?;
    if are_there {
        check!(report, patient, tables: grants secret autovacuum hot_updates);
        report.add("index", index(database, options).await)?;
        report.add("statements", statements(database).await)?;
        check!(report, database, records: backlog abandoned stuck);
        check!(report, patient, tables: owed sealed);
    }
    Ok(())
}

impl Patient<'_> {
    /// The schema in quotes, as a statement needs it.
    pub(super) fn quoted_schema(&self) -> String {
        quoted(&self.schema)
    }

    pub(super) async fn all<T>(&self, sql: String, texts: &[&str]) -> Result<Vec<T>, Failure>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        all(self.pool, sql, texts).await
    }

    pub(super) async fn one<T>(&self, sql: impl Into<String>, texts: &[&str]) -> Result<T, Failure>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        one(self.pool, sql.into(), texts).await
    }

    /// A setting as the application's role gets it in this database.
    pub(super) async fn setting(&self, name: &str) -> Result<String, Failure> {
        const SETTING: &str = "
            SELECT coalesce((
                SELECT substr(entry, strpos(entry, '=') + 1)
                FROM pg_catalog.pg_db_role_setting AS given, unnest(given.setconfig) AS entry
                WHERE split_part(entry, '=', 1) = $1::text
                    AND given.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $2::text))
                    AND given.setdatabase IN (
                        0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                    )
                ORDER BY given.setrole <> 0 DESC, given.setdatabase <> 0 DESC
                LIMIT 1
            ), current_setting($1::text))";
        let (value,): (String,) = self.one(SETTING, &[name, &self.role]).await?;
        Ok(value)
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn one<T>(pool: &PgPool, sql: String, texts: &[&str]) -> Result<T, Failure>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    all(pool, sql, texts).await?.pop().ok_or_else(|| sqlx::Error::RowNotFound.into())
}

/// In a transaction and without a name, so that a pooler passes it on. The server ends what takes long.
async fn all<T>(pool: &PgPool, sql: String, texts: &[&str]) -> Result<Vec<T>, Failure>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut transaction = pool.begin().await?;
    transaction.execute("SET LOCAL statement_timeout = '15s'").await?;
    let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(false);
    for text in texts {
        query = query.bind(*text);
    }
    let rows = query.fetch_all(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(rows)
}

/// A number of something, and what it is.
pub(super) fn several(number: i64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// The finding for a role that a check needs and that is not there.
pub(super) fn no_role(role: &str) -> Finding {
    Finding::fail(format!("there is no role {}", quoted(role)), "check --role")
}
