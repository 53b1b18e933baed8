//! A connection whose statements have to be answered in time.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};

use super::fitness::Fitness;
use super::timer::Timer;

/// The store's own statements go through this executor. A handler's statements do not: they end with its run.
///
/// A network can fall silent without closing a connection. Without a keepalive nobody learns of it for hours, and the
/// caller would wait as long. A statement without an answer in time fails as a lost connection does.
pub(super) struct InTime<'c> {
    connection: &'c mut PgConnection,
    limit: Duration,
    timer: &'c mut Timer,
    fitness: &'c mut Fitness,
}

impl<'c> InTime<'c> {
    /// Notes in `fitness` what the errors of the statements say about the connection. Without an answer in time it must
    /// be closed: the answer may come later.
    pub(super) fn new(
        connection: &'c mut PgConnection,
        limit: Duration,
        timer: &'c mut Timer,
        fitness: &'c mut Fitness,
    ) -> Self {
        Self { connection, limit, timer, fitness }
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
        self.timer.start(self.limit);
        let rows = self.connection.fetch_many(query);
        Box::pin(Rows { rows, timer: &mut *self.timer, fitness: &mut *self.fitness, is_over: false })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            if *self.fitness == Fitness::Silent {
                return Err(no_answer());
            }
            match self.timer.within(self.limit, self.connection.fetch_optional(query)).await {
                Some(row) => row.inspect_err(|error| self.fitness.note(error)),
                None => {
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

/// The rows of a statement, all of which have to come in time.
struct Rows<'e> {
    rows: BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>,
    timer: &'e mut Timer,
    fitness: &'e mut Fitness,
    is_over: bool,
}

impl Stream for Rows<'_> {
    type Item = sqlx::Result<Either<PgQueryResult, PgRow>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { rows, timer, fitness, is_over } = &mut *self;
        if *is_over {
            return Poll::Ready(None);
        }
        // Nothing is asked of a silent connection.
        if **fitness != Fitness::Silent {
            match rows.poll_next_unpin(context) {
                Poll::Ready(row) => return Poll::Ready(row.map(|row| row.inspect_err(|error| fitness.note(error)))),
                Poll::Pending => ready!(timer.poll(context)),
            }
        }
        **fitness = Fitness::Silent;
        *is_over = true;
        // To say nothing would be a success without a row.
        Poll::Ready(Some(Err(no_answer())))
    }
}

/// The error of a statement without an answer in time. For the caller it is a lost connection.
pub(super) fn no_answer() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer from the database in time").into()
}
