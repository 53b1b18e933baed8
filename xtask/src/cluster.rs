//! A throw-away PostgreSQL server. It lives as long as its [`Cluster`], and never longer than this process:
//! `keeper.sh` makes it, waits for the end of a pipe from us, and removes it.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::{Failure, account};

const KEEPER: &str = include_str!("keeper.sh");
const CANNOT_START: i32 = 3;
const ATTEMPTS: u32 = 3;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
# No socket file: its path could not be longer than 107 bytes, and everybody comes by the port.
unix_socket_directories = ''
max_connections = 300
";

/// Commits still mean what they mean to another session; only a power cut would lose them.
const THROW_AWAY_SETTINGS: &str = "
fsync = off
full_page_writes = off
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// For tests: nothing is flushed to disk.
    ThrowAway,
    /// For benchmarks: PostgreSQL's own settings.
    Durable,
}

pub(crate) struct Cluster {
    keeper: Child,
    port: u16,
}

impl Cluster {
    /// Returns when the server takes sessions.
    pub(crate) fn start(programs: &Path, durability: Durability) -> Result<Cluster, Failure> {
        let failure = |reason| format!("PostgreSQL in {} did not start: {reason}", programs.display());
        let mut attempt = 1;
        loop {
            let port = free_port().map_err(|error| failure(error.to_string()))?;
            let keeper = spawn_keeper(programs, &settings(port, durability)).map_err(failure)?;
            let mut cluster = Cluster { keeper, port };
            match cluster.wait_until_ready() {
                Ok(()) => return Ok(cluster),
                // Between our look at the port and the server's, somebody else may have taken it.
                Err(NotReady::CannotStart(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(NotReady::CannotStart(log) | NotReady::CannotCreate(log)) => {
                    return Err(failure(log));
                }
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_ready(&mut self) -> Result<(), NotReady> {
        let broken_pipe = |error: io::Error| NotReady::CannotCreate(error.to_string());
        let stdout = self.keeper.stdout.as_mut().expect("the keeper is spawned with a pipe");
        let mut answer = BufReader::new(stdout);
        let mut first_line = String::new();
        answer.read_line(&mut first_line).map_err(broken_pipe)?;
        if first_line == "ready\n" {
            return Ok(());
        }
        let mut log = format!("its log ends with\n{first_line}");
        answer.read_to_string(&mut log).map_err(broken_pipe)?;
        let status = self.keeper.wait().map_err(broken_pipe)?;
        Err(match status.code() {
            Some(CANNOT_START) => NotReady::CannotStart(log),
            _ => NotReady::CannotCreate(log),
        })
    }
}

enum NotReady {
    CannotCreate(String),
    CannotStart(String),
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `wait` closes the keeper's standard input first, which is what it waits for.
        _ = self.keeper.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn settings(port: u16, durability: Durability) -> String {
    let throw_away = match durability {
        Durability::ThrowAway => THROW_AWAY_SETTINGS,
        Durability::Durable => "",
    };
    format!("port = {port}\n{SETTINGS}{throw_away}")
}

fn spawn_keeper(programs: &Path, settings: &str) -> Result<Child, Failure> {
    let mut failure = "this is root, and there is no account `postgres` or `nobody`".to_owned();
    for account in account::candidates() {
        let mut command = account.command("sh");
        command
            .args(["-c", KEEPER, "keeper.sh"])
            .arg(programs)
            .arg(settings)
            .env("LC_ALL", "C")
            // Another account may not look into the folder we are in.
            .current_dir("/")
            // Ctrl-C ends the command first, and through the pipe the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        match command.spawn() {
            Ok(keeper) => return Ok(keeper),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}
