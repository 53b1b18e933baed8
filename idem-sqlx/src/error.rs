//! What a database's errors mean for a run: by SQLSTATE or result code, never by message (rule 18).

use idem_core::{Error, Kind};

/// What a failed statement means for the caller of a handler.
///
/// ```
/// use idem_core::Kind;
///
/// let error = idem_sqlx::classify(sqlx::Error::PoolTimedOut);
/// assert_eq!(error.kind(), Kind::StoreUnavailable);
/// ```
///
/// For a handler's own errors: a deadlock, a serialization failure and a busy file are [`Kind::RetryLater`], which is
/// 503 with `Retry-After`; a lost connection is [`Kind::StoreUnavailable`]; a statement in a failed transaction is
/// [`Kind::TransactionAborted`]; everything else is [`Kind::StoreFailed`], which is 500. Look at constraint violations
/// that mean something to your callers before you ask.
#[must_use]
pub fn classify(error: sqlx::Error) -> Error {
    let kind = match &error {
        sqlx::Error::Database(answer) => of_answer(answer.as_ref()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    };
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
