//! What Postgres' errors mean for a run: by SQLSTATE, never by message (rule 18).

use idem_core::{Error, Kind};

/// The statement failed: what kind of failure is it for the caller?
pub(super) fn classify(error: sqlx::Error) -> Error {
    let kind = match sqlstate(&error).as_deref() {
        Some("40001" | "40P01" | "55P03") => Kind::RetryLater,
        Some("25P02") => Kind::TransactionAborted,
        Some(state) if is_unavailable(state) => Kind::StoreUnavailable,
        Some(_) => Kind::StoreFailed,
        None => match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::Protocol(_) => Kind::StoreUnavailable,
            _ => Kind::StoreFailed,
        },
    };
    Error::new(kind).caused_by(error)
}

/// Connection exceptions, no resources (too many connections), and a server that starts, stops or fails over.
fn is_unavailable(state: &str) -> bool {
    state.starts_with("08") || state.starts_with("53") || state.starts_with("57P") || state == "25006"
}

/// The COMMIT failed: is it sure that nothing was kept?
///
/// A serialization failure, a deadlock, a constraint checked late and an aborted transaction are answers; anything
/// else may be a COMMIT whose answer was lost.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|state| ["40", "23", "25"].iter().any(|class| state.starts_with(class)))
}

/// The transaction had failed before, so this statement could not run.
pub(super) fn is_aborted(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("25P02")
}

/// A snapshot from before the conflicting row: only under the stricter isolation levels.
pub(super) fn is_serialization_failure(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("40001")
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}
