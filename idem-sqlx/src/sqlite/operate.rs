//! The statements for operators.
//!
//! A column of SQLite takes values of every type. The casts keep a single row that was inserted by hand from hiding all
//! other rows.

use std::sync::LazyLock;

use idem_core::machine::{Explanation, Retry};
use idem_core::observer::Backlog;
use idem_core::operate::{Answer, Change, Counts, Cursor, Forgotten, Listed, Page, Reason};
use idem_core::store::{Claim, Timestamp};
use idem_core::{Error, Fingerprint, Identity, Scope};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{FromRow, Row};

use super::epoch::begin_epoch;
use super::records::{bind_identity, read};
use super::session::{Reader, Session, alone};
use super::store::SqliteStore;
use super::sweep::now;
use crate::database::{Database, ForgottenBatch, Sight, SomeListed};
use crate::error::store_error;
use crate::operate;
use crate::row;

operate::operate!(SqliteStore);

/// Every writer waits for a batch, and sleeps up to a tenth of a second before it tries again.
const BATCH: i64 = 250;

impl SqliteStore {
    pub(super) async fn look_at(&self, identity: &Identity, _asked: Option<Fingerprint>) -> Result<Sight, Error> {
        static DETAILS_ALONE: LazyLock<String> = LazyLock::new(|| alone(DETAILS));
        let mut reader = Reader::acquire(self.pool()).await?;
        let found = self.inner().records.find_alone(&mut reader, identity).await?;
        let details = match &found.0 {
            Some(record) => {
                let claim = record.claim.as_bytes().as_slice();
                let query = || bind_identity(sqlx::query(DETAILS_ALONE.as_str()), identity).bind(claim);
                let rows = reader.fetch_all(query).await.map_err(store_error)?;
                let rows = rows.iter().map(FromRow::from_row).collect::<sqlx::Result<_>>();
                operate::details(rows.map_err(store_error)?)
            }
            None => operate::details(Vec::new()),
        };
        Ok(Sight { in_flight: None, found, details })
    }

    pub(super) async fn list_after(
        &self,
        scope: Option<&Scope>,
        after: &Cursor,
        most: u32,
    ) -> Result<SomeListed, Error> {
        static LIST_ALONE: LazyLock<String> = LazyLock::new(|| alone(LIST));
        static LIST_OF_SCOPE_ALONE: LazyLock<String> = LazyLock::new(|| alone(LIST_OF_SCOPE));
        let (text, scope) = match scope {
            Some(scope) => (LIST_OF_SCOPE_ALONE.as_str(), scope.as_str()),
            None => (LIST_ALONE.as_str(), after.scope.as_str()),
        };
        let query = || sqlx::query(text).bind(scope).bind(&after.operation).bind(&after.key_hash).bind(i64::from(most));
        let mut reader = Reader::acquire(self.pool()).await?;
        let rows = reader.fetch_all(query).await.map_err(store_error)?;
        let listed: Vec<(Listed, Timestamp)> =
            rows.iter().map(|row| operate::listed(read(row), FromRow::from_row(row))).collect::<Result<_, _>>()?;
        let now = match listed.last() {
            Some((_, now)) => *now,
            None => Timestamp(now(&mut reader.into_connection()).await.map_err(store_error)?),
        };
        Ok(SomeListed { records: listed.into_iter().map(|(listed, _)| listed).collect(), now })
    }

    pub(super) async fn count(&self) -> Result<Counts, Error> {
        static COUNT_ALONE: LazyLock<String> = LazyLock::new(|| alone(COUNT_RECORDS));
        let mut reader = Reader::acquire(self.pool()).await?;
        let query = || sqlx::query(COUNT_ALONE.as_str()).bind(i64::from(Counts::MOST));
        let rows = reader.fetch_all(query).await.map_err(store_error)?;
        let groups: Vec<operate::Group> =
            rows.iter().map(FromRow::from_row).collect::<sqlx::Result<_>>().map_err(store_error)?;
        let now = match groups.last() {
            Some(group) => group.8,
            None => now(&mut reader.into_connection()).await.map_err(store_error)?,
        };
        operate::counts(groups, Timestamp(now))
    }

