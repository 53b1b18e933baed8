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
        // A file is opened by the first statement that reads it, so only then does a file turn out not to be a
        // database.
        READONLY | IOERR | FULL | CANTOPEN | NOTADB => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    }
}

/// The primary result code: the low byte of the extended one.
pub(crate) fn code(error: &SqliteError) -> Option<i32> {
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Whether a failed COMMIT has certainly kept nothing.
///
/// A busy file and a deferred constraint leave the transaction open, and it is rolled back. After any other error the
/// record has to be looked up.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    matches!(answer(error), Some(BUSY | LOCKED | CONSTRAINT))
}

/// Whether a completion failed because the savepoint that it releases was gone.
///
/// SQLite has no separate code for that, only the code for an SQL error. A completion whose savepoint exists does not
/// cause an SQL error.
pub(super) fn has_no_savepoint(error: &sqlx::Error) -> bool {
    answer(error) == Some(ERROR)
}

/// BEGIN met a transaction of the connection's last user, in the database or in sqlx's count.
///
/// SQLite has no separate code for that either. Any other SQL error occurs again after the open transaction is ended.
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
