//! Why a command failed, in one line that says what to do.

use idem_core::seal::OTHER_INDEX;
use idem_core::{Error, Kind};
use sqlx::error::DatabaseError;

use crate::exit::Exit;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Why there is no connection. The URL is in no message, since it may have a password in it.
    pub(crate) fn of_connection(error: &sqlx::Error) -> Self {
        let unreachable =
            |why: String| Self::new(Exit::Unreachable, format!("{why}: check DATABASE_URL, and the server"));
        match error {
            sqlx::Error::Database(answer) => {
                let code = answer.code().unwrap_or_default().into_owned();
                match code.as_str() {
                    refused if refused.starts_with("28") => Self::new(
                        Exit::NoRights,
                        format!("the server refuses the role or its password (SQLSTATE {refused}): check DATABASE_URL"),
                    ),
                    "42501" => Self::new(
                        Exit::NoRights,
                        "the role may not connect to the database: grant CONNECT on the database to the role",
                    ),
                    "53300" => Self::new(Exit::Busy, "the server has no free connection (SQLSTATE 53300): try later"),
                    "3D000" => unreachable("the server has no database of that name (SQLSTATE 3D000)".to_owned()),
                    "14" => unreachable("the file is not there or cannot be opened".to_owned()),
                    code => unreachable(format!("the database refuses the connection (code {code})")),
                }
            }
            sqlx::Error::Io(error) => unreachable(format!("the database cannot be reached ({})", error.kind())),
            sqlx::Error::Tls(error) => unreachable(format!("no connection by TLS ({error})")),
            _ => unreachable("the database cannot be reached".to_owned()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let answer = idem_sqlx::sqlx_error(&error).and_then(|error| error.as_database_error());
        if let Some(failure) = answer.and_then(of_answer) {
            return failure;
        }
        let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
        match error.kind() {
            Kind::StoreUnavailable => {
                Self::new(Exit::Unreachable, format!("the database cannot be reached{cause}: check DATABASE_URL"))
            }
            Kind::RetryLater => Self::new(Exit::Busy, format!("the database is busy{cause}: try later")),
            Kind::DeploymentBroken if error.to_string() == OTHER_INDEX => Self::new(
                Exit::OtherIndex,
                "the records are named by another index key, or by none: say --index-key-file with the application's index \
                 key, or leave it out",
            ),
            _ => Self::new(Exit::Failed, format!("{error}{cause}")),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        idem_sqlx::into_idem_error(error).into()
    }
}

/// What an operator can do about an answer, by its code.
fn of_answer(answer: &dyn DatabaseError) -> Option<Failure> {
    const READS_ONLY: &str = "the database only reads: connect to the primary, or make the file writable";
    const NO_RIGHTS: &str = "the role lacks a right (SQLSTATE 42501): run `idem doctor` as the owner of the tables, \
                             which prints the GRANT";
    const OTHER_TABLES: &str = "the tables do not fit this release: run `idem doctor`";
    let code = answer.code()?;
    let failure = |exit, message| Some(Failure::new(exit, message));
    if answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // The lowest byte is the primary result code.
        return match code.parse::<u32>().ok()? & 0xff {
            8 => failure(Exit::ReadOnly, READS_ONLY),
            5 | 6 => failure(Exit::Busy, "another process writes to the file: try later"),
            14 => failure(Exit::Unreachable, "the file cannot be opened: check DATABASE_URL"),
            26 => failure(Exit::Unreachable, "the file is no SQLite database: check DATABASE_URL"),
            1 => failure(Exit::Older, OTHER_TABLES),
            _ => None,
        };
    }
    match code.as_ref() {
        "25006" => failure(Exit::ReadOnly, READS_ONLY),
        "42501" => failure(Exit::NoRights, NO_RIGHTS),
        "42P01" | "42703" | "42883" | "3F000" => failure(Exit::Older, OTHER_TABLES),
        _ => None,
    }
}
