//! What SQLite's errors mean for a run: by result code, never by message (rule 18).

use idem_core::{Error, Kind};

const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;

/// The statement failed: what kind of failure is it for the caller?
pub(super) fn classify(error: sqlx::Error) -> Error {
    let kind = match code(&error) {
        Some(BUSY | LOCKED) => Kind::RetryLater,
        Some(READONLY | IOERR | FULL | CANTOPEN) => Kind::StoreUnavailable,
        Some(_) => Kind::StoreFailed,
        None => match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Kind::StoreUnavailable,
            _ => Kind::StoreFailed,
        },
    };
    Error::new(kind).caused_by(error)
}

/// The COMMIT failed: is it sure that nothing was kept?
///
/// Busy and a constraint checked late leave the transaction open, to be rolled back; after anything else the file
/// has to be asked.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    const CONSTRAINT: i32 = 19;
    matches!(code(error), Some(BUSY | LOCKED | CONSTRAINT))
}

/// The database answered, and the answer was an error.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    code(error).is_some()
}

/// The primary result code: the low byte of the extended one.
fn code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}
