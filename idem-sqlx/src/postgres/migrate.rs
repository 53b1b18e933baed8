//! The tables.

use idem_core::{Error, Kind};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::sleep;

use super::error::is_created_meanwhile;
use super::far::Distance;
use super::schema::Schema;
use super::session::Session;
use super::store::{Isolation, Locks, PgStore};
use crate::accepted::Migrations;
use crate::error::{caused, store_error};
use crate::migrate::migrate;
use crate::migrations::{Migration, migrations};
use crate::retry;

/// In order. A file is never edited after a release.
const MIGRATIONS: &[Migration] = &migrations!["postgres":
    "20261122000001_create_idem_records",
    "20261122000002_create_idem_journal",
];

/// For a store that is [far](Distance::Far) from its database, after the others.
const FAR_MIGRATIONS: &[Migration] = &migrations!["postgres-far": "20261129000001_create_idem_functions",];

/// The advisory lock that every migrating process takes: the word `idem` in ASCII.
const LOCK: i64 = 0x6964_656d;

impl PgStore {
    /// Creates and alters the store's tables, as far as this has not been done.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), idem_core::Error> {
    /// idem_sqlx::PgStore::new(pool).migrate().await
    /// # }
    /// ```
    ///
    /// # Rules
    /// - Any number of processes may call it at once, at every start. They take an advisory lock. With
    ///   [`Locks::None`](crate::Locks::None) a process that has met another one tries again.
    /// - If nothing has to be done, it only reads `idem_migrations`. A role without any right to create is enough then.
    /// - It creates the named [schema](crate::PgStoreBuilder::schema) if that is missing.
    /// - It never touches the application's `_sqlx_migrations`. To run the store's migrations together with your own,
    ///   copy the files of `migrations/postgres` from this crate's source into your migrations folder, unedited and
    ///   under their names: sqlx compares checksums. At each upgrade of `idem-sqlx`, copy the new files and run them
    ///   before the new release serves requests. You may also call `migrate`, before or after: each file changes
    ///   nothing the second time, and records its name in `idem_migrations`.
    /// - For a store with a [`Distance`](crate::Distance) other than `Near` it also runs the file in
    ///   `migrations/postgres-far`, which creates two functions.
    /// - Copied files name no schema: they create their tables in the first schema of the `search_path` of the
    ///   connection that runs them. If the store has a named [schema](crate::PgStoreBuilder::schema), set `search_path`
    ///   to it on that connection.
    ///
    /// # Errors
    /// The database cannot be reached, or it refused a statement. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn migrate(&self) -> Result<(), Error> {
        let far = if self.inner().distance == Distance::Near { &[] } else { FAR_MIGRATIONS };
        let migrations = [MIGRATIONS, far].concat();
        if self.inner().locks == Locks::None {
            for pause in retry::pauses() {
                match migrate(self, &migrations).await {
                    Err(error) if error.kind() == Kind::RetryLater => sleep(pause).await,
                    migrated => return migrated,
                }
            }
        }
        migrate(self, &migrations).await
    }
}

impl PgStore {
    /// Compares the tables with this release, and changes nothing.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::PgStore) -> Result<(), idem_core::Error> {
    /// let migrations = store.migrations().await?;
    /// if !migrations.pending.is_empty() {
    ///     println!("not migrated yet: {:?}", migrations.pending);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The database cannot be reached, or the role may not read `idem_migrations`.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn migrations(&self) -> Result<Migrations, Error> {
        let is_far = self.inner().distance != Distance::Near;
        let wanted: Vec<_> = MIGRATIONS.iter().chain(FAR_MIGRATIONS.iter().filter(|_| is_far)).collect();
        let known: Vec<_> = MIGRATIONS.iter().chain(FAR_MIGRATIONS).collect();
        Ok(Migrations::new(&wanted, &known, self.migrated_files().await?, self.look_at_naming().await?))
    }

    /// The names of the files that have been run.
    pub(super) async fn migrated_files(&self) -> Result<Vec<String>, Error> {
        let mut session = Session::begin(self, &Isolation::ReadCommitted.begin()).await?;
        let schema = &self.inner().statements(&mut session.in_time()).await?.schema;
        let migrated = migrated(session.connection(), schema).await.map_err(store_error)?;
        session.rollback().await;
        Ok(migrated)
    }

    /// A transaction with the migration lock, in the schema of the tables, and the names of the files that have been
    /// run.
    pub(super) async fn begin_to_migrate(&self) -> Result<(Session, Vec<String>), Error> {
        let mut session = Session::begin(self, &Isolation::ReadCommitted.begin()).await?;
        let schema = &self.inner().statements(&mut session.in_time()).await?.schema;
        if self.inner().locks == Locks::Advisory {
            let lock = sqlx::query(LOCK_MIGRATIONS).persistent(false).bind(LOCK);
            lock.execute(session.connection()).await.map_err(store_error)?;
        }
        let migrated = migrated(session.connection(), schema).await.map_err(store_error)?;
        prepare(session.connection(), schema).await.map_err(not_created)?;
        Ok((session, migrated))
    }
}

