//! What SQLite's result codes mean for a run.

use idem_core::Kind;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

pub(crate) const ERROR: i32 = 1;
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const SCHEMA: i32 = 17;
const TOOBIG: i32 = 18;
pub(crate) const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const NOLFS: i32 = 22;
const AUTH: i32 = 23;
const RANGE: i32 = 25;
pub(crate) const NOTADB: i32 = 26;

/// By whose fault it was (rule 18a): the moment's, the request's, the deployment's, or nobody's that is known.
pub(crate) fn kind(code: i32) -> Kind {
    match code {
        BUSY | LOCKED | PROTOCOL | SCHEMA | INTERRUPT => Kind::RetryLater,
        IOERR | FULL | CANTOPEN | NOMEM => Kind::StoreUnavailable,
        CONSTRAINT | MISMATCH | TOOBIG => Kind::DataRefused,
        // `ERROR` is a missing table or column and a wrong syntax, and also some faults of values, such as malformed
        // JSON. SQLite has no finer code. A fault of the deployment is retried, so no request is given up by mistake.
        ERROR | PERM | READONLY | NOLFS | AUTH | RANGE | NOTADB => Kind::DeploymentBroken,
        _ => Kind::StoreFailed,
    }
}

/// The connection only reads: the file, or the connection by a setting that somebody has left.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    answer(error) == Some(READONLY)
}

/// The primary result code: the low byte of the extended one.
pub(crate) fn code(error: &SqliteError) -> Option<i32> {
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Whether a check refused the statement. The only one is that of `idem_index`.
pub(crate) fn is_of_check(error: &SqliteError) -> bool {
    error.code().as_deref() == Some("275")
}

/// Whether a failed COMMIT has certainly kept nothing.
///
/// A busy file and a deferred constraint leave the transaction open, and it is rolled back. After any other error the
/// record has to be looked up.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    matches!(answer(error), Some(BUSY | LOCKED | CONSTRAINT))
}

/// Whether a completion may have failed because the savepoint that it releases was gone.
///
/// SQLite has no separate code for that, only the code for an SQL error. A trigger on the store's tables may cause one,
/// too, so the caller asks for the other savepoint.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r18a_a_result_code_says_whose_fault_it_was() {
        let table: [(Kind, &[i32]); 5] = [
            (Kind::RetryLater, &[5, 6, 9, 15, 17]),
            (Kind::StoreUnavailable, &[7, 10, 13, 14]),
            (Kind::DataRefused, &[18, 19, 20]),
            (Kind::DeploymentBroken, &[1, 3, 8, 22, 23, 25, 26]),
            (Kind::StoreFailed, &[2, 4, 11, 12, 16, 21, 24, 99]),
        ];
        for (expected, codes) in table {
            for code in codes {
                assert_eq!(kind(*code), expected, "{code}");
            }
        }
    }
}
