//! Asking before a change.

use std::io::{BufRead, IsTerminal, Write};

use crate::exit::Exit;
use crate::failure::Failure;

/// Who confirms a change.
pub(crate) enum Confirm {
    /// The caller has said `--yes`.
    Given,
    /// A person at the terminal.
    Ask,
}

impl Confirm {
    /// Called before anything is done: without a terminal and without `--yes`, nobody can confirm.
    pub(crate) fn new(yes: bool) -> Result<Self, Failure> {
        match yes {
            true => Ok(Self::Given),
            false if std::io::stdin().is_terminal() => Ok(Self::Ask),
            false => Err(Failure::new(
                Exit::NotConfirmed,
                "nothing has changed: standard input is no terminal, so confirm the change by --yes",
            )),
        }
    }

    /// Goes on only if the change is confirmed.
    pub(crate) fn ask(&self, question: &str) -> Result<(), Failure> {
        let is_confirmed = match self {
            Self::Given => true,
            Self::Ask => asks(question, &mut std::io::stdin().lock(), &mut std::io::stderr()),
        };
        is_confirmed.then_some(()).ok_or_else(|| Failure::new(Exit::NotConfirmed, "nothing has changed"))
    }
}

/// True for `y` and `yes`. Everything else, the end of the input included, is a no.
pub(crate) fn asks(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> bool {
    let _nobody_looks = write!(output, "{question} [y/N] ").and_then(|()| output.flush());
    let mut answer = String::new();
    input.read_line(&mut answer).is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
