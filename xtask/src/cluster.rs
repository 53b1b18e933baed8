//! A throw-away PostgreSQL server. It lives as long as its [`Cluster`], and never longer than this process:
//! `keeper.sh` makes it, waits for the end of a pipe from us, and removes it.

use std::io;
use std::path::Path;
use std::process::Child;

use crate::keeper::Keeper;
use crate::{Failure, account};

const SCRIPT: &str = include_str!("keeper.sh");

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
    _keeper: Keeper,
    port: u16,
}

impl Cluster {
    /// Returns when the server takes sessions.
    pub(crate) fn start(programs: &Path, durability: Durability) -> Result<Cluster, Failure> {
        let started = Keeper::start(|port| spawn_keeper(programs, &settings(port, durability)));
        let failure = |reason| format!("PostgreSQL in {} did not start: {reason}", programs.display());
        let (keeper, port) = started.map_err(failure)?;
        Ok(Cluster { _keeper: keeper, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn settings(port: u16, durability: Durability) -> String {
    let throw_away = match durability {
        Durability::ThrowAway => THROW_AWAY_SETTINGS,
        Durability::Durable => "",
    };
    format!("port = {port}\n{SETTINGS}{throw_away}")
}

fn spawn_keeper(programs: &Path, settings: &str) -> io::Result<Child> {
    let mut failure = io::Error::other("this is root, and there is no account `postgres` or `nobody`");
    for account in account::candidates() {
        let mut command = account.command("sh");
        command
            .args(["-c", SCRIPT, "keeper.sh"])
            .arg(programs)
            .arg(settings)
            .env("LC_ALL", "C")
            // Another account may not look into the folder we are in.
            .current_dir("/");
        match Keeper::spawn(&mut command) {
            Ok(keeper) => return Ok(keeper),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