/// The error of a statement that creates something. What another process has created meanwhile is there at the next try.
pub(super) fn not_created(error: sqlx::Error) -> Error {
    if is_created_meanwhile(&error) { caused(Kind::RetryLater, error) } else { store_error(error) }
}

/// The names of the files that have been run, by `migrate` or by the application's migrator.
async fn migrated(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<Vec<String>> {
    let is_there = sqlx::query_scalar(LIST_IS_THERE).persistent(false).bind(schema.name());
    if !is_there.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let names = schema.qualify(MIGRATED);
    sqlx::query_scalar(AssertSqlSafe(names)).persistent(false).fetch_all(connection).await
}

/// Sets the `search_path`, because the files name no schema, so that they can be copied. `pg_temp` comes last: a
/// temporary table does not hide a table of the store.
async fn prepare(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<()> {
    let is_there = sqlx::query_scalar(SCHEMA_IS_THERE).persistent(false).bind(schema.name());
    // `IF NOT EXISTS` needs the right to create even if the schema exists.
    if !is_there.fetch_one(&mut *connection).await? {
        let create = schema.qualify("CREATE SCHEMA {schema}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
    }
    // Otherwise Postgres would send a notice for each object that exists already.
    let set = schema.qualify("SET LOCAL search_path TO {schema}, pg_temp; SET LOCAL client_min_messages = warning");
    sqlx::raw_sql(AssertSqlSafe(set)).execute(connection).await.map(|_| ())
}

pub(super) const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_xact_lock($1::bigint)";

pub(super) const MIGRATED: &str = "SELECT name FROM {schema}.idem_migrations";

pub(super) const SCHEMA_IS_THERE: &str =
    "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1::name)";

pub(super) const LIST_IS_THERE: &str = "
SELECT EXISTS (
    SELECT 1
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = $1::name
        AND relname = 'idem_migrations'
)";

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPool};
    use sqlx::{Connection, Executor};

    use super::*;
    use crate::migrations::tests::{assert_are_in, assert_can_be_run_again, copied};

    #[test]
    fn r33_each_file_can_be_run_again() {
        assert_are_in(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres"), MIGRATIONS);
        assert_are_in(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres-far"), FAR_MIGRATIONS);
    }

    /// A migration of a later release.
    const LATER: Migration = Migration {
        name: "20270101000001_add_idem_notes",
        sql: "
            create table if not exists idem_migrations (name text primary key);
            insert into idem_migrations (name) values ('20270101000001_add_idem_notes') on conflict (name) do nothing;

            alter table idem_records add column if not exists note text",
    };

    #[tokio::test]
    async fn r33_the_file_of_a_later_release_can_come_either_way() {
        assert_can_be_run_again(&LATER);
        let later = [MIGRATIONS, &[LATER]].concat();
        let server = std::env::var("IDEM_TEST_POSTGRES").expect("a server for tests: `cargo xtask test` starts one");
        let server: PgConnectOptions = server.parse().unwrap();
        for store_first in [true, false] {
            let database = format!("idem_later_{store_first}_{}", std::process::id());
            let mut admin = PgConnection::connect_with(&server).await.unwrap();
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
            let pool = PgPool::connect_with(server.clone().database(&database)).await.unwrap();
            let store = PgStore::new(pool.clone());
            store.migrate().await.unwrap();
            let record = "INSERT INTO idem_records VALUES
                ('s', 'o', '', '', 2, '', 1, 0, NULL, 1, 201, '', '', now(), now(), now() + interval '1 hour')";
            sqlx::raw_sql(record).execute(&pool).await.unwrap();
            let (_copies, migrator) = copied(&later).await;
            let note = "UPDATE idem_records SET note = 'kept' WHERE note IS NULL";
            let mut written = 0;
            for store_next in [store_first, !store_first, store_first] {
                if store_next {
                    migrate(&store, &later).await.unwrap();
                } else {
                    migrator.run(&pool).await.unwrap();
                }
                written += sqlx::raw_sql(note).execute(&pool).await.unwrap().rows_affected();
                assert_eq!(written, 1, "what the first has let in, the others leave there");
            }
            let counts = "SELECT (SELECT count(*) FROM idem_records WHERE note = 'kept'),
                (SELECT count(*) FROM idem_migrations), (SELECT count(*) FROM _sqlx_migrations)";
            let counts: (i64, i64, i64) = sqlx::query_as(counts).fetch_one(&pool).await.unwrap();
            assert_eq!(counts, (1, 3, 3));
            pool.close().await;
            admin.execute(AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).await.unwrap();
        }
    }
}
