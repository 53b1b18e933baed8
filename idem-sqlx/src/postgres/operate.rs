//! The statements for operators.

use idem_core::machine::{Details, Explanation, Retry};
use idem_core::observer::Backlog;
use idem_core::operate::{Answer, Change, Counts, Cursor, Forgotten, Listed, Page, Reason};
use idem_core::store::{Claim, Record, Timestamp};
use idem_core::{Error, Fingerprint, Identity, Scope};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

use super::in_time::InTime;
use super::records::{bind_identity, columns, read};
use super::schema::{Template, statements};
use super::session::Session;
use super::store::PgStore;
use crate::database::{Database, ForgottenBatch, Sight, SomeListed};
use crate::error::store_error;
use crate::operate;
use crate::row;

statements! {
    /// The statements for operators, with the schema in them.
    OperateSql:
    details: DETAILS,
    list: LIST,
    list_of_scope: LIST_OF_SCOPE,
    now: NOW,
    count_records: COUNT_RECORDS,
    forget: FORGET,
    give_up: GIVE_UP,
}

operate::operate!(PgStore);

/// A batch takes some milliseconds. Requests of the scope wait for it only where they meet one of its records.
const BATCH: i64 = 500;

impl PgStore {
    pub(super) async fn look_at(&self, identity: &Identity, asked: Option<Fingerprint>) -> Result<Sight, Error> {
        let mut session = Database::begin(self).await?;
        let connection = &mut session.in_time();
        let records = self.inner().records(&mut *connection).await?;
        let run = records.in_flight(&mut *connection, identity, asked).await.map_err(store_error)?;
        let found = records.find(&mut *connection, identity).await?;
        let mut details = match &found.0 {
            Some(record) => self.details(&mut *connection, identity, record).await?,
            None => operate::details(Vec::new()),
        };
        session.commit(self.inner().commit_deadline).await?;
        let (in_flight, held_by) = run.unzip();
        details.session = held_by;
        Ok(Sight { in_flight, found, details })
    }

    async fn details(
        &self,
        connection: &mut InTime<'_>,
        identity: &Identity,
        record: &Record,
    ) -> Result<Details, Error> {
        let sql = &self.inner().statements(&mut *connection).await?.operate;
        let query = bind_identity(self.query(&sql.details), identity).bind(record.claim.as_bytes().as_slice());
        let rows = query.fetch_all(connection).await.map_err(store_error)?;
        let rows = rows.iter().map(FromRow::from_row).collect::<sqlx::Result<_>>();
        rows.map(operate::details).map_err(store_error)
    }

    pub(super) async fn list_after(
        &self,
        scope: Option<&Scope>,
        after: &Cursor,
        most: u32,
    ) -> Result<SomeListed, Error> {
        let mut session = Database::begin(self).await?;
        let connection = &mut session.in_time();
        let sql = &self.inner().statements(&mut *connection).await?.operate;
        let query = match scope {
            Some(scope) => self.query(&sql.list_of_scope).bind(scope.as_str()),
            None => self.query(&sql.list).bind(&after.scope),
        };
        let query = query.bind(&after.operation).bind(&after.key_hash).bind(i64::from(most));
        let rows = query.fetch_all(&mut *connection).await.map_err(store_error)?;
        let listed: Vec<(Listed, Timestamp)> =
            rows.iter().map(|row| operate::listed(read(row), FromRow::from_row(row))).collect::<Result<_, _>>()?;
        let now = match listed.last() {
            Some((_, now)) => *now,
            None => {
                let row = self.query(&sql.now).fetch_one(&mut *connection).await.map_err(store_error)?;
                Timestamp(row.try_get(0).map_err(store_error)?)
            }
        };
        session.commit(self.inner().commit_deadline).await?;
        Ok(SomeListed { records: listed.into_iter().map(|(listed, _)| listed).collect(), now })
    }

    pub(super) async fn count(&self) -> Result<Counts, Error> {
        let mut session = Database::begin(self).await?;
        let connection = &mut session.in_time();
        let sql = &self.inner().statements(&mut *connection).await?.operate;
        let query = self.query(&sql.count_records).bind(i64::from(Counts::MOST));
        let rows = query.fetch_all(&mut *connection).await.map_err(store_error)?;
        let groups: Vec<operate::Group> =
            rows.iter().map(FromRow::from_row).collect::<sqlx::Result<_>>().map_err(store_error)?;
        let now = match groups.last() {
            Some(group) => group.8,
            None => {
                let row = self.query(&sql.now).fetch_one(&mut *connection).await.map_err(store_error)?;
                row.try_get(0).map_err(store_error)?
            }
        };
        session.commit(self.inner().commit_deadline).await?;
        operate::counts(groups, Timestamp(now))
    }

