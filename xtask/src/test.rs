//! `cargo xtask test`: which tests need which server, and which are left out.

use std::process::ExitCode;
use std::{env, thread};

use crate::ci::{FEATURES, step};
use crate::keeper::Server;
use crate::postgres::COMMON_VARIABLE;
use crate::{Failure, broker, cargo, chromium, fuzz, pgbouncer, postgres, redis};

/// A server, and the tests that cannot do without it.
struct Part {
    /// As `--skip` names it.
    name: &'static str,
    /// The packages that nothing runs of without it.
    packages: &'static [&'static str],
    /// Every other test that needs it has this in its name.
    word: Option<&'static str>,
    /// The only packages that need it. None: any may.
    only_for: &'static [&'static str],
    /// Whether it is for a step of its own, which runs where no arguments ask for certain tests.
    has_a_step: bool,
    /// Gets the servers that stand before it in the list and were started.
    start: fn(&Asked<'_>, &[Server]) -> Result<Server, Failure>,
}

const PARTS: [Part; 6] = [
    Part {
        name: "postgres",
        packages: &["payments", "checkout"],
        word: Some("postgres"),
        only_for: &[],
        has_a_step: false,
        start: |asked, _| postgres::start(asked.version, false),
    },
    Part {
        name: "pgbouncer",
        packages: &[],
        word: None,
        only_for: &[],
        has_a_step: true,
        start: |_, servers| {
            let postgres = servers.iter().find(|server| server.variable == postgres::VARIABLE);
            pgbouncer::start(postgres.ok_or("it needs postgres")?)
        },
    },
    Part {
        name: "kafka",
        packages: &[],
        word: Some("broker_process"),
        only_for: &["kafka-consumer"],
        has_a_step: false,
        start: |_, _| broker::kafka(),
    },
    Part {
        name: "sqs",
        packages: &[],
        word: Some("sqs_server"),
        only_for: &["sqs-consumer"],
        has_a_step: false,
        start: |_, _| broker::sqs(),
    },
    Part {
        name: "chromium",
        packages: &[],
        word: Some("in_chromium"),
        only_for: &["idem-core"],
        has_a_step: false,
        start: |_, _| chromium::find(),
    },
    Part {
        name: "redis",
        packages: &[],
        word: Some("redis"),
        only_for: &["idem-redis", "notify"],
        has_a_step: false,
        start: |_, _| redis::program(),
    },
];

/// What `--fast` leaves out beside the brokers: a package, and tests with a word in their names.
const SLOW_PACKAGE: &str = "kafka-consumer";
const SLOW_WORDS: &[&str] =
    &["kills::", "the_demo_", "in_each_of_", "every_order_of_events", "the_compiler_says_what_the_fixtures_say"];

const ON_SQLITE: &str = "tests of payments and checkout on SQLite";
const UNLOCKED: &str = "tests of claims without advisory locks";
const AGAIN: &str = "tests of Postgres through PgBouncer";

/// What makes the tests of the stores use a Postgres store without advisory locks, as their `support` reads it.
const WITHOUT_LOCKS: (&str, &str) = ("IDEM_TEST_LOCKS", "none");

/// The modules that run once more like that: those whose outcome may depend on how a request is claimed. A leased claim
/// takes no advisory lock, and what comes before a claim or after a COMMIT knows nothing of locks.
const CLAIMS: &[&str] = &[
    "cancel::",
    "commit::",
    "contract::",
    "disposition::",
    "faults::",
    "fitness::",
    "in_flight::",
    "inherited::",
    "migrate::",
    "plain::",
    "races::",
    "reply::",
    "schema::",
    "sweep::",
];

/// The tests of these modules that are about the locks themselves, and why they cannot pass without.
const OF_LOCKS: &[(&str, &str)] = &[(
    "r07_postgres_another_process_tells_a_duplicate_from_a_reuse",
    "without locks a reuse is 409 until the run in the other process has ended",
)];

