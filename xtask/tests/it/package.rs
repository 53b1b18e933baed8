//! What a published crate brings along.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Each published crate, and what is in its package beside what all have.
const PUBLISHED: [(&str, &[&str]); 4] = [
    ("idem-macros", &[]),
    ("idem-core", &["docs/compiler.md"]),
    (
        "idem-sqlx",
        &[
            "migrations/postgres/20261122000001_create_idem_records.sql",
            "migrations/sqlite/20261122000001_create_idem_records.sql",
        ],
    ),
    ("idem-redis", &["docs/redis.md", "src/scripts/claim.lua"]),
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn a_package_is_whole() {
    for (package, own) in PUBLISHED {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["package", "--list", "--allow-dirty", "--offline", "--package", package]).current_dir(workspace());
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let files = String::from_utf8(output.stdout).unwrap();
        let files: Vec<&str> = files.lines().collect();
        for file in ["src/lib.rs", "README.md", "LICENSE-MIT", "LICENSE-APACHE"].iter().chain(own) {
            assert!(files.contains(file), "{package} without {file}: {files:?}");
        }
        // What the source includes, a folder at a time.
        for folder in ["src", "docs", "migrations"] {
            let expected = count(&workspace().join(package).join(folder));
            let packaged = files.iter().filter(|file| file.starts_with(&format!("{folder}/"))).count();
            assert_eq!(packaged, expected, "{package}: {folder}");
        }
    }
}

/// Links would be read as text where git makes none.
#[test]
fn the_licences_are_copies() {
    for (package, _) in PUBLISHED {
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let read = |folder: &Path| fs::read_to_string(folder.join(licence)).unwrap();
            assert!(read(workspace()) == read(&workspace().join(package)), "{package}: copy {licence} anew");
        }
    }
}

fn count(folder: &Path) -> usize {
    let entries = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}
