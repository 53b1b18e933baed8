//! The statements on records, and nothing else.

use std::sync::LazyLock;
use std::time::Duration;

use crate::error::{caused, store_error};
use idem_core::store::{Claim, Outcome, Record, Timestamp};
use idem_core::{Error, Identity, Kind, Request};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{FromRow, Row, Sqlite};

use super::session::{Ending, Reader, Session, Unfinished, alone};
use crate::row::{self, Columns};

/// The statements on records and leases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records;

/// What became of a request that was looked up and claimed by one text.
pub(super) enum Met {
    /// There was no record: the running record is inserted.
    Nobody,
    Record(Record, Timestamp),
}

impl Records {
    /// Looks a request up, and inserts its running record if there is none and the request may begin now. It never waits for the write lock. `None` if
    /// a writer has the lock, if the request may not begin, or if something is wrong: under the lock it comes again.
    pub(super) async fn find_or_insert(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
    ) -> Option<Met> {
        // sqlx stops at the first row, so what follows a record is not executed.
        static FIND_OR_INSERT: LazyLock<String> = LazyLock::new(|| format!("{FIND_EXISTING};{INSERT}\nRETURNING 1"));
        let query = bind_window(bind_insert(sqlx::query(FIND_OR_INSERT.as_str()), request, claim), request);
        let row = query.fetch_one(connection).await.ok()?;
        if row.len() == 1 {
            return Some(Met::Nobody);
        }
        let (record, now) = read(&row).ok()?;
        record.map(|record| Met::Record(record, now))
    }

    /// Inserts the running record, if the request may begin now. If a row was inserted, the claimant runs: the primary key is the arbiter.
    pub(super) async fn insert(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_window(bind_insert(sqlx::query(INSERT), request, claim), request);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Replaces an expired record, if it is still the record that was seen.
    pub(super) async fn replace(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_insert(sqlx::query(REPLACE), request, claim).bind(expired.as_bytes().as_slice());
        Ok(query.fetch_all(connection).await?.len() == 1)
    }

    /// The record of an identity and the database's time.
    pub(super) async fn find(
        self,
        connection: &mut SqliteConnection,
        identity: &Identity,
    ) -> Result<(Option<Record>, Timestamp), Error> {
        let row = bind_identity(sqlx::query(FIND), identity).fetch_one(connection).await.map_err(store_error)?;
        read(&row)
    }

    /// The same, on a connection from the pool.
    pub(super) async fn find_alone(
        self,
        reader: &mut Reader,
        identity: &Identity,
    ) -> Result<(Option<Record>, Timestamp), Error> {
        static FIND_ALONE: LazyLock<String> = LazyLock::new(|| alone(FIND));
        let rows = reader.fetch_all(|| bind_identity(sqlx::query(FIND_ALONE.as_str()), identity)).await;
        let row = rows.and_then(|rows| rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)).map_err(store_error)?;
        read(&row)
    }

    /// Completes the record that this transaction claimed, and commits. Does not find the record held, or fails on the
    /// savepoint ([`has_no_savepoint`](super::error::has_no_savepoint)), if this is no longer that transaction.
    pub(super) async fn complete(
        self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
        elapsed: Duration,
        late: Duration,
    ) -> Result<(), Unfinished> {
        static ENDING: LazyLock<Ending> = LazyLock::new(|| Ending::new(COMPLETE));
        let (state, format, status, headers, body) = row::written(outcome);
        let query = bind_identity(ENDING.query(), &request.identity)
            .bind(claim.as_bytes().as_slice())
            .bind(state)
            .bind(format)
            .bind(status)
            .bind(headers)
            .bind(body)
            .bind(microseconds(elapsed))
            .bind(microseconds(late))
            .bind(request.refused_for().map(|time| microseconds(late.saturating_add(time))));
        session.finish(query, &ENDING).await
    }
}