    pub(super) async fn forget_some(
        &self,
        scope: &Scope,
        after: &(String, Vec<u8>),
        is_dry: bool,
    ) -> Result<ForgottenBatch, Error> {
        if is_dry {
            static FATES_ALONE: LazyLock<String> = LazyLock::new(|| alone(FATES));
            let mut connection = self.connection().await?;
            let now = now(&mut connection).await.map_err(store_error)?;
            let mut reader = Reader::on(connection);
            let query = || {
                let query = sqlx::query(FATES_ALONE.as_str()).bind(scope.as_str()).bind(&after.0).bind(&after.1);
                query.bind(now).bind(BATCH)
            };
            return batch(&reader.fetch_all(query).await.map_err(store_error)?).map_err(store_error);
        }
        let mut session = Session::begin(self.pool()).await?;
        let batch = forget(session.connection(), scope, after).await.map_err(store_error)?;
        session.commit().await?;
        Ok(batch)
    }

    pub(super) async fn give_up_by(
        &self,
        session: &mut Session,
        identity: &Identity,
        nobodys: Claim,
        reason: &Reason,
    ) -> Result<bool, Error> {
        let query = bind_identity(sqlx::query(GIVE_UP), identity)
            .bind(nobodys.as_bytes().as_slice())
            .bind(row::GIVEN_UP)
            .bind(reason.as_str())
            .bind(row::LEASED);
        let is_given_up = query.execute(session.connection()).await.map_err(store_error)?.rows_affected() == 1;
        if is_given_up {
            let query = bind_identity(sqlx::query(FORGET_ENTRIES), identity);
            query.execute(session.connection()).await.map_err(store_error)?;
        }
        Ok(is_given_up)
    }
}

/// One batch. The transaction has the write lock, so all of its statements see the same records.
async fn forget(
    connection: &mut SqliteConnection,
    scope: &Scope,
    after: &(String, Vec<u8>),
) -> sqlx::Result<ForgottenBatch> {
    let now = now(&mut *connection).await?;
    let query = sqlx::query(FATES).bind(scope.as_str()).bind(&after.0).bind(&after.1).bind(now).bind(BATCH);
    let batch = batch(&query.fetch_all(&mut *connection).await?)?;
    if let Some(reached) = &batch.reached {
        for statement in [FORGET_STEPS.as_str(), REMOVE.as_str(), EMPTY.as_str()] {
            let query = sqlx::query(statement).bind(scope.as_str()).bind(&after.0).bind(&after.1).bind(now);
            query.bind(&reached.0).bind(&reached.1).execute(&mut *connection).await?;
        }
    }
    if batch.forgotten.has_changed() {
        // In the same commit: a hint that has read a record before it was removed has read the earlier epoch.
        begin_epoch(connection).await?;
    }
    Ok(batch)
}

fn batch(rows: &[SqliteRow]) -> sqlx::Result<ForgottenBatch> {
    let mut forgotten = Forgotten::default();
    let mut reached = None;
    for row in rows {
        let (removed, emptied): (bool, bool) = (row.try_get("is_removed")?, row.try_get("is_emptied")?);
        forgotten += Forgotten::new(removed.into(), emptied.into(), (!removed && !emptied).into());
        reached = Some((row.try_get("operation")?, row.try_get("key_hash")?));
    }
    Ok(ForgottenBatch { forgotten, busy: 0, reached })
}

/// The claim says that it is the record that was found. Several rows for a record with several entries.
const DETAILS: &str = "
SELECT CAST(record.created_at AS INTEGER), CAST(record.reason AS TEXT), entry.position, entry.kind,
    CAST(entry.name AS TEXT), CAST(entry.created_at AS INTEGER)
FROM main.idem_records AS record
LEFT JOIN main.idem_journal AS entry
    ON entry.scope = record.scope
    AND entry.operation = record.operation
    AND entry.key_hash = record.key_hash
    AND entry.position >= 0
WHERE record.scope = $1
    AND record.operation = $2
    AND record.key_hash = $3
    AND record.claim = $4
ORDER BY entry.position";

/// Whether there are headers and a body, without either.
macro_rules! list {
    ($condition:literal, $order:literal) => {
        concat!(
            "
SELECT CAST(record.fingerprint AS BLOB), CAST(record.state AS INTEGER), CAST(record.claim AS BLOB),
    CAST(record.format AS INTEGER), CAST(record.status AS INTEGER),
    CASE WHEN record.headers IS NOT NULL THEN x'' END,
    CASE WHEN record.body IS NOT NULL THEN x'' END,
    CAST(record.expires_at AS INTEGER), CAST(record.kept_until AS INTEGER), CAST(record.completed_at AS INTEGER),
    CAST(record.lease_until AS INTEGER), CAST(record.attempt AS INTEGER), CAST(record.released AS INTEGER), time.now,
    CAST(record.scope AS TEXT) AS scope, CAST(record.operation AS TEXT) AS operation,
    CAST(record.key_hash AS BLOB) AS key_hash, CAST(record.created_at AS INTEGER) AS created_at
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time,
    main.idem_records AS record
WHERE ",
            $condition,
            "
ORDER BY ",
            $order,
            "
LIMIT $4"
        )
    };
}