/// The tests that run once more through PgBouncer: all targets of that name are compiled for the first step already.
const THROUGH_PGBOUNCER: &[&str] = &[
    "test",
    "--all-features",
    "--workspace",
    "--test",
    "it",
    "--test",
    "payments",
    "--test",
    "checkout",
    "--",
    "postgres",
];

/// What is left out there, by a part of its name, and why.
const NOT_THROUGH_PGBOUNCER: &[(&str, &str)] = &[
    ("what_no_standby_has", "PgBouncer refuses settings in the startup packet"),
    ("a_role_that_may_create_nothing", "the same"),
    ("without_any_schema_the_store_says", "the same"),
    ("a_server_that_only_reads_decides_nothing", "the same"),
    ("the_first_connection_does_not_choose_the_schema", "a session's search_path is that of any server connection"),
    ("two_search_paths_are_one_key", "the same"),
    ("a_row_that_violates_a_policy", "a session's role is that of any server connection"),
    ("a_connection_that_cannot_do_the_work_is_closed", "a session's settings outlive the client's connection"),
    ("ruins_the_connection", "the same"),
    ("a_connection_that_works_stays_in_the_pool", "each transaction has another server process"),
    ("a_connection_with_a_dead_plan_is_closed", "no statement has a plan that could die"),
    ("a_strangers_lock", "PgBouncer logs in as one role here"),
    ("a_role_that_may_not_log_in", "the same"),
    ("distributed::", "its own statements have names, and a session's settings"),
    ("a_step_that_ends_its_transaction_is_detected", "what is written after a COMMIT travels as two messages"),
    ("ping::", "it counts the messages to a server, and ends its processes"),
    ("silence::", "it takes a minute, and is between the application and PgBouncer"),
    ("each_commit_of", "it takes long, and is between the application and PgBouncer"),
    ("in_each_of_60_rounds", "it takes long; the same race with fewer rounds is left"),
    ("no_page_of_the_console_writes", "a default of the database counts for new server connections alone"),
    ("each_of_several_pages", "it takes long, and each page is one statement"),
    // Of `idem-cli`: one test of it is about poolers.
    ("changes::postgres", "the command connects to the server itself"),
    ("exits::", "the same"),
    ("looks::postgres", "the same"),
    ("doctor::", "the same"),
    ("doctor_on_postgres::r37a_postgres", "the same"),
];

/// How many tests run at once, as Rust's test harness reads it.
const THREADS: &str = "RUST_TEST_THREADS";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    fast: bool,
    version: Option<u32>,
    skip: Vec<&'a str>,
    /// For cargo.
    args: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    /// Options come first. `None` where one is nothing we know.
    pub(crate) fn read(mut args: &[&'a str]) -> Option<Asked<'a>> {
        let mut asked = Asked::default();
        loop {
            args = match args {
                ["--fast", rest @ ..] => {
                    asked.fast = true;
                    asked.skip.extend(["pgbouncer", "kafka", "sqs", "chromium"]);
                    rest
                }
                ["--postgres", version, rest @ ..] => {
                    asked.version = Some(version.parse().ok()?);
                    rest
                }
                ["--skip", name, rest @ ..] if PARTS.iter().any(|part| part.name == *name) => {
                    asked.skip.push(name);
                    rest
                }
                ["--skip" | "--postgres", ..] => return None,
                _ => break,
            }
        }
        asked.args = args.to_vec();
        Some(asked)
    }

    fn packages(&self) -> impl Iterator<Item = &'a str> {
        let before = self.args.iter().take_while(|arg| **arg != "--");
        before.copied().skip_while(|arg| !arg.starts_with("-p") && !arg.starts_with("--package"))
    }

    /// Whether anything that is asked for needs it.
    fn concerns(&self, part: &Part) -> bool {
        if part.has_a_step {
            return self.args.is_empty();
        }
        self.packages().next().is_none()
            || part.only_for.is_empty()
            || part.only_for.iter().any(|only| self.packages().any(|arg| arg.contains(only)))
    }

    /// Why its tests are left out on purpose, if they are.
    fn leaves_out(&self, part: &Part) -> Option<&'static str> {
        if self.skip.contains(&part.name) {
            return Some("as told");
        }
        if part.name == "pgbouncer" && self.skip.contains(&"postgres") {
            return Some("it needs postgres");
        }
        let is_at_hand = if part.name == "redis" { redis::is_at_hand } else { postgres::is_at_hand };
        let installs = !self.fast || self.version.is_some() || is_at_hand();
        (!installs).then_some("there is none, and `--fast` installs nothing")
    }

    /// The words after `cargo`. Cargo ignores `-p` beside `--workspace`, and would run everything without a word.
    fn words(&self, without: &[&Part]) -> Vec<&'a str> {
        let mut words = vec!["test", "--all-features"];
        if self.packages().next().is_none() {
            words.push("--workspace");
            let slow = self.fast.then_some(&SLOW_PACKAGE);
            let packages = without.iter().flat_map(|part| part.packages).chain(slow);
            words.extend(packages.flat_map(|package| ["--exclude", *package]));
        }
        let end = self.args.iter().position(|arg| *arg == "--").unwrap_or(self.args.len());
        let (ours, theirs) = self.args.split_at(end);
        words.extend(ours);
        words.push("--");
        words.extend(theirs.iter().skip(1));
        let slow = if self.fast { SLOW_WORDS } else { &[] };
        words.extend(
            without.iter().filter_map(|part| part.word.as_ref()).chain(slow).flat_map(|word| ["--skip", *word]),
        );
        words
    }
}

