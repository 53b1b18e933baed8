//! The cargo commands behind `cargo xtask ci` and `cargo xtask test`, as tables.

use std::process::{Command, ExitCode};

use crate::database::COMMON_VARIABLE;
use crate::parts::{PARTS, Servers};
use crate::{Failure, child};

struct Step {
    heading: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// The words after `cargo`; none of them has a space in it.
    cargo: &'static str,
}

const fn step(heading: &'static str, cargo: &'static str) -> Step {
    Step { heading, environment: &[], cargo }
}

const CI: &[Step] = &[
    step("formatting", "fmt --all -- --check"),
    step("lints", "clippy --workspace --all-targets --all-features -- -D warnings"),
    Step {
        heading: "docs",
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        cargo: "doc --workspace --no-deps --all-features",
    },
    // Each feature alone, by Clippy because `cargo check` cannot deny the warnings of our crates only.
    step("idem-core, no feature", "clippy -p idem-core --no-default-features -- -D warnings"),
    step("idem-core, axum", "clippy -p idem-core --no-default-features --features axum -- -D warnings"),
    step("idem-core, uuid", "clippy -p idem-core --no-default-features --features uuid -- -D warnings"),
    step("idem-sqlx, postgres", "clippy -p idem-sqlx --no-default-features --features postgres -- -D warnings"),
    step("idem-sqlx, sqlite", "clippy -p idem-sqlx --no-default-features --features sqlite -- -D warnings"),
    step("payments, sqlite", "clippy -p payments --all-targets -- -D warnings"),
    step("payments, postgres", "clippy -p payments --all-targets --features postgres -- -D warnings"),
    step("checkout, sqlite", "clippy -p checkout --all-targets -- -D warnings"),
    step("checkout, postgres", "clippy -p checkout --all-targets --features postgres -- -D warnings"),
];

/// The first step is the one that arguments go to. Plain `cargo test` runs the doctests, too.
const TEST: &[Step] = &[
    step("tests", "test --workspace --all-features"),
    // With all features the two examples run on Postgres.
    step("tests of payments and checkout on SQLite", "test -p payments -p checkout"),
];

pub(crate) fn ci() -> Result<ExitCode, Failure> {
    run_until_failure(CI, |step| cargo(step, step.cargo.split(' ')))
}

/// `None` where what is to be left out is nothing we know.
pub(crate) fn test(args: &[&str]) -> Option<Result<ExitCode, Failure>> {
    let (skip, args) = split_skip(args)?;
    Some(run_tests(&skip, args))
}

fn run_tests(skip: &[&str], args: &[&str]) -> Result<ExitCode, Failure> {
    let ours = split_args(args).0;
    let is_asked_for = |package: &str| !names_a_package(ours) || ours.iter().any(|arg| arg.contains(package));
    let servers = Servers::start(skip, is_asked_for);
    let excluded: Vec<_> = servers.excluded_packages().collect();
    let skipped: Vec<_> = servers.skipped_words().collect();
    if names_a_package(ours) && excluded.iter().any(|package| is_asked_for(package)) {
        servers.report()?;
        return Err("nothing of the package can run without the server that is left out".to_owned());
    }
    // Whoever passes arguments asks for certain tests, and asks once.
    let steps = if args.is_empty() { TEST } else { &TEST[..1] };
    let code = run_until_failure(steps, |step| {
        let mut command = cargo(step, test_words(step.cargo, args, &excluded, &skipped).into_iter());
        command.env_remove(COMMON_VARIABLE).envs(servers.environment());
        command
    })?;
    match servers.report() {
        Err(failure) if code == ExitCode::SUCCESS => Err(failure),
        Err(failure) => {
            eprintln!("xtask: {failure}");
            Ok(code)
        }
        Ok(()) => Ok(code),
    }
}

/// Each `--skip NAME` before anything else.
fn split_skip<'a, 'b>(mut args: &'b [&'a str]) -> Option<(Vec<&'a str>, &'b [&'a str])> {
    let mut skip = Vec::new();
    while let ["--skip", name, rest @ ..] = args {
        if !PARTS.iter().any(|part| part.name == *name) {
            return None;
        }
        skip.push(*name);
        args = rest;
    }
    Some((skip, args))
}

/// Cargo ignores `-p` beside `--workspace`, and would run everything without a word.
fn test_words<'a>(step: &'a str, args: &[&'a str], excluded: &[&'a str], skipped: &[&'a str]) -> Vec<&'a str> {
    let (ours, theirs) = split_args(args);
    let mut words: Vec<_> = step.split(' ').filter(|word| !(names_a_package(ours) && *word == "--workspace")).collect();
    if words.contains(&"--workspace") {
        words.extend(excluded.iter().flat_map(|package| ["--exclude", package]));
    }
    words.extend(ours);
    if !(theirs.is_empty() && skipped.is_empty()) {
        words.push("--");
        words.extend(theirs);
        words.extend(skipped.iter().flat_map(|word| ["--skip", word]));
    }
    words
}

/// What is for cargo, and what is for the tests' programs.
fn split_args<'a, 'b>(args: &'b [&'a str]) -> (&'b [&'a str], &'b [&'a str]) {
    match args.iter().position(|arg| *arg == "--") {
        Some(position) => (&args[..position], &args[position + 1..]),
        None => (args, &[]),
    }
}

fn names_a_package(args: &[&str]) -> bool {
    args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

fn cargo<'a>(step: &Step, words: impl Iterator<Item = &'a str>) -> Command {
    // `cargo xtask` says which cargo called it, so that `cargo +1.94 xtask` stays on 1.94.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(words).envs(step.environment.iter().copied());
    command
}

fn run_until_failure(steps: &[Step], command: impl Fn(&Step) -> Command) -> Result<ExitCode, Failure> {
    for step in steps {
        let mut command = command(step);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        eprintln!("\n== {}: cargo {}", step.heading, words.join(" "));
        let code = child::run(&mut command)?;
        if code != ExitCode::SUCCESS {
            eprintln!("\n== failed: {}", step.heading);
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str]) -> String {
        test_words("test --workspace --all-features", args, &[], &[]).join(" ")
    }

    #[test]
    fn arguments_follow_the_step() {
        assert_eq!(words(&[]), "test --workspace --all-features");
        assert_eq!(words(&["r12_", "--", "-p"]), "test --workspace --all-features r12_ -- -p");
    }

    #[test]
    fn a_named_package_replaces_the_workspace() {
        assert_eq!(words(&["-p", "idem-sqlx"]), "test --all-features -p idem-sqlx");
        assert_eq!(words(&["--package=idem-sqlx"]), "test --all-features --package=idem-sqlx");
    }

    #[test]
    fn what_cannot_run_is_left_out() {
        let words = |args: &[&str]| test_words("test --workspace", args, &["payments"], &["postgres"]).join(" ");
        assert_eq!(words(&[]), "test --workspace --exclude payments -- --skip postgres");
        assert_eq!(words(&["-p", "a", "--", "b"]), "test -p a -- b --skip postgres");
    }

    #[test]
    fn what_is_to_be_left_out_comes_first() {
        assert_eq!(split_skip(&["--skip", "sqs", "-p", "a"]), Some((vec!["sqs"], &["-p", "a"][..])));
        assert_eq!(split_skip(&["-p", "--skip", "sqs"]), Some((vec![], &["-p", "--skip", "sqs"][..])));
        assert_eq!(split_skip(&["--skip", "sqss"]), None);
    }
}
