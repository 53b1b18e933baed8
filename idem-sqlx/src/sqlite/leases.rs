//! The statements on leases and steps, and nothing else.
//!
//! Each statement that changes a leased record checks in itself that the claim still holds the record. If the claim
//! does not, the transaction is rolled back, together with the later statements of the same text.

use std::sync::LazyLock;

use bytes::Bytes;
use idem_core::store::{Abandoned, Claim, Entry, EntryKind, Format, Input, LeaseTerms, Outcome, Place};
use idem_core::{Error, Identity, Kind, Request};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{FromRow, Row, Sqlite};

use super::records::{Records, bind_identity, bind_window, microseconds};
use super::session::{Ending, Reader, Session, Unfinished, alone};
use crate::error::store_error;
use crate::row::{self, EntryColumns, EntryRow};

impl Records {
    /// Inserts a leased record without entries of an earlier record, if the request may begin now, and records the
    /// input.
    pub(super) async fn lease(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> sqlx::Result<bool> {
        let query = bind_window(bind_lease(sqlx::query(LEASE), request, claim, terms), request);
        let leased = query.fetch_all(&mut *connection).await?.len() == 1;
        if leased {
            self.record_input(connection, request, claim).await?;
        }
        Ok(leased)
    }

    /// Replaces an expired record, if it is still the record that was seen.
    pub(super) async fn replace_leased(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        expired: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_lease(sqlx::query(REPLACE_LEASED), request, claim, terms).bind(expired.as_bytes().as_slice());
        let leased = query.fetch_all(&mut *connection).await?.len() == 1;
        if leased {
            self.record_input(connection, request, claim).await?;
        }
        Ok(leased)
    }

    /// Takes over from an attempt whose lease has ended, if no other claimant has.
    pub(super) async fn take_over(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        earlier: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_identity(sqlx::query(TAKE_OVER), &request.identity)
            .bind(earlier.as_bytes().as_slice())
            .bind(row::LEASED)
            .bind(claim.as_bytes().as_slice())
            .bind(microseconds(terms.duration))
            .bind(microseconds(terms.duration.saturating_add(request.ttl)));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// The entries that earlier attempts have recorded, in their order.
    pub(super) async fn entries(
        self,
        connection: &mut SqliteConnection,
        identity: &Identity,
    ) -> Result<Vec<Entry>, Error> {
        let query = bind_identity(sqlx::query(ENTRIES), identity);
        let rows = query.fetch_all(connection).await.map_err(store_error)?;
        entries(&rows)
    }

    /// Renews the lease.
    pub(super) async fn renew(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> sqlx::Result<bool> {
        let query = bind_held(sqlx::query(RENEW), &request.identity, claim)
            .bind(microseconds(terms.duration))
            .bind(microseconds(terms.duration.saturating_add(request.ttl)));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Renews the lease, records an entry once, and commits. Does not find the lease held if it is lost. Fails if the
    /// transaction is no longer the session's.
    pub(super) async fn record_entry(
        self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        entry: &Entry,
    ) -> Result<(), Unfinished> {
        static ENDING: LazyLock<Ending> = LazyLock::new(|| Ending::new(RECORD_ENTRY));
        let rejected = (entry.kind == EntryKind::REJECTION).then_some(row::UNDOING);
        let row = EntryRow::of(entry);
        let query = bind_held(ENDING.query(), &request.identity, claim)
            .bind(microseconds(terms.duration))
            .bind(microseconds(terms.duration.saturating_add(request.ttl)))
            .bind(rejected)
            .bind(i64::from(entry.position))
            .bind(&entry.name)
            .bind(entry.kind.0)
            .bind(row.format)
            .bind(row.status)
            .bind(row.headers)
            .bind(row.body)
            .bind(row.undoes)
            .bind(EntryKind::CALL_STARTED.0)
            .bind(EntryKind::REJECTION.0);
        session.finish(query, &ENDING).await
    }

    /// Completes the record, removes its journal, and commits. Fails as [`record_entry`](Self::record_entry) does.
    pub(super) async fn complete_leased(
        self,
        session: &mut Session,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
    ) -> Result<(), Unfinished> {
        static ENDING: LazyLock<Ending> = LazyLock::new(|| Ending::new(COMPLETE_LEASED));
        let (state, format, status, headers, body) = row::written(outcome);
        let query = bind_held(ENDING.query(), &request.identity, claim)
            .bind(microseconds(request.ttl))
            .bind(state)
            .bind(format)
            .bind(status)
            .bind(headers)
            .bind(body)
            .bind(request.refused_for().map(|time| microseconds(request.ttl.saturating_add(time))));
        session.finish(query, &ENDING).await
    }

    /// Ends the lease and keeps the journal. `nobodys` replaces the claim, so that a renewal on its way cannot revive
    /// the lease. An attempt that has not run leaves no trace in the numbers.
    pub(super) async fn release(
        self,
        connection: &mut SqliteConnection,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> sqlx::Result<bool> {
        let query = bind_held(sqlx::query(RELEASE), identity, claim)
            .bind(nobodys.as_bytes().as_slice())
            .bind(i32::from(!has_run));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Poisons the key of a step that ended its transaction: what the step has kept is not known.
    pub(super) async fn poison_leased(
        self,
        connection: &mut SqliteConnection,
        identity: &Identity,
        claim: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_held(sqlx::query(POISON), identity, claim).bind(row::RUNNING);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Resets the attempts of a run that is not over and that no process holds.
    pub(super) async fn reset_attempts(
        self,
        connection: &mut SqliteConnection,
        identity: &Identity,
    ) -> sqlx::Result<bool> {
        let query = bind_identity(sqlx::query(RESET_ATTEMPTS), identity).bind(row::LEASED);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Records the input of the run, if the request has one to record.
    async fn record_input(
        self,
        connection: &mut SqliteConnection,
        request: &Request,
        claim: Claim,
    ) -> sqlx::Result<()> {
        let Some(input) = &request.input else { return Ok(()) };
        let query = bind_identity(sqlx::query(RECORD_INPUT), &request.identity)
            .bind(claim.as_bytes().as_slice())
            .bind(row::INPUT_POSITION)
            .bind(EntryKind::INPUT.0)
            .bind(Format::VALUE.0)
            .bind(input.0.as_ref());
        query.execute(connection).await.map(|_| ())
    }

    /// A page of the abandoned runs of an operation.
    pub(super) async fn abandoned(
        self,
        reader: &mut Reader,
        operation: &str,
        after: Option<&Place>,
    ) -> sqlx::Result<Vec<Abandoned>> {
        static ABANDONED_ALONE: LazyLock<String> = LazyLock::new(|| alone(ABANDONED));
        let query = || {
            sqlx::query(ABANDONED_ALONE.as_str())
                .bind(operation)
                .bind(row::INPUT_POSITION)
                .bind(row::LEASED)
                .bind(after.map(|place| place.scope.as_str()))
                .bind(after.map(|place| place.key_hash.as_slice()))
        };
        reader.fetch_all(query).await?.iter().map(abandoned).collect()
    }
}

/// $1 to $5: the identity, the claim, and the lowest state of a leased record.
fn bind_held<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    identity: &Identity,
    claim: Claim,
) -> Query<'q, Sqlite, SqliteArguments> {
    bind_identity(query, identity).bind(claim.as_bytes().as_slice()).bind(row::LEASED)
}

/// $1 to $8: those, the fingerprint, and how long the lease and the record live.
fn bind_lease<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    request: &Request,
    claim: Claim,
    terms: &LeaseTerms,
) -> Query<'q, Sqlite, SqliteArguments> {
    bind_held(query, &request.identity, claim)
        .bind(request.fingerprint.as_bytes().as_slice())
        .bind(microseconds(terms.duration))
        .bind(microseconds(terms.duration.saturating_add(request.ttl)))
}

fn abandoned(row: &SqliteRow) -> sqlx::Result<Abandoned> {
    Ok(Abandoned {
        place: Place { scope: row.try_get("scope")?, key_hash: row.try_get("key_hash")? },
        input: Input(Bytes::from(row.try_get::<Vec<u8>, _>("body")?)),
    })
}

fn entries(rows: &[SqliteRow]) -> Result<Vec<Entry>, Error> {
    let entry = |row| {
        let columns = EntryColumns::from_row(row).map_err(store_error)?;
        row::entry(columns).ok_or_else(|| Error::new(Kind::RecordUnreadable))
    };
    rows.iter().map(entry).collect()
}

const LEASE: &str = "
INSERT INTO main.idem_records
    (scope, operation, key_hash, claim, state, fingerprint, attempt, lease_until, format, created_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6, 1, now + $7, 0, now, now + $8
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now)
WHERE now BETWEEN $9 AND $10
ON CONFLICT (scope, operation, key_hash) DO NOTHING
RETURNING 1;
DELETE FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3";

const REPLACE_LEASED: &str = "
UPDATE main.idem_records
SET claim = $4,
    state = $5,
    fingerprint = $6,
    attempt = 1,
    released = 0,
    lease_until = time.now + $7,
    format = 0,
    status = NULL,
    headers = NULL,
    body = NULL,
    created_at = time.now,
    completed_at = NULL,
    expires_at = time.now + $8,
    kept_until = NULL,
    reason = NULL
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $9
    AND expires_at <= time.now
RETURNING 1;
DELETE FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3";

const RECORD_INPUT: &str = "
INSERT INTO main.idem_journal
    (scope, operation, key_hash, claim, position, name, kind, format, headers, body, attempt, created_at)
SELECT $1, $2, $3, $4, $5, '', $6, $7, x'', $8, 1, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)";

/// In the order of their places, so that a released run is not met twice in a pass. Only a run that is not over has
/// entries, its input among them. A column of SQLite takes values of every type. The casts keep a single row that was
/// inserted by hand from hiding all other rows.
const ABANDONED: &str = "
SELECT CAST(scope AS TEXT) AS scope, CAST(key_hash AS BLOB) AS key_hash, CAST(input.body AS BLOB) AS body
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time,
    main.idem_journal AS input JOIN main.idem_records AS record USING (scope, operation, key_hash)
WHERE operation = $1
    AND position = $2
    AND record.state >= $3
    AND record.lease_until <= time.now
    AND record.expires_at > time.now
    AND ($4 IS NULL OR (record.scope, record.key_hash) > ($4, $5))
ORDER BY record.scope, record.key_hash
LIMIT 100";

const TAKE_OVER: &str = "
UPDATE main.idem_records
SET claim = $6,
    attempt = attempt + 1,
    lease_until = time.now + $7,
    expires_at = max(expires_at, time.now + $8)
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5
    AND lease_until <= time.now
    AND expires_at > time.now";

const ENTRIES: &str = "
SELECT position, kind, name, format, status, headers, body, undoes
FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND position >= 0
ORDER BY position";

/// The record is kept for its whole `ttl` after the end of the last lease.
const RENEW: &str = "
UPDATE main.idem_records
SET lease_until = time.now + $6,
    expires_at = max(expires_at, time.now + $7)
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5";

/// A rejected record must not expire before it is undone: a hundred years are as good as never. The entry's position
/// may already hold the call that was started, or the same entry if its COMMIT got no answer.
const RECORD_ENTRY: &str = "
RELEASE idem_run;
UPDATE main.idem_records
SET lease_until = time.now + $6,
    state = coalesce($8, state),
    expires_at = max(expires_at, time.now + iif($8 IS NULL, $7, 3155760000000000))
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5;
INSERT INTO main.idem_journal AS entry
    (scope, operation, key_hash, claim, position, name, kind, format, status, headers, body, undoes, attempt, created_at)
SELECT $1, $2, $3, $4, $9, $10, $11, $12, $13, $14, $15, $16, attempt, time.now
FROM main.idem_records, (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5
ON CONFLICT (scope, operation, key_hash, position) DO UPDATE
SET name = excluded.name,
    kind = excluded.kind,
    format = excluded.format,
    status = excluded.status,
    headers = excluded.headers,
    body = excluded.body,
    undoes = excluded.undoes,
    claim = excluded.claim,
    attempt = excluded.attempt,
    created_at = excluded.created_at
WHERE entry.kind = $17 AND (entry.name = excluded.name OR excluded.kind = $18)
    OR entry.claim = excluded.claim AND entry.name = excluded.name AND entry.kind = excluded.kind";

/// The update is the last statement: only a lease that is held may lose its journal.
const COMPLETE_LEASED: &str = "
RELEASE idem_run;
DELETE FROM main.idem_journal
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3;
UPDATE main.idem_records
SET state = $7,
    format = $8,
    status = $9,
    headers = $10,
    body = $11,
    lease_until = NULL,
    completed_at = time.now,
    expires_at = time.now + $6,
    kept_until = time.now + $12
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5";

const RELEASE: &str = "
UPDATE main.idem_records
SET lease_until = time.now,
    claim = $6,
    attempt = attempt - $7,
    released = released + 1 - $7
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5";

const POISON: &str = "
UPDATE main.idem_records
SET state = $6,
    lease_until = NULL
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND state >= $5";

const RESET_ATTEMPTS: &str = "
UPDATE main.idem_records
SET attempt = 0,
    released = 0
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND state >= $4
    AND lease_until <= time.now
    AND expires_at > time.now";

/// Every text with its name.
pub(super) const ALL: &[(&str, &str)] = &[
    ("lease", LEASE),
    ("replace_leased", REPLACE_LEASED),
    ("record_input", RECORD_INPUT),
    ("abandoned", ABANDONED),
    ("take_over", TAKE_OVER),
    ("entries", ENTRIES),
    ("renew", RENEW),
    ("record_entry", RECORD_ENTRY),
    ("complete_leased", COMPLETE_LEASED),
    ("release", RELEASE),
    ("poison", POISON),
    ("reset_attempts", RESET_ATTEMPTS),
];