const LIST: &str = list!(
    "(record.scope, record.operation, record.key_hash) > ($1, $2, $3)",
    "record.scope, record.operation, record.key_hash"
);

const LIST_OF_SCOPE: &str = list!(
    "record.scope = $1
    AND (record.operation, record.key_hash) > ($2, $3)",
    "record.operation, record.key_hash"
);

/// The records that expire last: those that are not undone are among them, and most of those that began last.
const COUNT_RECORDS: &str = "
SELECT CAST(operation AS TEXT), CAST(state AS INTEGER), has_reply, is_held, is_past, is_kept,
    count(*), sum(is_of_today), now
FROM (
    SELECT operation, state, headers IS NOT NULL AND body IS NOT NULL AS has_reply, lease_until > time.now AS is_held,
        expires_at <= time.now AS is_past, kept_until IS NOT NULL AND kept_until > time.now AS is_kept,
        created_at > time.now - 86400000000 AS is_of_today, time.now
    FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time,
        main.idem_records
    ORDER BY expires_at DESC
    LIMIT $1
)
GROUP BY operation, state, has_reply, is_held, is_past, is_kept";

/// A finished or expired record that refuses no retries. The numbers of states are those of `row`.
macro_rules! is_removed {
    () => {
        "(state IN (2, 3) OR expires_at <= ?4) AND (kept_until IS NULL OR kept_until <= ?4)"
    };
}

/// A finished record that goes on refusing retries, or a reason.
macro_rules! is_emptied {
    () => {
        "(state IN (2, 3) AND kept_until IS NOT NULL AND kept_until > ?4
    OR state = -1 AND reason IS NOT NULL AND expires_at > ?4)"
    };
}

const FATES: &str = concat!(
    "
SELECT CAST(operation AS TEXT) AS operation, CAST(key_hash AS BLOB) AS key_hash, ",
    is_removed!(),
    " AS is_removed, ",
    is_emptied!(),
    " AS is_emptied
FROM main.idem_records
WHERE scope = ?1
    AND (operation, key_hash) > (?2, ?3)
ORDER BY idem_records.operation, idem_records.key_hash
LIMIT ?5"
);

/// The records of a batch.
const IN_BATCH: &str = "scope = ?1
    AND (operation, key_hash) > (?2, ?3)
    AND (operation, key_hash) <= (?5, ?6)";

static FORGET_STEPS: LazyLock<String> = LazyLock::new(|| {
    let removed = format!("SELECT operation, key_hash FROM main.idem_records WHERE {IN_BATCH} AND {}", is_removed!());
    format!("DELETE FROM main.idem_journal WHERE scope = ?1 AND (operation, key_hash) IN ({removed})")
});

static REMOVE: LazyLock<String> =
    LazyLock::new(|| format!("DELETE FROM main.idem_records WHERE {IN_BATCH} AND {}", is_removed!()));

/// What is finished becomes what the sweep makes of it after its `ttl`.
static EMPTY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "
UPDATE main.idem_records
SET state = min(state, 0),
    status = NULL,
    headers = NULL,
    body = NULL,
    expires_at = max(expires_at, coalesce(kept_until, expires_at)),
    kept_until = NULL,
    reason = NULL
WHERE {IN_BATCH} AND {}",
        is_emptied!()
    )
});

const FORGET_ENTRIES: &str = "
DELETE FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3";

/// It does not expire while anybody may remember it.
const GIVE_UP: &str = "
UPDATE main.idem_records
SET state = $5,
    claim = $4,
    lease_until = NULL,
    completed_at = time.now,
    expires_at = time.now + 3153600000000000,
    kept_until = NULL,
    reason = $6
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND state >= $7
    AND lease_until <= time.now
    AND expires_at > time.now";

/// Every text with its name, as it is sent.
pub(super) fn all() -> [(&'static str, String); 10] {
    [
        ("details", DETAILS.to_owned()),
        ("list", LIST.to_owned()),
        ("list_of_scope", LIST_OF_SCOPE.to_owned()),
        ("count_records", COUNT_RECORDS.to_owned()),
        ("fates", FATES.to_owned()),
        ("forget_steps", FORGET_STEPS.clone()),
        ("forget", REMOVE.clone()),
        ("empty", EMPTY.clone()),
        ("forget_entries", FORGET_ENTRIES.to_owned()),
        ("give_up", GIVE_UP.to_owned()),
    ]
}
