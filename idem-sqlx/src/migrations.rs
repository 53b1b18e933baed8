//! The files in `migrations/`, and the rules for each file.
//!
//! There are two ways to run the files: the store's `migrate`, and sqlx's migrator, if an application has copied the
//! files among its own. Neither way sees the other's list. An application may change from one way to the other at any
//! release, or use both, one after the other. Therefore:
//!
//! - A file is never edited after a release. A later release adds files; their versions have 14 digits, and grow.
//! - A file begins by putting its own name into `idem_migrations`, so that `migrate` knows of it, whichever way has run
//!   it.
//! - A file changes nothing the second time: `create … if not exists`, `create or replace`, and so on. SQLite
//!   has no `add column if not exists`, and rebuilding `idem_records` would take time in proportion to its size. So on
//!   SQLite a new column becomes a table of its own, with the same primary key.
//! - Earlier releases keep working on the changed tables, because processes are replaced one by one.

/// One file.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The file's name without `.sql`.
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

macro_rules! migrations {
    [$database:literal: $($name:literal,)*] => {
        [$($crate::migrations::Migration {
            name: $name,
            sql: include_str!(concat!("../../migrations/", $database, "/", $name, ".sql")),
        },)*]
    };
}
pub(crate) use migrations;

/// The migrations that have not been run.
pub(crate) fn pending<'a>(migrations: &'a [Migration], migrated: &[String]) -> Vec<&'a Migration> {
    migrations.iter().filter(|migration| !migrated.iter().any(|name| name == migration.name)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use sqlx::migrate::Migrator;
    use tempfile::TempDir;

    use super::*;

    /// The folder has these files and no others, and each keeps the rules above.
    pub(crate) fn assert_are_in(folder: &str, migrations: &[Migration]) {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, migrations.iter().map(|migration| migration.name).collect::<Vec<_>>(), "each, in order");
        let versions: Vec<_> = names.iter().map(|name| name.split_once('_').unwrap().0).collect();
        assert!(versions.iter().all(|version| version.len() == 14), "{versions:?}");
        assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
        migrations.iter().for_each(assert_can_be_run_again);
    }

    pub(crate) fn assert_can_be_run_again(Migration { name, sql }: &Migration) {
        assert!(sql.contains(&format!("('{name}') on conflict (name) do nothing")), "{name} records its own name");
        let words: Vec<_> = sql.split_whitespace().collect();
        for statement in words.windows(6).filter(|words| ["create", "add", "drop"].contains(&words[0])) {
            let is_safe = statement.starts_with(&["create", "or", "replace"]);
            assert!(is_safe || statement.contains(&"if") && statement.contains(&"exists"), "{name}: {statement:?}");
        }
    }

    /// The files, copied among an application's migrations.
    pub(crate) async fn copied(migrations: &[Migration]) -> (TempDir, Migrator) {
        let folder = tempfile::tempdir().unwrap();
        for Migration { name, sql } in migrations {
            fs::write(folder.path().join(format!("{name}.sql")), sql).unwrap();
        }
        let migrator = Migrator::new(folder.path()).await.unwrap();
        (folder, migrator)
    }
}
