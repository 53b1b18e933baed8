//! Servers and commands that cannot outlive us.
//!
//! Beside each stands a small shell with the other end of a pipe. The kernel closes the pipe however we end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::Failure;

const KEEPER: &str = include_str!("keeper.sh");

/// Reads the command's process id, then a line if the command ended before us, else the end of the pipe.
/// Each process is stopped while its children are listed, so that it cannot have another one meanwhile.
/// Without `pgrep` only the command itself is ended.
const GUARD: &str = r#"
trap '' HUP INT TERM
end() {
    kill -STOP "$1"
    children=$(pgrep -P "$1")
    kill -TERM "$1"
    kill -CONT "$1"
    for child in $children; do end "$child"; done
}
read -r command || exit
read -r ended && exit
end "$command" 2>/dev/null
"#;

/// A server that tests find by a variable of the environment.
pub(crate) struct Server {
    pub(crate) variable: &'static str,
    pub(crate) address: String,
    /// Where it is ours. It lives as long as this, and never longer than this process.
    pub(crate) keeper: Option<Keeper>,
}

impl Server {
    /// The one that the environment names.
    pub(crate) fn given(variable: &'static str) -> Option<Server> {
        let address = std::env::var(variable).ok().filter(|address| !address.is_empty())?;
        eprintln!("{variable}: as given");
        Some(Server { variable, address, keeper: None })
    }

    pub(crate) fn ours(variable: &'static str, scheme: &str, path: &str, keeper: Keeper) -> Server {
        Server { variable, address: format!("{scheme}127.0.0.1:{}{path}", keeper.port), keeper: Some(keeper) }
    }
}

pub(crate) struct Keeper {
    shell: Child,
    pub(crate) port: u16,
}

impl Keeper {
    /// Starts a server by its four words for `keeper.sh`, and returns when it is ready. They find a free port in
    /// `$PORT`.
    pub(crate) fn start(shell: &mut Command, server: [&str; 4]) -> Result<Keeper, Failure> {
        shell.args(["-c", KEEPER, "keeper.sh"]).args(server);
        // Ctrl-C ends the command first, and through the pipe the server.
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Between our look at the port and the server's, somebody else may have taken it.
        Self::try_to_start(shell).or_else(|_| Self::try_to_start(shell)).map_err(|error| error.to_string())
    }

    fn try_to_start(shell: &mut Command) -> io::Result<Keeper> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut keeper = Keeper { shell: shell.env("PORT", port.to_string()).spawn()?, port };
        let mut answer = BufReader::new(keeper.shell.stdout.as_mut().expect("the keeper is spawned with a pipe"));
        let mut log = String::new();
        answer.read_line(&mut log)?;
        if log == "ready\n" {
            return Ok(keeper);
        }
        answer.read_to_string(&mut log)?;
        Err(io::Error::other(format!("its log ends with\n{log}")))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // `wait` closes the keeper's standard input first, which is what it waits for.
        _ = self.shell.wait();
    }
}

/// Runs a command. The exit code is the command's, or 128 and the signal that ended it, as a shell would say.
///
/// Ctrl-C reaches the command by itself, since it stays in the terminal's foreground group. A SIGTERM or SIGKILL that
/// hits xtask alone does not: a command left running would lose its database, and a server would run for ever. Only a
/// SIGKILL in the instant between the command's start and our word to the guard is missed.
pub(crate) fn run(command: &mut Command) -> Result<ExitCode, Failure> {
    let mut guarded = || {
        // The guard comes first: if it cannot be had, nothing has been started yet.
        // It has a group of its own, so that Ctrl-C does not end it before its charge.
        let mut guard = Command::new("sh").args(["-c", GUARD]).process_group(0).stdin(Stdio::piped()).spawn()?;
        let mut pipe = guard.stdin.take().expect("the guard is started with a pipe");
        let mut child = command.spawn()?;
        // Somebody may have killed the guard. The command can do without it.
        _ = writeln!(pipe, "{}", child.id());
        let status = child.wait()?;
        _ = writeln!(pipe, "ended");
        drop(pipe);
        guard.wait()?;
        Ok(status)
    };
    let status = guarded();
    let status = status.map_err(|error: io::Error| {
        format!("`{}` could not be run: {error}", command.get_program().to_string_lossy())
    })?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