pub(crate) fn run(asked: &Asked<'_>) -> Result<ExitCode, Failure> {
    let mut servers = Vec::new();
    let mut without = Vec::new();
    let mut report = String::new();
    let mut is_all = true;
    for part in PARTS.iter().filter(|part| asked.concerns(part)) {
        let on_purpose = asked.leaves_out(part);
        match on_purpose.map_or_else(|| (part.start)(asked, &servers), |reason| Err(reason.to_owned())) {
            Ok(server) => servers.push(server),
            Err(reason) => {
                report += &format!("\nleft out: what needs {}: {reason}", part.name);
                is_all &= on_purpose.is_some();
                without.push(part);
            }
        }
    }
    let mut steps = vec![("tests", asked.words(&without))];
    if !asked.fast && asked.args.is_empty() {
        // With all features the two examples run on Postgres.
        let targets = ["--bin", "payments", "--bin", "checkout", "--test", "payments", "--test", "checkout"];
        steps.push((ON_SQLITE, ["test", "--workspace", "--features", FEATURES].into_iter().chain(targets).collect()));
        if !without.iter().any(|part| part.name == "postgres") {
            steps.push((UNLOCKED, claims()));
        }
        if servers.iter().any(|server| server.variable == pgbouncer::VARIABLE) {
            let skipped = NOT_THROUGH_PGBOUNCER.iter().flat_map(|(name, _)| ["--skip", *name]);
            steps.push((AGAIN, THROUGH_PGBOUNCER.iter().copied().chain(skipped).collect()));
        }
    }
    let mut code = ExitCode::SUCCESS;
    for (heading, words) in steps {
        let mut command = cargo(words);
        command.env_remove(COMMON_VARIABLE).envs(servers.iter().map(|server| (server.variable, &server.address)));
        if heading != AGAIN {
            command.env_remove(pgbouncer::VARIABLE);
        }
        if heading == UNLOCKED {
            command.envs([WITHOUT_LOCKS]);
        }
        if env::var_os(THREADS).is_none() {
            // Most tests wait: for a broker, a lease, a deadline.
            command.env(THREADS, (2 * thread::available_parallelism().map_or(1, usize::from)).to_string());
        }
        // Every day the corpus is enough, and a few hundred inputs.
        if !asked.fast && std::env::var_os(fuzz::VARIABLE).is_none() {
            command.env(fuzz::VARIABLE, fuzz::SECONDS_IN_TESTS);
        }
        code = step(heading, &mut command)?;
        if code != ExitCode::SUCCESS {
            break;
        }
    }
    eprintln!("{report}");
    if !is_all && code == ExitCode::SUCCESS {
        return Err("not all tests could run; `cargo xtask test --skip NAME` leaves them out on purpose".to_owned());
    }
    Ok(code)
}

