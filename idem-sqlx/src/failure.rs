//! The cause of an error, without the words of the database.

use std::error::Error as StdError;
use std::fmt;

use idem_core::Error;

/// An error of sqlx's that can be logged. A database's own words may quote the values of a row, and so may a decoder's.
/// So this type prints codes and names only, and has no [`source`](StdError::source) that a reporter could print.
pub(crate) struct Failure(pub(crate) sqlx::Error);

/// The error of sqlx's that caused this error, if one did.
///
/// ```
/// let error = idem_sqlx::into_idem_error(sqlx::Error::RowNotFound);
/// assert!(matches!(idem_sqlx::sqlx_error(&error), Some(sqlx::Error::RowNotFound)));
/// ```
///
/// The errors of this crate print the kind of the failure, the SQLSTATE or result code, and the names of the constraint,
/// the table and the column. They print no message of the database, because it may quote the values of a row. Use this
/// function where you need the message, and do not log it where everybody reads.
#[must_use]
pub fn sqlx_error(error: &Error) -> Option<&sqlx::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(Failure(error)) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(answer) => answered(answer.as_ref(), f),
            sqlx::Error::Io(error) => {
                write!(f, "the connection to the database failed: {}", error.kind())?;
                error.raw_os_error().map_or(Ok(()), |code| write!(f, " (os error {code})"))
            }
            sqlx::Error::Tls(_) => f.write_str("no TLS connection to the database"),
            sqlx::Error::Protocol(_) => f.write_str("the database sent what the protocol does not allow"),
            sqlx::Error::PoolTimedOut => f.write_str("no free connection in the pool in time"),
            sqlx::Error::PoolClosed => f.write_str("the pool is closed"),
            sqlx::Error::WorkerCrashed => f.write_str("the thread of the connection has crashed"),
            sqlx::Error::BeginFailed => f.write_str("the connection is not in a transaction after BEGIN"),
            sqlx::Error::InvalidSavePointStatement => f.write_str("a transaction was begun inside a transaction"),
            sqlx::Error::RowNotFound => f.write_str("the statement returned no row"),
            sqlx::Error::TypeNotFound { type_name } => write!(f, "the database has no type `{type_name}`"),
            sqlx::Error::ColumnNotFound(name) => write!(f, "the row has no column `{name}`"),
            sqlx::Error::ColumnIndexOutOfBounds { index, len } => {
                write!(f, "the row has no column {index}, only {len} columns")
            }
            sqlx::Error::ColumnDecode { index, .. } => write!(f, "the value of column {index} is of another type"),
            sqlx::Error::Decode(_) => f.write_str("a value is of another type"),
            sqlx::Error::Encode(_) => f.write_str("a value cannot be sent to the database"),
            sqlx::Error::Configuration(_) => f.write_str("the configuration of the connection is wrong"),
            sqlx::Error::InvalidArgument(_) => f.write_str("an argument is not valid"),
            _ => f.write_str("sqlx failed"),
        }
    }
}

/// Printed like `Display`: the derived form would print the words.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl StdError for Failure {}

fn answered(answer: &dyn sqlx::error::DatabaseError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    #[cfg(feature = "postgres")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        write!(f, "SQLSTATE {} ({:?})", answer.code(), answer.severity())?;
        let names = [
            ("schema", answer.schema()),
            ("table", answer.table()),
            ("column", answer.column()),
            ("type", answer.data_type()),
            ("constraint", answer.constraint()),
            ("routine", answer.routine()),
        ];
        return names.into_iter().filter_map(|(what, name)| Some((what, name?))).try_for_each(|(what, name)| {
            // An exception that a function raises has these names from the function, which may put anything there.
            write!(f, ", {what} {}", name.escape_debug())
        });
    }
    #[cfg(feature = "sqlite")]
    if answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return write!(f, "SQLite result code {}", answer.code().unwrap_or_default());
    }
    write!(f, "code {}", answer.code().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r34_no_error_prints_what_it_was_told() {
        const WORD: &str = "4111 1111";
        let boxed = || Box::<dyn StdError + Send + Sync>::from(WORD);
        let errors = [
            sqlx::Error::Configuration(boxed()),
            sqlx::Error::InvalidArgument(WORD.to_owned()),
            sqlx::Error::Io(std::io::Error::other(WORD)),
            sqlx::Error::Tls(boxed()),
            sqlx::Error::Protocol(WORD.to_owned()),
            sqlx::Error::ColumnDecode { index: "0".to_owned(), source: boxed() },
            sqlx::Error::Encode(boxed()),
            sqlx::Error::Decode(boxed()),
            sqlx::Error::AnyDriverError(boxed()),
        ];
        for error in errors {
            let was = format!("{error:?}");
            let error = crate::into_idem_error(error);
            let mut printed = format!("{error} {error:?} {error:#?}");
            let mut cause = StdError::source(&error);
            while let Some(error) = cause {
                printed += &format!(" {error} {error:?}");
                cause = error.source();
            }
            assert!(was.contains(WORD) && !printed.contains(WORD), "{printed}");
            assert_eq!(format!("{:?}", sqlx_error(&error).expect("sqlx's own")), was, "it can be had on purpose");
        }
    }
}