/// $1 to $7: the identity, the fingerprint, the state, the claim, and how long the record lives.
fn bind_insert<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    request: &Request,
    claim: Claim,
) -> Query<'q, Sqlite, SqliteArguments> {
    bind_identity(query, &request.identity)
        .bind(request.fingerprint.as_bytes().as_slice())
        .bind(row::RUNNING)
        .bind(claim.as_bytes().as_slice())
        .bind(microseconds(request.ttl))
}

/// The first and the last time at which the request may begin to run.
pub(super) fn bind_window<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    request: &Request,
) -> Query<'q, Sqlite, SqliteArguments> {
    let (first, last) = request.may_begin();
    query.bind(first.0).bind(last.0)
}

pub(super) fn bind_identity<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    identity: &Identity,
) -> Query<'q, Sqlite, SqliteArguments> {
    query.bind(identity.scope.as_str()).bind(identity.operation.as_str()).bind(identity.key.hash().as_slice())
}

/// A column has any type that was written into it, so a value of another type is a record that cannot be read.
pub(super) fn read(row: &SqliteRow) -> Result<(Option<Record>, Timestamp), Error> {
    let columns = Columns::from_row(row).map_err(|error| match error {
        sqlx::Error::ColumnDecode { .. } => caused(Kind::RecordUnreadable, error),
        error => store_error(error),
    });
    row::read(columns?)
}

/// A duration in the unit of the tables. A duration that does not fit is longer than SQLite's calendar.
pub(super) fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

/// $8 and $9 are the times between which the request may begin. A request that may not inserts nothing, as one that meets
/// a record does. The look-up after it tells the two apart.
const INSERT: &str = "
INSERT INTO main.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6, 1, 0, now, now + $7
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now)
WHERE now BETWEEN $8 AND $9
ON CONFLICT (scope, operation, key_hash) DO NOTHING";

/// The replaced record may have been leased, if an earlier release of the handler was. It was there when it was compared
/// when the request was first sent, and still is, so nothing has run since: that needs no condition here.
const REPLACE: &str = "
UPDATE main.idem_records
SET fingerprint = $4,
    state = $5,
    claim = $6,
    attempt = 1,
    released = 0,
    lease_until = NULL,
    format = 0,
    status = NULL,
    headers = NULL,
    body = NULL,
    created_at = time.now,
    completed_at = NULL,
    expires_at = time.now + $7,
    kept_until = NULL,
    reason = NULL
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $8
    AND expires_at <= time.now
RETURNING 1;
DELETE FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND EXISTS (
        SELECT 1 FROM main.idem_records WHERE scope = $1 AND operation = $2 AND key_hash = $3 AND claim = $6
    )";

/// An operator may have set a time that is no integer: `9e999` is as late as there is.
macro_rules! find {
    ($join:literal) => {
        concat!(
            "
SELECT record.fingerprint, record.state, record.claim, record.format, record.status, record.headers, record.body,
    CASE typeof(record.expires_at) WHEN 'real' THEN CAST(record.expires_at AS INTEGER) ELSE record.expires_at END,
    record.kept_until,
    CAST(record.completed_at AS INTEGER),
    record.lease_until,
    record.attempt,
    record.released,
    time.now
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
",
            $join,
            " main.idem_records AS record
    ON record.scope = $1
    AND record.operation = $2
    AND record.key_hash = $3"
        )
    };
}

/// Always one row: without a record, `expires_at` is NULL.
const FIND: &str = find!("LEFT JOIN");

/// No row without a record.
const FIND_EXISTING: &str = find!("JOIN");

/// The savepoint exists only in the transaction that claimed.
const COMPLETE: &str = "
RELEASE idem_run;
UPDATE main.idem_records
SET state = $5,
    format = $6,
    status = $7,
    headers = $8,
    body = $9,
    completed_at = created_at + $10,
    expires_at = expires_at + $11,
    kept_until = expires_at + $12
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND completed_at IS NULL";
