//! A log that stops the program at a line, so that it can be killed right there.

use std::io::{self, Write};
use std::{env, thread};

/// The words of the line.
pub(crate) const VARIABLE: &str = "DEMO_HALT_AT";

/// Standard output, up to a point.
pub(crate) struct Log {
    halt_at: Option<String>,
}

impl Log {
    pub(crate) fn to_the_point() -> Self {
        Self { halt_at: env::var(VARIABLE).ok() }
    }
}

impl Write for Log {
    /// A line of the log arrives in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(line)?;
        let is_here = |words: &String| String::from_utf8_lossy(line).contains(words.as_str());
        if self.halt_at.as_ref().is_some_and(is_here) {
            // What runs here goes no further. Nobody unparks it; the loop is for those that wake up without a cause.
            loop {
                thread::park();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
