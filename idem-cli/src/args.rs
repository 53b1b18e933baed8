//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use idem_core::operate::Condition;

use crate::request::{self, FirstSaid, Owner, Which};

/// Look at, mend and check the records of idempotent handlers.
#[derive(Debug, Parser)]
#[command(name = "idem", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The schema that has the tables (Postgres)
    #[arg(long, global = true)]
    pub(crate) schema: Option<String>,
    /// Print JSON: one value, or one in each line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Make the change without asking
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    /// The id of a key that the application's keyring has, once for each key (`explain`, `doctor`)
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) key_id: Vec<u32>,
    /// The file with the index key of the application's keyring, in base64, if it has one (`explain`, `reset`, `give-up`,
    /// `migrate`, `doctor`)
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) index_key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what a retry would get now, and why; the key comes from standard input
    Explain(Explain),
    /// List records, without their content
    List(List),
    /// Remove the finished records of a scope: their retries run again
    Forget {
        #[command(flatten)]
        owner: Owner,
        /// Count what would be removed, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Let a leased run that has used up its attempts be resumed; the key comes from standard input
    Reset {
        #[command(flatten)]
        which: Which,
    },
    /// End a leased run that cannot go on: its retries are refused; the key comes from standard input
    GiveUp {
        #[command(flatten)]
        which: Which,
        /// Why; it is stored in clear, because the command has no key
        #[arg(long)]
        reason: String,
        /// Store the reason in clear beside contents that are sealed
        #[arg(long)]
        in_clear: bool,
    },
    /// Have all hints forget what they know: after a restore, or after records were removed by hand
    NewEpoch,
    /// Create or alter the tables
    Migrate,
    /// Remove expired records
    Sweep {
        /// How many records one statement removes
        #[arg(long)]
        batch: Option<u32>,
        /// A table to which the records are moved
        #[arg(long, value_name = "TABLE")]
        archive: Option<String>,
    },
    /// Show how many records there are, again and again
    Watch {
        /// Print the counts once
        #[arg(long)]
        once: bool,
        /// The pause, such as 10s
        #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
        every: Duration,
    },
    /// Check the database and its settings, and say what to mend
    Doctor(Doctor),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) owner: Owner,
    /// The handler's stable name
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// Only records in this state; may be said several times
    #[arg(long, value_parser = condition, value_name = "STATE")]
    pub(crate) state: Vec<Condition>,
    /// Only records that somebody has to look at: abandoned, undoing, poisoned, unreadable
    #[arg(long, conflicts_with = "state")]
    pub(crate) stuck: bool,
    /// Only records that began so long ago, such as 2h
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// The most records that are printed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) which: Which,
    /// How many attempts the handler allows, if it is leased
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) attempts: u32,
    /// The handler has `first_sent = refuse`, and the retry says this time, such as 2026-11-29T10:00:00Z or as the header
    /// has it; `key` if it says nothing beside its key, a UUID of version 7
    #[arg(long, value_name = "TIME", value_parser = request::FirstSaid::read)]
    pub(crate) first_sent: Option<FirstSaid>,
    /// The handler's `ttl`, with which --first-sent is compared
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration, requires = "first_sent")]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    /// The role of the application, if it is not the one that connects here
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// The application says `unnamed_statements(true)`, as behind a pooler in transaction mode
    #[arg(long)]
    pub(crate) unnamed_statements: bool,
}

fn condition(name: &str) -> Result<Condition, String> {
    Condition::named(name).ok_or_else(|| {
        let names: Vec<_> = Condition::ALL.iter().map(|condition| condition.name()).collect();
        format!("one of {}", names.join(", "))
    })
}
