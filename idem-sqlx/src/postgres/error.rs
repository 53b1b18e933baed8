//! What Postgres' SQLSTATEs mean for a run.

use idem_core::Kind;

pub(crate) fn kind(sqlstate: &str) -> Kind {
    match sqlstate {
        "40001" | "40P01" | "55P03" => Kind::RetryLater,
        "25P02" => Kind::TransactionAborted,
        // A server that only reads is a standby, or a primary that has just become one.
        "25006" => Kind::StoreUnavailable,
        // Connection exceptions, no resources (too many connections), a server that starts, stops or fails over.
        state if ["08", "53", "57P"].iter().any(|class| state.starts_with(class)) => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    }
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
