//! What SQLite's result codes mean for a run.

use idem_core::Kind;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

const ERROR: i32 = 1;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const CONSTRAINT: i32 = 19;
const NOTADB: i32 = 26;

pub(crate) fn kind(code: i32) -> Kind {
    match code {
        BUSY | LOCKED => Kind::RetryLater,
        // A file is opened by the first statement that reads it, so that is where it may turn out to be no database.
        READONLY | IOERR | FULL | CANTOPEN | NOTADB => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    }
}

/// The primary result code: the low byte of the extended one.
pub(crate) fn code(error: &SqliteError) -> Option<i32> {
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// The COMMIT failed: is it sure that nothing was kept?
///
/// Busy and a constraint checked late leave the transaction open, to be rolled back; after anything else the file
/// has to be asked.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    matches!(answer(error), Some(BUSY | LOCKED | CONSTRAINT))
}

/// The completion failed: was the savepoint in front of it gone?
///
/// SQLite has no code of its own for that, only the one for an SQL error, which a completion in order does not make.
pub(super) fn has_no_savepoint(error: &sqlx::Error) -> bool {
    answer(error) == Some(ERROR)
}

/// BEGIN met a transaction, in the database or in what sqlx counts: the connection's last user left it.
///
/// SQLite has no code of its own for that either. Any other SQL error comes again when the transaction is ended.
pub(super) fn is_left_behind(error: &sqlx::Error) -> bool {
    answer(error) == Some(ERROR) || matches!(error, sqlx::Error::InvalidSavePointStatement)
}

/// The database answered, and the answer was an error.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    answer(error).is_some()
}

fn answer(error: &sqlx::Error) -> Option<i32> {
    code(error.as_database_error()?.try_downcast_ref()?)
}
