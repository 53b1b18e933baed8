//! The files in `migrations/`, and what has to hold for each.
//!
//! There are two ways to run them: `migrate` of the store, and sqlx's migrator, for an application that has copied them
//! among its own. Neither sees the other's list, and an application may change its way at any release, or use both, one after the other.
//! Therefore:
//!
//! - A file is never edited after a release. A later release adds files; their versions have 14 digits, and grow.
//! - A file begins by putting its own name into `idem_migrations`: whichever way runs it, `migrate` knows.
//! - A file changes nothing where it has been run: `create … if not exists`, `add column if not exists`, and so on. SQLite
//!   has no `add column if not exists`, and to build `idem_records` anew would take as long as it is large, so on SQLite
//!   what would be a column is a table of its own, with the same primary key.
//! - What was released before goes on working beside it: processes are replaced one by one.

/// One file.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The file's, without `.sql`.
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

/// What has not been run.
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
            assert!(statement.contains(&"if") && statement.contains(&"exists"), "{name}: {statement:?}");
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
