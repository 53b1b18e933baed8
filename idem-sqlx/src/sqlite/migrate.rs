//! The tables.

use idem_core::Error;
use sqlx::SqliteConnection;

use super::session::Session;
use super::store::SqliteStore;
use crate::accepted::Migrations;
use crate::error::store_error;
use crate::migrate::migrate;
use crate::migrations::{Migration, migrations};

/// In order. A file is never edited after a release.
const MIGRATIONS: &[Migration] = &migrations!["sqlite":
    "20261122000001_create_idem_records",
    "20261122000002_create_idem_journal",
];

impl SqliteStore {
    /// Creates and alters the store's tables, as far as this has not been done.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::SqlitePool) -> Result<(), idem_core::Error> {
    /// idem_sqlx::SqliteStore::new(pool).migrate().await
    /// # }
    /// ```
    ///
    /// # Rules
    /// - Any number of processes may call it at once, at every start.
    /// - If nothing has to be done, it only reads `idem_migrations`, and waits for no writer.
    /// - It never touches the application's `_sqlx_migrations`. To run the store's migrations together with your own,
    ///   copy the files of `migrations/sqlite` from this crate's source into your migrations folder, unedited and under
    ///   their names: sqlx compares checksums. At each upgrade of `idem-sqlx`, copy the new files and run them before
    ///   the new release serves requests. You may also call `migrate`, before or after: each file changes nothing the
    ///   second time, and records its name in `idem_migrations`.
    ///
    /// # Errors
    /// The database cannot be reached, or it refused a statement. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn migrate(&self) -> Result<(), Error> {
        migrate(self, MIGRATIONS).await
    }
}

impl SqliteStore {
    /// Compares the tables with this release, and changes nothing.
    ///
    /// ```no_run
    /// # async fn example(store: idem_sqlx::SqliteStore) -> Result<(), idem_core::Error> {
    /// let migrations = store.migrations().await?;
    /// if !migrations.pending.is_empty() {
    ///     println!("not migrated yet: {:?}", migrations.pending);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn migrations(&self) -> Result<Migrations, Error> {
        let known: Vec<_> = MIGRATIONS.iter().collect();
        Ok(Migrations::new(&known, &known, self.migrated_files().await?, self.look_at_naming().await?))
    }

    /// The names of the files that have been run.
    pub(super) async fn migrated_files(&self) -> Result<Vec<String>, Error> {
        let mut reading = Session::begin_reading(self.pool()).await?;
        let migrated = migrated(reading.connection()).await.map_err(store_error)?;
        reading.rollback().await;
        Ok(migrated)
    }

    /// A transaction with the write lock, and the names of the files that have been run.
    pub(super) async fn begin_to_migrate(&self) -> Result<(Session, Vec<String>), Error> {
        let mut session = Session::begin(self.pool()).await?;
        let migrated = migrated(session.connection()).await.map_err(store_error)?;
        Ok((session, migrated))
    }
}

/// The names of the files that have been run, by `migrate` or by the application's migrator.
async fn migrated(connection: &mut SqliteConnection) -> sqlx::Result<Vec<String>> {
    let is_there = sqlx::query_scalar(LIST_IS_THERE).persistent(false);
    if !is_there.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let names = sqlx::query_scalar("SELECT name FROM main.idem_migrations").persistent(false);
    names.fetch_all(connection).await
}

const LIST_IS_THERE: &str =
    "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'idem_migrations')";

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

    use super::*;
    use crate::migrations::tests::{assert_are_in, assert_can_be_run_again, copied};

    #[test]
    fn r33_each_file_can_be_run_again() {
        assert_are_in(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite"), MIGRATIONS);
        assert!(MIGRATIONS.iter().all(|migration| !migration.sql.contains("alter table")));
    }

    /// A migration of a later release, as SQLite gets it.
    const LATER: Migration = Migration {
        name: "20270101000001_add_idem_notes",
        sql: "
            create table if not exists main.idem_migrations (name text primary key);
            insert into main.idem_migrations (name) values ('20270101000001_add_idem_notes') on conflict (name) do nothing;

            create table if not exists main.idem_notes (
                scope text not null,
                operation text not null,
                key_hash blob not null,
                note text not null,
                primary key (scope, operation, key_hash)
            )
            without rowid",
    };

    #[tokio::test]
    async fn r33_the_file_of_a_later_release_can_come_either_way() {
        assert_can_be_run_again(&LATER);
        let later = [MIGRATIONS, &[LATER]].concat();
        for store_first in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let options = SqliteConnectOptions::new().filename(folder.path().join("later.db")).create_if_missing(true);
            let pool = SqlitePool::connect_with(options).await.unwrap();
            let store = SqliteStore::new(pool.clone());
            store.migrate().await.unwrap();
            let record = "INSERT INTO idem_records VALUES ('s', 'o', x'01', x'01', 2, x'', 1, 0, NULL, 1, 201, x'', x'', 1, 1, 2, NULL, NULL)";
            sqlx::raw_sql(record).execute(&pool).await.unwrap();
            let (_copies, migrator) = copied(&later).await;
            let note = "INSERT OR IGNORE INTO idem_notes VALUES ('s', 'o', x'01', 'kept')";
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
            let counts = "SELECT (SELECT count(*) FROM idem_records), (SELECT count(*) FROM idem_notes),
                (SELECT count(*) FROM idem_migrations), (SELECT count(*) FROM _sqlx_migrations)";
            let counts: (i64, i64, i64, i64) = sqlx::query_as(counts).fetch_one(&pool).await.unwrap();
            assert_eq!(counts, (1, 1, 3, 3));
            pool.close().await;
        }
    }
}