    pub(super) async fn forget_some(
        &self,
        scope: &Scope,
        (operation, key_hash): &(String, Vec<u8>),
        is_dry: bool,
    ) -> Result<ForgottenBatch, Error> {
        let mut session = Database::begin(self).await?;
        let connection = &mut session.in_time();
        let sql = &self.inner().statements(&mut *connection).await?.operate;
        let query =
            self.query(&sql.forget).bind(scope.as_str()).bind(operation).bind(key_hash).bind(BATCH).bind(is_dry);
        let row = query.fetch_one(&mut *connection).await.map_err(store_error)?;
        let batch = batch(&row, is_dry).map_err(store_error)?;
        if !is_dry && batch.forgotten.has_changed() {
            // In the same commit: a hint that has read a record before it was removed has read the earlier epoch.
            self.begin_epoch_in(&mut session).await?;
        }
        session.commit(self.inner().commit_deadline).await?;
        Ok(batch)
    }

    pub(super) async fn give_up_by(
        &self,
        session: &mut Session,
        identity: &Identity,
        nobodys: Claim,
        reason: &Reason,
    ) -> Result<bool, Error> {
        let connection = &mut session.in_time();
        let sql = &self.inner().statements(&mut *connection).await?.operate;
        let query = bind_identity(self.query(&sql.give_up), identity)
            .bind(nobodys.as_bytes().as_slice())
            .bind(row::GIVEN_UP)
            .bind(reason.as_str())
            .bind(row::LEASED);
        let is_given_up = query.execute(&mut *connection).await.map_err(store_error)?.rows_affected() == 1;
        if is_given_up {
            let leases = self.inner().leases(&mut *connection).await?;
            leases.forget_entries(connection, identity).await.map_err(store_error)?;
        }
        Ok(is_given_up)
    }

    fn query(&self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(!self.inner().unnamed_statements)
    }
}

fn batch(row: &PgRow, is_dry: bool) -> sqlx::Result<ForgottenBatch> {
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
    let (to_remove, to_empty) = (number("to_remove")?, number("to_empty")?);
    let (removed, emptied, busy) = match is_dry {
        true => (to_remove, to_empty, 0),
        false => (number("removed")?, number("emptied")?, number("busy")?),
    };
    let kept = number("looked_at")?.saturating_sub(to_remove + to_empty);
    let operation: Option<String> = row.try_get("last_operation")?;
    let key_hash: Option<Vec<u8>> = row.try_get("last_key_hash")?;
    Ok(ForgottenBatch { forgotten: Forgotten::new(removed, emptied, kept), busy, reached: operation.zip(key_hash) })
}

/// The claim says that it is the record that was found. Several rows for a record with several entries.
const DETAILS: Template = Template(
    "
SELECT (greatest(least(extract(epoch FROM record.created_at), 9000000000000), 0) * 1000000)::bigint,
    record.reason, entry.position, entry.kind, entry.name, (extract(epoch FROM entry.created_at) * 1000000)::bigint
FROM {schema}.idem_records AS record
LEFT JOIN {schema}.idem_journal AS entry
    ON entry.scope = record.scope
    AND entry.operation = record.operation
    AND entry.key_hash = record.key_hash
    AND entry.position >= 0
WHERE record.scope = $1::text
    AND record.operation = $2::text
    AND record.key_hash = $3::bytea
    AND record.claim = $4::bytea
ORDER BY entry.position",
);

/// Whether there are headers and a body, without either: they may be long, and kept beside the table.
macro_rules! listed {
    () => {
        concat!(
            columns!(
                "CASE WHEN record.headers IS NOT NULL THEN ''::bytea END, CASE WHEN record.body IS NOT NULL THEN ''::bytea END"
            ),
            ",
    record.scope, record.operation, record.key_hash,
    (greatest(least(extract(epoch FROM record.created_at), 9000000000000), 0) * 1000000)::bigint AS created_at"
        )
    };
}

