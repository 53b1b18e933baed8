//! The command `idem`: look at, mend and check the records of `idem-core` on Postgres and SQLite.
//!
//! The page `operating` of `idem_core::docs` says what each command does, and lists the exit codes.

mod args;
mod commands;
mod confirm;
mod database;
mod doctor;
mod exit;
mod failure;
mod keys;
mod output;
mod request;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::args::Arguments;
use crate::exit::Exit;
use crate::output::Output;

fn main() -> ExitCode {
    let command = Arguments::command().after_help(exit::help());
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let output = Output::new(arguments.options.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(&arguments, &output)),
        Err(error) => Err(failure::Failure::new(Exit::Failed, error.to_string())),
    };
    let exit = ended.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit.code())
}
