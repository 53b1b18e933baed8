//! What a database's errors mean for a run: by SQLSTATE or result code, never by message (rule 18).

use idem_core::{Error, Kind};

/// Turns the error of a statement into the error that the caller of a handler gets.
///
/// ```
/// use idem_core::Kind;
///
/// let error = idem_sqlx::into_idem_error(sqlx::Error::PoolTimedOut);
/// assert_eq!(error.kind(), Kind::StoreUnavailable);
/// ```
///
/// Use it for a handler's own statements. A deadlock, a serialization failure and a busy file are [`Kind::RetryLater`],
/// which is 503 with `Retry-After`; a lost connection is [`Kind::StoreUnavailable`]; a statement in a failed
/// transaction is [`Kind::TransactionAborted`]; everything else is [`Kind::StoreFailed`], which is 500. Handle
/// constraint violations that mean something to your callers before you call it.
#[must_use]
pub fn into_idem_error(error: sqlx::Error) -> Error {
    Error::new(kind(&error)).caused_by(error)
}

fn kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Database(answer) => of_answer(answer.as_ref()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    }
}

/// The error where no connection could be had, or where no transaction could be begun on it.
///
/// Nothing has run yet, whatever the code is, and the request is not to blame. An operator can fix a dropped database,
/// a changed password or a wrong configuration, and then the same request runs. So the error is `StoreUnavailable` and
/// not that of a failed statement (rule 30). A busy database stays `RetryLater`.
pub(crate) fn not_begun(error: sqlx::Error) -> Error {
    let kind = if kind(&error) == Kind::RetryLater { Kind::RetryLater } else { Kind::StoreUnavailable };
    Error::new(kind).caused_by(error)
}

fn of_answer(answer: &dyn sqlx::error::DatabaseError) -> Kind {
    #[cfg(feature = "postgres")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return crate::postgres::error::kind(answer.code());
    }
    #[cfg(feature = "sqlite")]
    if let Some(code) = answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().and_then(crate::sqlite::error::code) {
        return crate::sqlite::error::kind(code);
    }
    let _unknown = answer;
    Kind::StoreFailed
}
