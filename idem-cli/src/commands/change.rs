//! The commands that change something. Each asks first.

use std::time::Duration;

use idem_core::machine::{Expected, Retry};
use idem_core::operate::{Change, Forgotten, Reason};
use idem_core::store::LeaseTerms;
use idem_core::{Error, Identity};
use idem_sqlx::{Naming, Sweep};
use serde_json::json;

use crate::args::Options;
use crate::confirm::Confirm;
use crate::database::Database;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::request::{Owner, Which};
use crate::text::{duration, time};

pub(super) async fn forget(owner: &Owner, dry: bool, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let scope = owner.required()?;
    let confirm = if dry { None } else { Some(Confirm::new(options.yes)?) };
    let database = Database::open(options).await?;
    output.progress("counting …");
    let planned = database.operate().forget(&scope, true).await?;
    output.progress_ends();
    let Some(confirm) = confirm else {
        return Ok(forgotten(planned, true, output));
    };
    confirm.ask(&format!(
        "Remove {} finished records of this scope, and take the reply off {}? Their retries run again, except those \
         of the latter.",
        planned.removed, planned.emptied
    ))?;
    output.progress(&format!("removing {} records …", planned.removed));
    let done = database.operate().forget(&scope, false).await?;
    output.progress_ends();
    Ok(forgotten(done, false, output))
}

fn forgotten(done: Forgotten, is_dry: bool, output: &Output) -> Exit {
    let Forgotten { removed, emptied, kept, .. } = done;
    let title = if is_dry { "nothing has changed; this would be done:\n" } else { "" };
    output.result(
        &json!({ "is_dry": is_dry, "removed": removed, "emptied": emptied, "kept": kept }),
        format!("{title}removed  {removed}\nemptied  {emptied}\nkept     {kept}"),
    );
    Exit::Done
}

pub(super) async fn reset(which: &Which, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let confirm = Confirm::new(options.yes)?;
    let identity = which.identity()?;
    let database = Database::open(options).await?;
    let (state, _) = state(&database, &identity).await?;
    confirm.ask(&format!("The record is {state}. Let the run be resumed at once?"))?;
    changed(database.operate().reset_attempts(&identity).await?, "the next retry resumes the run", output)
}

pub(super) async fn give_up(
    which: &Which,
    reason: &str,
    in_clear: bool,
    options: &Options,
    output: &Output,
) -> Result<Exit, Failure> {
    let confirm = Confirm::new(options.yes)?;
    let reason = Reason::new(reason)
        .ok_or_else(|| Failure::usage(format!("a reason has 1 to {} characters: check --reason", Reason::MAX_CHARS)))?;
    let identity = which.identity()?;
    let database = Database::open(options).await?;
    let (state, expected) = state(&database, &identity).await?;
    // In the pause of a run its steps are not read.
    let may_be_sealed = database.keys.have_met_sealed() || matches!(expected, Expected::TooSoon(_));
    if may_be_sealed && !in_clear {
        return Err(Failure::usage(
            "nothing has changed: the contents of this run are sealed, or may be, and the command has no key to seal the reason; say \
            --in-clear, or give the run up on the console",
        ));
    }
    confirm.ask(&format!("The record is {state}. Give the run up for ever? Nothing is undone."))?;
    changed(database.operate().give_up(&identity, &reason).await?, "the run is given up", output)
}

/// The state of the record, for the question.
async fn state(database: &Database, identity: &Identity) -> Result<(&'static str, Expected), Error> {
    // With the terms of a leased handler the steps are read, too.
    let retry = Retry { terms: Some(LeaseTerms::DEFAULT.attempts(u32::MAX)), ..Retry::default() };
    let explanation = database.operate().explain(identity, &retry).await?;
    Ok((explanation.record.map_or("absent", |seen| seen.condition.name()), explanation.expected))
}

