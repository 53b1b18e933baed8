//! The exit codes.

use std::fmt::Write;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Unreachable,
    NoTables,
    Older,
    Newer,
    NoRights,
    NotConfirmed,
    NothingFound,
    Unhealthy,
    ReadOnly,
    Busy,
    Held,
    OtherIndex,
}

/// Each with its code, its name in JSON and its meaning. Codes and names are stable.
const ALL: &[(Exit, u8, &str, &str)] = &[
    (Exit::Done, 0, "done", "done, or nothing was to be done"),
    (Exit::Failed, 1, "failed", "failed for a reason that has no code of its own"),
    (Exit::Usage, 2, "usage", "an argument, DATABASE_URL, the key or the schema's name is wrong"),
    (Exit::Unreachable, 3, "unreachable", "the database cannot be reached, or the file cannot be opened"),
    (Exit::NoTables, 4, "no_tables", "the schema or the file has no tables of idem"),
    (Exit::Older, 5, "older_tables", "the tables are of an earlier release: migrations are missing"),
    (Exit::Newer, 6, "newer_tables", "the tables are of a later release than this command"),
    (Exit::NoRights, 7, "no_rights", "the role or its password is refused, or the role lacks a right"),
    (Exit::NotConfirmed, 8, "not_confirmed", "the change was not confirmed; without a terminal say --yes"),
    (Exit::NothingFound, 9, "nothing_found", "there is no such run to change"),
    (Exit::Unhealthy, 10, "unhealthy", "`doctor` found something that has to be mended"),
    (Exit::ReadOnly, 11, "read_only", "the database only reads: a replica, or a file that may not be written"),
    (Exit::Busy, 12, "busy", "the database is busy; the same command works later"),
    (Exit::Held, 13, "held", "a process holds the run: stop the process, or wait until its lease has ended"),
    (
        Exit::OtherIndex,
        14,
        "other_index",
        "the records are named by another index key, or by none: see --index-key-file",
    ),
];

impl Exit {
    fn row(self) -> &'static (Exit, u8, &'static str, &'static str) {
        ALL.iter().find(|(exit, ..)| *exit == self).expect("each exit is in the table")
    }

    pub(crate) fn code(self) -> u8 {
        self.row().1
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }
}

/// For the end of `--help`.
pub(crate) fn help() -> String {
    let mut help = "Environment:\n  DATABASE_URL  postgres://… or sqlite:…\n\nExit codes:\n".to_owned();
    for (_, code, _, meaning) in ALL {
        let _infallible = writeln!(help, "  {code:>2}  {meaning}");
    }
    help
}
