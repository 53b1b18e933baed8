//! What the command prints: text for a person, or one JSON value for a program.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::text::{printable, printable_json};

pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a screen shows it, on which a line can be written again.
    pub(crate) fn is_screen(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    /// The result. A reader that has gone away, such as `head`, is no failure.
    pub(crate) fn result(&self, json: &Value, text: impl AsRef<str>) {
        let line = if self.json { printable_json(&json.to_string()) } else { text.as_ref().trim_end().to_owned() };
        let _reader_gone = writeln!(std::io::stdout(), "{line}");
    }

    /// How far long work has come: on a screen only, and never among the results.
    pub(crate) fn progress(&self, text: &str) {
        let mut stderr = std::io::stderr();
        if !self.json && stderr.is_terminal() {
            let _nobody_looks = write!(stderr, "\r\x1b[K{text}");
            let _nobody_looks = stderr.flush();
        }
    }

    /// Removes the line of progress.
    pub(crate) fn progress_ends(&self) {
        self.progress("");
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        self.progress_ends();
        let message = printable(&failure.message);
        let (exit, name) = (failure.exit.code(), failure.exit.name());
        let line = if self.json {
            json!({ "error": { "exit": exit, "name": name, "message": message } }).to_string()
        } else {
            format!("idem: {message}")
        };
        let _nobody_looks = writeln!(std::io::stderr(), "{line}");
    }
}
