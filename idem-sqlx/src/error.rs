//! What a database's errors mean for a run: by SQLSTATE or result code, never by message (rule 18).

use idem_core::{Error, Kind};

use crate::failure::Failure;

/// Turns the error of a statement into the error that the caller of a handler gets.
///
/// ```
/// use idem_core::Kind;
///
/// let error = idem_sqlx::into_idem_error(sqlx::Error::PoolTimedOut);
/// assert_eq!(error.kind(), Kind::StoreUnavailable);
/// ```
///
/// Use it for a handler's own statements. The kind says whose fault it was:
///
/// | the error | its kind | status | a retry |
/// |---|---|---|---|
/// | a constraint, a value that cannot be stored (SQLSTATE classes 22 and 23) | [`Kind::DataRefused`] | 422 | is refused again |
/// | a missing table, column, right or feature (42, 3D, 3F, 0A, 28 and others), a column of another type | [`Kind::DeploymentBroken`] | 500 | runs once it is corrected |
/// | a deadlock, a serialization failure, a time limit, a busy file | [`Kind::RetryLater`] | 503 | runs |
/// | a lost connection, a full pool, a full disk, a Postgres server that only reads | [`Kind::StoreUnavailable`] | 503 | runs |
/// | a statement in a failed transaction | [`Kind::TransactionAborted`] | 500 | runs |
/// | everything else | [`Kind::StoreFailed`] | 500 | may run |
///
/// # Rules
/// - Handle constraint violations that mean something to your callers before you call it.
/// - The error quotes no value of a row: see [`sqlx_error`](crate::sqlx_error).
/// - `DeploymentBroken` is logged at `error` by this function.
///
/// # Limitations
/// - SQLite has one code for a missing table and for some runtime errors, such as malformed JSON in a JSON function. It
///   is `DeploymentBroken`, so nothing is given up too early.
#[must_use]
pub fn into_idem_error(error: sqlx::Error) -> Error {
    shouted(caused(kind(&error), error))
}

/// The error of one of the store's own statements.
///
/// The tables are the store's, so what is wrong with them is the deployment's fault, and the error can say what to do.
pub(crate) fn store_error(error: sqlx::Error) -> Error {
    let kind = match kind(&error) {
        Kind::DataRefused if is_constraint(&error) => Kind::DeploymentBroken,
        Kind::DeploymentBroken if is_no_database(&error) => Kind::StoreUnavailable,
        kind => kind,
    };
    let advice = (kind == Kind::DeploymentBroken).then(|| advice(&error)).flatten();
    let error = caused(kind, error);
    shouted(match advice {
        Some(advice) => error.because(advice),
        None => error,
    })
}

/// The epoch has no row. No hint answers then, and requests are not refused.
pub(crate) fn no_epoch() -> Error {
    Error::new(Kind::DeploymentBroken).because(
        "the store's table `idem_epoch` has lost its value: `new_epoch` of `idem_core::operate::Operate` sets it",
    )
}

/// The error where no connection could be had, or where no transaction could be begun on it.
///
/// Nothing has run yet, whatever the code is, and the request is not to blame. An operator can fix a dropped database,
/// a changed password or a wrong configuration, and then the same request runs. So the error is `StoreUnavailable` and
/// not that of a failed statement (rule 30). A busy database stays `RetryLater`.
pub(crate) fn not_begun(error: sqlx::Error) -> Error {
    let kind = if kind(&error) == Kind::RetryLater { Kind::RetryLater } else { Kind::StoreUnavailable };
    caused(kind, error)
}

/// An error of this kind, whose cause prints no words of the database.
pub(crate) fn caused(kind: Kind, error: sqlx::Error) -> Error {
    Error::new(kind).caused_by(Failure(error))
}

/// Logs what an operator has to correct, since the caller of a plain function may only deliver its message again.
fn shouted(error: Error) -> Error {
    if error.kind() == Kind::DeploymentBroken {
        let cause = std::error::Error::source(&error);
        tracing::error!(target: "idem", code = error.code(), cause, "{error}");
    }
    error
}

pub(crate) fn kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Database(answer) => of_answer(answer.as_ref()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Kind::StoreUnavailable,
        sqlx::Error::Configuration(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_) => Kind::DeploymentBroken,
        _ => Kind::StoreFailed,
    }
}

fn of_answer(answer: &dyn sqlx::error::DatabaseError) -> Kind {
    #[cfg(feature = "postgres")]
    if let Some(answer) = answer.try_downcast_ref() {
        return crate::postgres::error::kind(answer);
    }
    #[cfg(feature = "sqlite")]
    if let Some(code) = answer.try_downcast_ref().and_then(crate::sqlite::error::code) {
        return crate::sqlite::error::kind(code);
    }
    let _unknown = answer;
    Kind::StoreFailed
}

/// The store's tables have no constraint that a request can violate. Somebody has added one.
fn is_constraint(error: &sqlx::Error) -> bool {
    let Some(answer) = error.as_database_error() else { return false };
    #[cfg(feature = "postgres")]
    if answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return answer.code().is_some_and(|code| code.starts_with("23"));
    }
    #[cfg(feature = "sqlite")]
    if let Some(code) = answer.try_downcast_ref().and_then(crate::sqlite::error::code) {
        return code == crate::sqlite::error::CONSTRAINT;
    }
    let _unknown = answer;
    false
}

/// SQLite opens a file by the first statement that reads it, which is one of the store's. So a file that is no database
/// turns out there, and counts as one that cannot be opened (rule 30).
fn is_no_database(error: &sqlx::Error) -> bool {
    #[cfg(feature = "sqlite")]
    if let Some(code) =
        error.as_database_error().and_then(|answer| crate::sqlite::error::code(answer.try_downcast_ref()?))
    {
        return code == crate::sqlite::error::NOTADB;
    }
    let _other = error;
    false
}

/// What an operator has to do about the store's tables.
fn advice(error: &sqlx::Error) -> Option<&'static str> {
    const INDEX: &str = idem_core::seal::OTHER_INDEX;
    const MIGRATE: &str = "the store's tables are missing in this database, or are of another release: call `migrate()` \
                           or run the copied migrations";
    #[cfg(feature = "postgres")]
    const GRANT: &str = "the role of the application lacks a right on the store's tables or their schema: grant it";
    let answer = error.as_database_error()?;
    #[cfg(feature = "postgres")]
    if answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return match answer.code()?.as_ref() {
            // No such table, schema, column, function.
            "42P01" | "3F000" | "42703" | "42883" => Some(MIGRATE),
            "42501" => Some(GRANT),
            "23514" if answer.constraint().is_some_and(|name| name.starts_with(crate::postgres::mark::CHECK)) => {
                Some(INDEX)
            }
            _ => None,
        };
    }
    #[cfg(feature = "sqlite")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        return match crate::sqlite::error::code(answer)? {
            crate::sqlite::error::ERROR => Some(MIGRATE),
            crate::sqlite::error::CONSTRAINT if crate::sqlite::error::is_of_check(answer) => Some(INDEX),
            _ => None,
        };
    }
    let _unknown = answer;
    None
}
