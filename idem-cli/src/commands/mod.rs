//! The commands.

mod change;
mod look;
mod watch;

use crate::args::{Arguments, Command};
use crate::doctor;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let options = &arguments.options;
    match &arguments.command {
        Command::Explain(asked) => look::explain(asked, options, output).await,
        Command::List(list) => look::list(list, options, output).await,
        Command::Watch { once, every } => watch::watch(*once, *every, options, output).await,
        Command::Forget { owner, dry_run } => change::forget(owner, *dry_run, options, output).await,
        Command::Reset { which } => change::reset(which, options, output).await,
        Command::GiveUp { which, reason, in_clear } => change::give_up(which, reason, *in_clear, options, output).await,
        Command::NewEpoch => change::new_epoch(options, output).await,
        Command::Migrate => change::migrate(options, output).await,
        Command::Sweep { batch, archive } => change::sweep(*batch, archive.as_deref(), options, output).await,
        Command::Doctor(asked) => doctor::doctor(asked, options, output).await,
    }
}
