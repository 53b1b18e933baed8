//! What Postgres' SQLSTATEs mean for a run.

use idem_core::Kind;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(crate) fn kind(answer: &PgDatabaseError) -> Kind {
    match answer {
        // The same statement works on a new connection.
        answer if is_dead_plan(answer) => Kind::RetryLater,
        answer if is_policy_violation(answer) => Kind::DataRefused,
        answer => kind_of(answer.code()),
    }
}

/// By whose fault it was (rule 18a): the moment's, the request's, the deployment's, or nobody's that is known.
fn kind_of(sqlstate: &str) -> Kind {
    match sqlstate {
        // Deadlock, serialization failure, and a snapshot that is too old.
        "40000" | "40001" | "40P01" | "72000" => Kind::RetryLater,
        // The server's own time limits: on a lock, a statement, an idle transaction, a transaction.
        "55P03" | "57014" | "25P03" | "25P04" => Kind::RetryLater,
        // A statement that sqlx has prepared is gone from the connection. The connection is closed.
        "26000" => Kind::RetryLater,
        "25P01" => Kind::TransactionEnded,
        "25P02" => Kind::TransactionAborted,
        // A read-only server is a standby, or a primary that has just become a standby. 58030 is a failing disk.
        "25006" | "58030" => Kind::StoreUnavailable,
        // No fault of the data although the class is 22: an exhausted sequence, and values or texts that the program
        // itself has written in a wrong form.
        "2200H" | "22P03" | "22P04" | "22P06" => Kind::DeploymentBroken,
        // A check option of a view. A value that is too large for an index, or too deeply nested.
        "44000" | "54000" | "54001" => Kind::DataRefused,
        // A missing file of an extension, and a file that is there twice.
        "58P01" | "58P02" => Kind::DeploymentBroken,
        // A server that starts, stops or fails over.
        state if state.starts_with("57P") => Kind::StoreUnavailable,
        state => match state.get(..2).unwrap_or_default() {
            // Connection exceptions, no resources (too many connections, a full disk).
            "08" | "53" => Kind::StoreUnavailable,
            "22" | "23" => Kind::DataRefused,
            // Features, roles, authorization, routines that do what they may not, databases and schemas, everything
            // that a statement names and that is not there or not allowed, limits on the statement itself, and the
            // server's configuration.
            "0A" | "0L" | "0P" | "28" | "2F" | "38" | "39" | "3D" | "3F" | "42" | "54" | "F0" => Kind::DeploymentBroken,
            _ => Kind::StoreFailed,
        },
    }
}

/// Whether the cause of an error may be the connection, so that the next transaction needs another one.
///
/// The server only reads, or reads by a setting that somebody has left. Statements that sqlx has prepared are gone,
/// have a plan that no longer fits, or have names of another client's. A role or a time limit that somebody has left is
/// in the way. If the connection was not to blame, a new one costs some milliseconds.
pub(super) fn is_unfit(error: &sqlx::Error) -> bool {
    let answer = error.as_database_error().and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>());
    answer.is_some_and(|answer| {
        let is_inherited = matches!(answer.code(), "25006" | "26000" | "42P05" | "42501" | "57014");
        is_inherited && !is_policy_violation(answer) || is_dead_plan(answer)
    })
}

/// The result of a prepared statement has changed its columns. Postgres has no code for that alone: 0A000 is also what
/// a distributed Postgres says of statements that it does not support. The routine that refuses is another one.
fn is_dead_plan(answer: &PgDatabaseError) -> bool {
    answer.code() == "0A000" && answer.routine() == Some("RevalidateCachedQuery")
}

/// A row violates a policy of row-level security, as it may violate a constraint. The code is that of a missing right; the
/// routine that refuses is another one.
fn is_policy_violation(answer: &PgDatabaseError) -> bool {
    answer.code() == "42501" && answer.routine() == Some("ExecWithCheckOptions")
}

/// The server has no such function, or the role may not call it.
pub(super) fn is_no_function(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("42501" | "42883" | "0A000"))
}

/// Whether the connection is gone, so that another one may begin what this one could not.
pub(super) fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(answer) => answer.try_downcast_ref::<PgDatabaseError>().is_some_and(|answer| {
            let is_over = matches!(answer.severity(), PgSeverity::Fatal | PgSeverity::Panic);
            is_over || answer.code().starts_with("08") || answer.code().starts_with("57P")
        }),
        _ => false,
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

/// The statement was cancelled, or took longer than the server lets it.
pub(super) fn is_cancelled(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("57014")
}

/// A lock was not free in the time that `lock_timeout` gives.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("55P03")
}

/// Another process has just created what this statement creates, although it says `IF NOT EXISTS`. Postgres reports some
/// of these races as violations of its catalogue's own unique indexes, and some as internal errors.
pub(super) fn is_created_meanwhile(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("23505" | "42P06" | "42P07" | "42701" | "42710" | "XX000"))
}

/// The snapshot is older than the conflicting row. This happens only under the stricter isolation levels.
pub(super) fn is_serialization_failure(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("40001")
}

/// This Postgres does not support the statement, or not on several nodes at once. A database that only speaks Postgres'
/// protocol has no column `ctid` (42703), or does not know a word (42601).
pub(super) fn is_not_supported(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("0A000" | "42703" | "42601")) && !is_unfit(error)
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r18a_a_sqlstate_says_whose_fault_it_was() {
        use Kind::*;
        let table: &[(Kind, &str)] = &[
            (RetryLater, "40000 40001 40P01 55P03 57014 25P03 25P04 26000 72000"),
            (
                StoreUnavailable,
                "08000 08003 08006 08P01 53000 53100 53200 53300 25006 57P01 57P02 57P03 57P04 57P05 58030",
            ),
            (
                DataRefused,
                "22000 22001 22003 22007 22008 22012 22021 2202E 22P02 22P05 23000 23001 23502 23503 23505 23514 23P01",
            ),
            (DataRefused, "44000 54000 54001"),
            (
                DeploymentBroken,
                "42501 42601 42703 42804 42883 42P01 42P02 42P05 42P18 3D000 3F000 0A000 28000 28P01 2F003",
            ),
            (DeploymentBroken, "0L000 0P000 38001 39000 39P01 54011 54023 2200H 22P03 22P04 22P06 58P01 F0000"),
            (TransactionEnded, "25P01"),
            (TransactionAborted, "25P02"),
            (
                StoreFailed,
                "P0001 P0002 P0004 XX000 XX001 21000 24000 25001 25000 0B000 3B001 40003 55000 HV000 2D000 ZZZZZ ZZ",
            ),
        ];
        for (kind, states) in table {
            for state in states.split(' ') {
                assert_eq!(kind_of(state), *kind, "{state}");
            }
        }
    }
}
