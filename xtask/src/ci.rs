//! `cargo xtask ci`: everything but the tests. This is the file to edit when a check is added.

use std::process::{Command, ExitCode, Stdio};

use crate::{Failure, cargo, keeper};

/// Every feature of the published crates. The whole workspace with these is the same to cargo as with all features, but
/// for the examples that run on either database: they run on SQLite, and nothing else is compiled once more.
macro_rules! features {
    () => {
        "idem-core/axum,idem-core/console,idem-core/memory,idem-core/seal,idem-core/metrics,idem-core/uuid,idem-sqlx/axum,\
         idem-sqlx/postgres,idem-sqlx/seal,idem-sqlx/sqlite,idem-redis/axum,idem-redis/seal"
    };
}

pub(crate) const FEATURES: &str = features!();

/// A heading, and the words after `cargo`; none of them has a space in it.
const CHECKS: &[(&str, &str)] = &[
    ("formatting", "fmt --all -- --check"),
    ("lints", "clippy --workspace --all-targets --all-features -- -D warnings"),
    ("docs", "doc --workspace --no-deps --all-features"),
    // Each feature alone, by Clippy because `cargo check` cannot deny the warnings of our crates only.
    ("idem-core, no feature", "clippy -p idem-core --no-default-features -- -D warnings"),
    ("idem-core, axum", "clippy -p idem-core --no-default-features --features axum -- -D warnings"),
    ("idem-core, console", "clippy -p idem-core --no-default-features --features console -- -D warnings"),
    ("idem-core, memory", "clippy -p idem-core --no-default-features --features memory -- -D warnings"),
    ("idem-core, metrics", "clippy -p idem-core --no-default-features --features metrics -- -D warnings"),
    ("idem-core, seal", "clippy -p idem-core --no-default-features --features seal -- -D warnings"),
    ("idem-core, uuid", "clippy -p idem-core --no-default-features --features uuid -- -D warnings"),
    ("idem-sqlx, postgres", "clippy -p idem-sqlx --no-default-features --features postgres -- -D warnings"),
    ("idem-sqlx, sqlite", "clippy -p idem-sqlx --no-default-features --features sqlite -- -D warnings"),
    ("idem-redis, no feature", "clippy -p idem-redis --no-default-features -- -D warnings"),
    (
        "payments and checkout, sqlite",
        concat!("clippy --workspace --all-targets --features ", features!(), " -- -D warnings"),
    ),
];

/// A third word asks whether the tool, and what it reads, can be had here.
const OF_DEPENDENCIES: &[(&str, &str, &str)] = &[
    ("licences, bans and sources", "deny --all-features check licenses bans sources", "deny --version"),
    ("advisories", "deny --all-features check advisories", "deny fetch db"),
];

pub(crate) fn check() -> Result<ExitCode, Failure> {
    for (heading, words) in CHECKS {
        let code = step(heading, cargo(words.split(' ')).env("RUSTDOCFLAGS", "-D warnings"))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    for (heading, words, asked) in OF_DEPENDENCIES {
        let answer = cargo(asked.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !answer.is_ok_and(|status| status.success()) {
            eprintln!("\n== left out: {heading}: `cargo {asked}` fails here");
            continue;
        }
        let code = step(heading, &mut cargo(words.split(' ')))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The published crates in a folder of their own, since examples may need what is newer.
/// Resolving like this is an unstable option; compiling is not, and crates that look for a nightly compiler find none.
const MINIMAL: &str = r#"
copy=${CARGO_TARGET_DIR:-target}/minimal
check() {
    RUSTC_BOOTSTRAP=1 "$CARGO" update -Z direct-minimal-versions && "$CARGO" check --all-features --target-dir target "$@"
}
rm -rf "$copy" && mkdir -p "$copy" &&
    cp -R Cargo.toml README.md idem-macros idem-core idem-sqlx idem-redis idem-testkit idem-cli fuzz "$copy" && cd "$copy" &&
    sed -i.bak -e '/^    "[^"]*",$/d' \
        -e 's|^members = .*|members = ["idem-macros", "idem-core", "idem-sqlx", "idem-testkit", "idem-cli",|' Cargo.toml &&
    # The client of Redis asks for a later tokio, which nobody else has to have. Tests alone bring it elsewhere.
    sed -i.bak -e '/^idem-redis = /d' idem-sqlx/Cargo.toml && check &&
    sed -i.bak -e '/^members/s|"idem-sqlx",|"idem-sqlx", "idem-redis",|' \
        -e 's|^tokio = { version = "[^"]*"|tokio = { version = "1.51"|' Cargo.toml &&
    check --package idem-redis
"#;

pub(crate) fn minimal() -> Result<ExitCode, Failure> {
    let mut shell = Command::new("sh");
    shell.args(["-c", MINIMAL]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    step("the oldest dependencies that are allowed", &mut shell)
}

pub(crate) fn step(heading: &str, command: &mut Command) -> Result<ExitCode, Failure> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("\n== {heading}: {} {}", command.get_program().to_string_lossy(), words.join(" "));
    let code = keeper::run(command)?;
    if code != ExitCode::SUCCESS {
        eprintln!("\n== failed: {heading}");
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A feature that is missing would compile every dependency again, or leave something out, without a word.
    #[test]
    fn each_feature_of_the_published_crates_is_listed() {
        let mut all = Vec::new();
        for package in ["idem-core", "idem-sqlx", "idem-redis"] {
            let path = format!("{}/../{package}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).expect("a manifest");
            let of_it =
                text.lines().skip_while(|line| *line != "[features]").skip(1).take_while(|line| !line.starts_with('['));
            let names =
                of_it.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).filter(|name| *name != "default");
            all.extend(names.map(|name| format!("{package}/{name}")));
        }
        assert_eq!(FEATURES.split(',').collect::<Vec<_>>(), all);
    }
}