const LIST: Template = Template(concat!(
    "
SELECT ",
    listed!(),
    "
FROM {schema}.idem_records AS record
WHERE (record.scope, record.operation, record.key_hash)
    > ($1::text COLLATE \"C\", $2::text COLLATE \"C\", $3::bytea)
ORDER BY record.scope, record.operation, record.key_hash
LIMIT $4::bigint",
));

const LIST_OF_SCOPE: Template = Template(concat!(
    "
SELECT ",
    listed!(),
    "
FROM {schema}.idem_records AS record
WHERE record.scope = $1::text
    AND (record.operation, record.key_hash) > ($2::text COLLATE \"C\", $3::bytea)
ORDER BY record.operation, record.key_hash
LIMIT $4::bigint",
));

const NOW: Template = Template("SELECT (extract(epoch FROM now()) * 1000000)::bigint");

/// The records that expire last: those that are not undone are among them, and most of those that began last.
const COUNT_RECORDS: Template = Template(
    "
SELECT operation, state, has_reply, is_held, is_past, is_kept,
    count(*), count(*) FILTER (WHERE is_of_today), (extract(epoch FROM now()) * 1000000)::bigint
FROM (
    SELECT operation, state, headers IS NOT NULL AND body IS NOT NULL AS has_reply, lease_until > now() AS is_held,
        expires_at <= now() AS is_past, kept_until IS NOT NULL AND kept_until > now() AS is_kept,
        created_at > now() - interval '1 day' AS is_of_today
    FROM {schema}.idem_records
    ORDER BY expires_at DESC
    LIMIT $1::bigint
) AS looked_at
GROUP BY operation, state, has_reply, is_held, is_past, is_kept",
);

/// A finished record is removed, or emptied if it goes on refusing retries: then it becomes what the sweep makes of it.
/// A record that was given up is emptied of its reason. The numbers of states are those of `row`.
///
/// It skips locked rows. An expired record is locked by a request that replaces it, or by a sweeper. Any other finished
/// record is locked for a moment, and is counted as busy. What is locked is looked at again, as it is by then.
const FORGET: Template = Template(
    "
WITH batch AS MATERIALIZED (
    SELECT operation, key_hash,
        (state IN (2, 3) OR expires_at <= now()) AND (kept_until IS NULL OR kept_until <= now()) AS is_removed,
        state IN (2, 3) AND kept_until IS NOT NULL AND kept_until > now()
            OR state = -1 AND reason IS NOT NULL AND expires_at > now() AS is_emptied,
        expires_at <= now() AS is_past
    FROM {schema}.idem_records
    WHERE scope = $1::text
        AND (operation, key_hash) > ($2::text COLLATE \"C\", $3::bytea)
    ORDER BY operation, key_hash
    LIMIT $4::bigint
), locked AS MATERIALIZED (
    SELECT operation, key_hash, kept_until IS NOT NULL AND kept_until > now()
            OR state = -1 AND expires_at > now() AS is_emptied
    FROM {schema}.idem_records
    WHERE scope = $1::text
        AND (operation, key_hash) IN (SELECT operation, key_hash FROM batch WHERE is_removed OR is_emptied)
        AND (state IN (2, 3) OR state = -1 OR expires_at <= now() AND (kept_until IS NULL OR kept_until <= now()))
        AND NOT $5::boolean
    FOR UPDATE SKIP LOCKED
), emptied AS (
    UPDATE {schema}.idem_records AS record
    SET state = least(record.state, 0),
        status = NULL,
        headers = NULL,
        body = NULL,
        expires_at = greatest(record.expires_at, record.kept_until),
        kept_until = NULL,
        reason = NULL
    FROM locked
    WHERE record.scope = $1::text
        AND record.operation = locked.operation
        AND record.key_hash = locked.key_hash
        AND locked.is_emptied
    RETURNING 1
), removed AS (
    DELETE FROM {schema}.idem_records AS record
    USING locked
    WHERE record.scope = $1::text
        AND record.operation = locked.operation
        AND record.key_hash = locked.key_hash
        AND NOT locked.is_emptied
    RETURNING record.operation, record.key_hash
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING removed
    WHERE step.scope = $1::text
        AND step.operation = removed.operation
        AND step.key_hash = removed.key_hash
)
SELECT (SELECT count(*) FROM batch) AS looked_at,
    (SELECT count(*) FROM batch WHERE is_removed) AS to_remove,
    (SELECT count(*) FROM batch WHERE is_emptied) AS to_empty,
    (SELECT count(*) FROM removed) AS removed,
    (SELECT count(*) FROM emptied) AS emptied,
    (
        SELECT count(*)
        FROM batch
        WHERE (is_removed OR is_emptied)
            AND NOT is_past
            AND (operation, key_hash) NOT IN (SELECT operation, key_hash FROM locked)
    ) AS busy,
    (SELECT operation FROM batch ORDER BY operation DESC, key_hash DESC LIMIT 1) AS last_operation,
    (SELECT key_hash FROM batch ORDER BY operation DESC, key_hash DESC LIMIT 1) AS last_key_hash",
);

/// It does not expire while anybody may remember it.
const GIVE_UP: Template = Template(
    "
UPDATE {schema}.idem_records
SET state = $5::smallint,
    claim = $4::bytea,
    lease_until = NULL,
    completed_at = now(),
    expires_at = now() + interval '36500 days',
    kept_until = NULL,
    reason = $6::text
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND state >= $7::smallint
    AND lease_until <= now()
    AND expires_at > now()",
);
