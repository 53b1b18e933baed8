//! A connection whose statements have to be answered in time.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::{Instant, timeout_at};

use super::fitness::Fitness;

/// The store's own statements go through this executor. A handler's statements do not: they end with its run.
///
/// A network can fall silent without closing a connection. Without a keepalive nobody learns of it for hours, and the
/// caller would wait as long. A statement without an answer in time fails as a lost connection does.
pub(super) struct InTime<'c> {
    connection: &'c mut PgConnection,
    limit: Duration,
    fitness: &'c mut Fitness,
}

impl<'c> InTime<'c> {
    /// Notes in `fitness` what the errors of the statements say about the connection. Without an answer in time it must
    /// be closed: the answer may come later.
    pub(super) fn new(connection: &'c mut PgConnection, limit: Duration, fitness: &'c mut Fitness) -> Self {
        Self { connection, limit, fitness }
    }
}

impl fmt::Debug for InTime<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTime").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut InTime<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let end = Instant::now() + self.limit;
        let (rows, fitness) = (self.connection.fetch_many(query), &mut *self.fitness);
        stream::unfold((rows, fitness, false), move |(mut rows, fitness, is_over)| async move {
            if is_over {
                return None;
            }
            // Nothing is asked of a silent connection. To say nothing would be a success without a row.
            let row = if *fitness == Fitness::Silent { None } else { timeout_at(end, rows.next()).await.ok() };
            let row = match row {
                Some(row) => row?.inspect_err(|error| fitness.note(error)),
                None => {
                    *fitness = Fitness::Silent;
                    Err(no_answer())
                }
            };
            let is_over = *fitness == Fitness::Silent;
            Some((row, (rows, fitness, is_over)))
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let end = Instant::now() + self.limit;
        Box::pin(async move {
            if *self.fitness == Fitness::Silent {
                return Err(no_answer());
            }
            match timeout_at(end, self.connection.fetch_optional(query)).await {
                Ok(row) => row.inspect_err(|error| self.fitness.note(error)),
                Err(_elapsed) => {
                    *self.fitness = Fitness::Silent;
                    Err(no_answer())
                }
            }
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.connection.describe(sql)
    }
}

/// The error of a statement without an answer in time. For the caller it is a lost connection.
pub(super) fn no_answer() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer from the database in time").into()
}
