//! `idem doctor`: each check is a function with a stable name, and says what it found and what to do.

mod postgres;
mod records;
mod server;
mod sqlite;
mod tables;

use idem_core::Error;
use idem_sqlx::Naming;
use serde_json::{Value, json};

use crate::args::{Doctor, Options};
use crate::database::{Database, Store};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::printable;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    /// It works, and something should be changed or looked at.
    Warn,
    /// It does not work, or a promise is broken.
    Fail,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a check found.
#[derive(Debug)]
struct Finding {
    level: Level,
    found: String,
    /// What to do.
    advice: Option<String>,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Self {
        Self { level: Level::Ok, found: found.into(), advice: None }
    }

    fn warn(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The findings so far, by the names of their checks.
#[derive(Default)]
struct Report(Vec<(&'static str, Finding)>);

impl Report {
    /// Adds what a check found. A check that could not look is a finding, too. Only without a connection all ends.
    fn add(&mut self, name: &'static str, found: Result<Finding, Failure>) -> Result<(), Failure> {
        let finding = match found {
            Ok(finding) => finding,
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
            Err(failure) if failure.exit == Exit::Busy => {
                Finding::warn("could not be checked in time", failure.message)
            }
            Err(failure) => Finding::fail("could not be checked", failure.message),
        };
        self.0.push((name, finding));
        Ok(())
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|(_, finding)| finding.level == level).count()
    }

    fn json(&self) -> Value {
        let checks = self.0.iter().map(|(name, finding)| {
            let Finding { level, found, advice } = finding;
            json!({ "check": name, "level": level.name(), "found": found, "advice": advice })
        });
        json!({
            "checks": checks.collect::<Vec<_>>(),
            "ok": self.count(Level::Ok),
            "warn": self.count(Level::Warn),
            "fail": self.count(Level::Fail),
        })
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for (name, Finding { level, found, advice }) in &self.0 {
            text += &format!("{:<6}{name:<width$}  {}\n", level.name(), printable(found));
            if let Some(advice) = advice {
                text += &format!("{:<6}{:<width$}  -> {}\n", "", "", printable(advice));
            }
        }
        let [ok, warn, fail] = [Level::Ok, Level::Warn, Level::Fail].map(|level| self.count(level));
        text + &format!("\n{ok} ok, {warn} warn, {fail} fail\n")
    }
}

/// Runs checks one after the other. The name of a check is the name of its function.
macro_rules! check {
    ($report:ident, $patient:expr, $module:ident: $($name:ident)*) => {
        $($report.add(stringify!($name), $module::$name($patient).await)?;)*
    };
}
use check;

pub(crate) async fn doctor(asked: &Doctor, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let database = Database::connect(options).await?;
    let mut report = Report::default();
    match &database.store {
        Store::Postgres(store) => postgres::check(&database, store.pool(), asked, options, &mut report).await?,
        Store::Sqlite(store) => sqlite::check(&database, store.pool(), options, &mut report).await?,
    }
    output.result(&report.json(), report.text());
    Ok(if report.count(Level::Fail) > 0 { Exit::Unhealthy } else { Exit::Done })
}

/// Of the migrations, and whether there are tables to look at.
async fn migrations(database: &Database, options: &Options) -> Result<(Finding, bool), Failure> {
    let migrations = match database.migrations().await {
        Ok(migrations) => migrations,
        Err(failure) if failure.exit == Exit::NoTables => {
            return Ok((Finding::fail("there is no schema for the tables", failure.message), false));
        }
        Err(failure) => return Err(failure),
    };
    let finding = if migrations.done.is_empty() {
        return Ok((Finding::fail("the tables are missing", database.no_tables(options).await), false));
    } else if !migrations.pending.is_empty() {
        let found = format!("not run yet: {}", migrations.pending.join(", "));
        Finding::fail(found, "run `idem migrate` before the new release serves requests")
    } else if !migrations.later.is_empty() {
        let found = format!("run by a later release: {}", migrations.later.join(", "));
        Finding::warn(found, "use the command `idem` of that release")
    } else {
        Finding::ok(format!("all {} have been run", migrations.done.len()))
    };
    Ok((finding, true))
}

/// How the database names records.
async fn index(database: &Database, options: &Options) -> Result<Finding, Failure> {
    let naming = database.migrations().await?.naming;
    let named = match naming {
        Naming::Unguarded => {
            return Ok(Finding::fail(
                "nothing refuses the claims of a process with another index key, so a request could run twice",
                "run `idem migrate`; if the application has an index key, with --index-key-file",
            ));
        }
        Naming::Plain => "records are named by the SHA-256 of their keys".to_owned(),
        Naming::Indexed(mark) => format!("records are named by the index key of the mark {}", mark.id()),
    };
    Ok(if options.index_key_file.is_some() && naming != database.keys.mark().into() {
        Finding::fail(
            format!("{named}, and not by the index key of --index-key-file"),
            "give every process the index key of this database: it is never changed",
        )
    } else {
        Finding::ok(named)
    })
}

/// Of the statements.
async fn statements(database: &Database) -> Result<Finding, Failure> {
    let refused = database.refused_statements().await?;
    let Some(first) = refused.first() else {
        return Ok(Finding::ok("each statement of the library is accepted"));
    };
    let cause = cause(&first.error);
    let names: Vec<_> = refused.iter().map(|refused| refused.name).collect();
    Ok(Finding::fail(
        format!("the database refuses {} of the statements: {} ({cause})", refused.len(), names.join(", ")),
        "a table, column, index or function was changed by hand: restore it as in the files of migrations/",
    ))
}

/// The code of the database, without its words: they may quote a row.
fn cause(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_else(|| error.to_string())
}
