//! A small shell that starts a server, tells us when it is ready, and ends it when we are gone.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::Failure;

const CANNOT_START: i32 = 3;
const ATTEMPTS: u32 = 3;

/// The server lives as long as this, and never longer than this process.
pub(crate) struct Keeper(Child);

impl Keeper {
    /// Starts a server on a free port, by a keeper that is given the port, and returns when it is ready.
    pub(crate) fn start(keeper: impl Fn(u16) -> io::Result<Child>) -> Result<(Keeper, u16), Failure> {
        let mut attempt = 1;
        loop {
            let port = free_port().map_err(|error| error.to_string())?;
            let mut keeper = Keeper(keeper(port).map_err(|error| error.to_string())?);
            match keeper.wait_until_ready() {
                Ok(()) => return Ok((keeper, port)),
                // Between our look at the port and the server's, somebody else may have taken it.
                Err(NotReady::CannotStart(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(NotReady::CannotStart(log) | NotReady::CannotCreate(log)) => return Err(log),
            }
        }
    }

    /// With the pipes that it is known by.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
        command
            // Ctrl-C ends the command first, and through the pipe the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    }

    fn wait_until_ready(&mut self) -> Result<(), NotReady> {
        let broken_pipe = |error: io::Error| NotReady::CannotCreate(error.to_string());
        let stdout = self.0.stdout.as_mut().expect("the keeper is spawned with a pipe");
        let mut answer = BufReader::new(stdout);
        let mut first_line = String::new();
        answer.read_line(&mut first_line).map_err(broken_pipe)?;
        if first_line == "ready\n" {
            return Ok(());
        }
        let mut log = format!("its log ends with\n{first_line}");
        answer.read_to_string(&mut log).map_err(broken_pipe)?;
        let status = self.0.wait().map_err(broken_pipe)?;
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

impl Drop for Keeper {
    fn drop(&mut self) {
        // `wait` closes the keeper's standard input first, which is what it waits for.
        _ = self.0.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
