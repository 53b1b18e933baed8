//! What Postgres' SQLSTATEs mean for a run.

use idem_core::Kind;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(crate) fn kind(sqlstate: &str) -> Kind {
    match sqlstate {
        "40001" | "40P01" => Kind::RetryLater,
        // The server's own time limits: on a lock, a statement, an idle transaction, a transaction.
        "55P03" | "57014" | "25P03" | "25P04" => Kind::RetryLater,
        "25P01" => Kind::TransactionEnded,
        "25P02" => Kind::TransactionAborted,
        // A read-only server is a standby, or a primary that has just become a standby.
        "25006" => Kind::StoreUnavailable,
        // Connection exceptions, no resources (too many connections), a server that starts, stops or fails over.
        state if ["08", "53", "57P"].iter().any(|class| state.starts_with(class)) => Kind::StoreUnavailable,
        _ => Kind::StoreFailed,
    }
}

/// Whether a failed COMMIT has certainly kept nothing.
///
/// An ordinary error is an answer: the transaction is rolled back. A fatal error may have come between the commit and
/// its answer, and a lost connection may have lost the answer to a success.
pub(super) fn commit_was_refused(error: &sqlx::Error) -> bool {
    const STATEMENT_COMPLETION_UNKNOWN: &str = "40003";
    let answer = error.as_database_error().and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>());
    answer.is_some_and(|answer| {
        // A pooler reports its own lost connection (class 08) in the server's name.
        let unknown = answer.code() == STATEMENT_COMPLETION_UNKNOWN || answer.code().starts_with("08");
        answer.severity() == PgSeverity::Error && !unknown
    })
}

/// The statement could not run, because its transaction had failed before.
pub(super) fn is_aborted(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("25P02")
}

/// BEGIN met a transaction of the connection's last user. The transaction has failed, or sqlx still counts it.
pub(super) fn is_left_behind(error: &sqlx::Error) -> bool {
    is_aborted(error) || matches!(error, sqlx::Error::InvalidSavePointStatement)
}

/// There is no transaction, or the transaction does not have our savepoint.
pub(super) fn has_no_savepoint(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("25P01" | "3B001"))
}

/// The snapshot is older than the conflicting row. This happens only under the stricter isolation levels.
pub(super) fn is_serialization_failure(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("40001")
}

/// This Postgres does not support the statement, or not on several nodes at once.
pub(super) fn is_not_supported(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("0A000")
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}