fn changed(change: Change, done: &str, output: &Output) -> Result<Exit, Failure> {
    match change {
        Change::Made => {
            output.result(&json!({ "is_changed": true }), done);
            Ok(Exit::Done)
        }
        Change::Held(until) => Err(Failure::new(
            Exit::Held,
            format!("nothing has changed: a process holds the run, until {} or longer", time(until.0)),
        )),
        Change::NoRun => Err(Failure::new(
            Exit::NothingFound,
            "nothing has changed: there is no leased run under this key that is not over; check scope, operation and key",
        )),
    }
}

pub(super) async fn new_epoch(options: &Options, output: &Output) -> Result<Exit, Failure> {
    let confirm = Confirm::new(options.yes)?;
    let database = Database::open(options).await?;
    confirm.ask("Have the hints of all processes forget what they know? The database answers meanwhile.")?;
    database.operate().new_epoch().await?;
    output.result(&json!({ "is_changed": true }), "the hints of all processes are empty two seconds from now at most");
    Ok(Exit::Done)
}

pub(super) async fn migrate(options: &Options, output: &Output) -> Result<Exit, Failure> {
    let confirm = Confirm::new(options.yes)?;
    let database = Database::connect(options).await?;
    let migrations = database.migrations().await?;
    if !migrations.later.is_empty() {
        let message = "nothing has changed: the tables are of a later release than this command";
        return Err(Failure::new(Exit::Newer, message));
    }
    let naming = database.keys.mark().into();
    let named = match naming {
        Naming::Indexed(mark) => format!("name records by the index key of the mark {}", mark.id()),
        _ => "name records by the SHA-256 of their keys".to_owned(),
    };
    let mut todo: Vec<_> = migrations.pending.iter().map(|name| (*name).to_owned()).collect();
    // New tables name records by the SHA-256, unless something else is said.
    let is_said = !migrations.done.is_empty() || naming != Naming::Plain;
    todo.extend((is_said && migrations.naming != naming).then_some(named));
    if !todo.is_empty() {
        confirm.ask(&format!("Run these migrations: {}?", todo.join(", ")))?;
        database.migrate().await?;
    }
    let lines: String = todo.iter().map(|what| format!("done  {what}\n")).collect();
    let text = if lines.is_empty() { "nothing is to be done".to_owned() } else { lines };
    output.result(&json!({ "migrated": migrations.pending }), text);
    Ok(Exit::Done)
}

pub(super) async fn sweep(
    batch: Option<u32>,
    archive: Option<&str>,
    options: &Options,
    output: &Output,
) -> Result<Exit, Failure> {
    let confirm = Confirm::new(options.yes)?;
    let database = Database::open(options).await?;
    let backlog = database.operate().backlog().await?;
    confirm.ask(&format!(
        "Remove {} expired records, the oldest of them for {}?",
        backlog.expired,
        duration(backlog.oldest)
    ))?;
    let mut sweep = Sweep::default();
    if let Some(batch) = batch {
        sweep = sweep.batch(batch);
    }
    if let Some(archive) = archive {
        sweep = sweep.archive(archive);
    }
    let removed = with_progress(&database, &sweep, backlog.expired, output).await.map_err(|error| {
        let failure = Failure::from(error);
        // The store's own tables fit, so it is the archive that does not.
        let is_of_archive = archive.is_some() && failure.exit == Exit::Older;
        if is_of_archive {
            Failure::usage("there is no such archive, or it has other columns: check --archive")
        } else {
            failure
        }
    })?;
    output.result(&json!({ "removed": removed }), format!("removed  {removed}"));
    Ok(Exit::Done)
}

async fn with_progress(database: &Database, sweep: &Sweep, expired: u64, output: &Output) -> Result<u64, Error> {
    let mut work = std::pin::pin!(database.sweep(sweep));
    loop {
        tokio::select! {
            removed = &mut work => {
                output.progress_ends();
                return removed;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                output.progress(&format!("removed {} of {expired} …", database.swept()));
            }
        }
    }
}
