//! Runs a command that cannot outlive us.
//!
//! Ctrl-C reaches the command by itself, since it stays in the terminal's foreground group.
//! A SIGTERM or SIGKILL that hits xtask alone does not; a command left running would then
//! go on without its database, and a server would go on for ever.
//! Therefore a small shell holds the other end of a pipe and ends the command when we are gone.
//! Only a SIGKILL in the instant between the command's start and our word to the guard is missed.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use crate::Failure;

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

/// The exit code is the command's, or 128 and the signal that ended it, as a shell would say.
pub(crate) fn run(command: &mut Command) -> Result<ExitCode, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failure = |error| format!("`{program}` could not be run: {error}");

    // The guard comes first: if it cannot be had, nothing has been started yet.
    let guard = Guard::start().map_err(failure)?;
    let mut child = command.spawn().map_err(failure)?;
    guard.tell(child.id());
    let status = child.wait().map_err(failure)?;
    guard.dismiss();
    Ok(exit_code(status))
}

struct Guard(Child);

impl Guard {
    fn start() -> std::io::Result<Guard> {
        let mut shell = Command::new("sh");
        // A group of its own, so that Ctrl-C does not end the guard before its charge.
        shell.args(["-c", GUARD]).process_group(0).stdin(Stdio::piped());
        Ok(Guard(shell.spawn()?))
    }

    /// Somebody may have killed the guard. The command can do without it.
    fn tell(&self, line: impl std::fmt::Display) {
        let mut pipe = self.0.stdin.as_ref().expect("the guard is started with a pipe");
        _ = writeln!(pipe, "{line}");
    }

    fn dismiss(mut self) {
        self.tell("ended");
        _ = self.0.wait();
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let signal = || 128 + status.signal().unwrap_or_default();
    let code = status.code().unwrap_or_else(signal);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