/// Of the whole workspace, as in the first pass: with other packages there would be other features, and much would be
/// compiled once more.
fn claims() -> Vec<&'static str> {
    let mut words = vec!["test", "--all-features", "--workspace", "--test", "it", "--"];
    words.extend(CLAIMS);
    words.extend(["--skip", "sqlite"]);
    words.extend(OF_LOCKS.iter().flat_map(|(name, _)| ["--skip", *name]));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str], without: &[&Part]) -> String {
        Asked::read(args).unwrap().words(without).join(" ")
    }

    #[test]
    fn arguments_follow_the_step() {
        assert_eq!(words(&[], &[]), "test --all-features --workspace --");
        assert_eq!(words(&["r12_", "--", "-p"], &[]), "test --all-features --workspace r12_ -- -p");
    }

    #[test]
    fn a_named_package_replaces_the_workspace() {
        assert_eq!(words(&["-p", "idem-sqlx"], &[]), "test --all-features -p idem-sqlx --");
        assert_eq!(words(&["--package=idem-sqlx"], &[]), "test --all-features --package=idem-sqlx --");
    }

    #[test]
    fn what_cannot_run_is_left_out() {
        let [postgres, ..] = &PARTS;
        let all = words(&[], &[postgres]);
        assert_eq!(all, "test --all-features --workspace --exclude payments --exclude checkout -- --skip postgres");
        assert_eq!(words(&["-p", "a", "--", "b"], &[postgres]), "test --all-features -p a -- b --skip postgres");
    }

    /// A module or a test that has another name by now would be left out, or not be skipped, without a word.
    #[test]
    fn what_runs_without_locks_is_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../idem-sqlx/tests/it");
        let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}.rs")).expect(file);
        let texts: Vec<_> = CLAIMS.iter().map(|module| read(module.strip_suffix("::").expect(module))).collect();
        for (name, reason) in OF_LOCKS {
            assert!(texts.iter().any(|text| text.contains(&format!("fn {name}("))), "{name}");
            assert!(!reason.is_empty(), "{name}");
        }
        assert!(read("support").contains(WITHOUT_LOCKS.0));
        assert!(claims().join(" ").ends_with(&format!("sweep:: --skip sqlite --skip {}", OF_LOCKS[0].0)));
    }

    #[test]
    fn options_come_first() {
        let asked = Asked::read(&["--postgres", "18", "--skip", "sqs", "-p", "a"]).unwrap();
        let expected = Asked { fast: false, version: Some(18), skip: vec!["sqs"], args: vec!["-p", "a"] };
        assert_eq!(asked, expected);
        assert_eq!(Asked::read(&["-p", "--skip", "sqs"]).unwrap().skip, [""; 0]);
        assert_eq!(Asked::read(&["--skip", "sqss"]), None);
        assert_eq!(Asked::read(&["--postgres", "new"]), None);
    }

    #[test]
    fn a_named_package_needs_its_own_servers() {
        let [postgres, pgbouncer, kafka, ..] = &PARTS;
        let asked = Asked::read(&["-p", "kafka-consumer", "--", "sqs-consumer"]).unwrap();
        assert_eq!(PARTS.each_ref().map(|part| asked.concerns(part)), [true, false, true, false, false, false]);
        assert!(Asked::read(&[]).unwrap().concerns(pgbouncer));
        assert!(!Asked::read(&["r12_"]).unwrap().concerns(pgbouncer));
        assert!(Asked::read(&["--fast"]).unwrap().leaves_out(kafka).is_some());
        assert!(Asked::read(&["--skip", "postgres"]).unwrap().leaves_out(postgres).is_some());
    }
}
