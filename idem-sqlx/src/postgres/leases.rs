//! The statements on leases and steps, and nothing else.
//!
//! Each statement that changes a leased record checks in itself that the claim still holds the record.

use std::time::Duration;

use bytes::Bytes;
use idem_core::store::{Abandoned, Claim, Entry, EntryKind, Format, Input, LeaseTerms, Outcome, Place};
use idem_core::{Error, Identity, Kind, Request};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

use super::in_time::InTime;
use super::records::{bind_identity, bind_window};
use super::schema::{Template, statements};
use super::tx::Step;
use crate::error::store_error;
use crate::row::{self, EntryColumns, EntryRow};

/// The statements on leases and journals, sent as those on records are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leases {
    pub(super) sql: &'static LeaseSql,
    pub(super) unnamed: bool,
}

statements! {
    /// The statements on leases and journals, with the schema in them.
    LeaseSql:
    lease: LEASE,
    lease_within: LEASE_WITHIN,
    replace_leased: REPLACE_LEASED,
    forget_entries: FORGET_ENTRIES,
    record_input: RECORD_INPUT,
    abandoned: ABANDONED,
    take_over: TAKE_OVER,
    entries: ENTRIES,
    renew: RENEW,
    record_entry: RECORD_ENTRY,
    complete_leased: COMPLETE_LEASED,
    release: RELEASE,
    poison: POISON,
    reset_attempts: RESET_ATTEMPTS,
}

impl Leases {
    fn query(self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(!self.unnamed)
    }

    /// Inserts a leased record without entries of an earlier record, if the request may begin now, and records the
    /// input.
    pub(super) async fn lease(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> sqlx::Result<bool> {
        let query = match request.first_sent {
            None => bind_lease(self.query(&self.sql.lease), request, claim, terms),
            Some(_) => bind_window(bind_lease(self.query(&self.sql.lease_within), request, claim, terms), request),
        };
        let leased = query.fetch_optional(&mut *connection).await?.is_some();
        if leased {
            self.record_input(connection, request, claim).await?;
        }
        Ok(leased)
    }

    /// Replaces an expired record, if it is still the record that was seen.
    pub(super) async fn replace_leased(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        expired: Claim,
    ) -> sqlx::Result<bool> {
        let query =
            bind_lease(self.query(&self.sql.replace_leased), request, claim, terms).bind(expired.as_bytes().as_slice());
        let leased = query.execute(&mut *connection).await?.rows_affected() == 1;
        if leased {
            self.forget_entries(&mut *connection, &request.identity).await?;
            self.record_input(connection, request, claim).await?;
        }
        Ok(leased)
    }

    /// Takes over from an attempt whose lease has ended, if no other claimant has.
    pub(super) async fn take_over(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        earlier: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_identity(self.query(&self.sql.take_over), &request.identity)
            .bind(earlier.as_bytes().as_slice())
            .bind(row::LEASED)
            .bind(claim.as_bytes().as_slice())
            .bind(seconds(terms.duration))
            .bind(seconds(terms.duration.saturating_add(request.ttl)));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// The entries that earlier attempts have recorded, in their order.
    pub(super) async fn entries(self, connection: &mut InTime<'_>, identity: &Identity) -> Result<Vec<Entry>, Error> {
        let query = bind_identity(self.query(&self.sql.entries), identity);
        let rows = query.fetch_all(connection).await.map_err(store_error)?;
        entries(&rows)
    }

    /// Renews the lease.
    pub(super) async fn renew(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
    ) -> sqlx::Result<bool> {
        let query = bind_held(self.query(&self.sql.renew), &request.identity, claim)
            .bind(seconds(terms.duration))
            .bind(seconds(terms.duration.saturating_add(request.ttl)));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Renews the lease and records an entry, once. Returns false if the lease is lost, or if this is not the
    /// transaction that was begun for the step.
    pub(super) async fn record_entry(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        terms: &LeaseTerms,
        step: Option<&Step>,
        entry: &Entry,
    ) -> sqlx::Result<bool> {
        let (mark, elapsed) = marked(step);
        let rejected = (entry.kind == EntryKind::REJECTION).then_some(row::UNDOING);
        let kept = if rejected.is_some() { UNTIL_UNDONE } else { terms.duration.saturating_add(request.ttl) };
        let row = EntryRow::of(entry);
        let query = bind_held(self.query(&self.sql.record_entry), &request.identity, claim)
            .bind(seconds(terms.duration.saturating_add(elapsed)))
            .bind(seconds(kept.saturating_add(elapsed)))
            .bind(mark)
            .bind(i32::try_from(entry.position).unwrap_or(i32::MAX))
            .bind(&entry.name)
            .bind(entry.kind.0)
            .bind(row.format)
            .bind(row.status)
            .bind(row.headers)
            .bind(row.body)
            .bind(row.undoes)
            .bind(rejected)
            .bind(EntryKind::CALL_STARTED.0)
            .bind(EntryKind::REJECTION.0);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Completes the record and removes its journal. Returns false as [`record_entry`](Self::record_entry) does.
    pub(super) async fn complete_leased(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        step: Option<&Step>,
        outcome: &Outcome,
    ) -> sqlx::Result<bool> {
        let (mark, elapsed) = marked(step);
        let (state, format, status, headers, body) = row::written(outcome);
        let query = bind_held(self.query(&self.sql.complete_leased), &request.identity, claim)
            .bind(elapsed.as_secs_f64())
            .bind((request.ttl + elapsed).as_secs_f64())
            .bind(mark)
            .bind(state)
            .bind(format)
            .bind(status)
            .bind(headers)
            .bind(body)
            .bind(request.refused_for().map(|time| (request.ttl + elapsed + time).as_secs_f64()));
        Ok(query.fetch_optional(connection).await?.is_some())
    }

    /// Ends the lease and keeps the journal. `nobodys` replaces the claim, so that a renewal on its way cannot revive
    /// the lease. An attempt that has not run leaves no trace in the numbers.
    pub(super) async fn release(
        self,
        connection: &mut InTime<'_>,
        identity: &Identity,
        claim: Claim,
        nobodys: Claim,
        has_run: bool,
    ) -> sqlx::Result<bool> {
        let query = bind_held(self.query(&self.sql.release), identity, claim)
            .bind(nobodys.as_bytes().as_slice())
            .bind(i32::from(!has_run));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Poisons the key of a step that ended its transaction: what the step has kept is not known.
    pub(super) async fn poison_leased(
        self,
        connection: &mut InTime<'_>,
        identity: &Identity,
        claim: Claim,
    ) -> sqlx::Result<bool> {
        let query = bind_held(self.query(&self.sql.poison), identity, claim).bind(row::RUNNING);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Resets the attempts of a run that is not over and that no process holds.
    pub(super) async fn reset_attempts(self, connection: &mut InTime<'_>, identity: &Identity) -> sqlx::Result<bool> {
        let query = bind_identity(self.query(&self.sql.reset_attempts), identity).bind(row::LEASED);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Records the input of the run, if the request has one to record.
    async fn record_input(self, connection: &mut InTime<'_>, request: &Request, claim: Claim) -> sqlx::Result<()> {
        let Some(input) = &request.input else { return Ok(()) };
        let query = bind_identity(self.query(&self.sql.record_input), &request.identity)
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
        connection: &mut InTime<'_>,
        operation: &str,
        after: Option<&Place>,
    ) -> sqlx::Result<Vec<Abandoned>> {
        let query = self
            .query(&self.sql.abandoned)
            .bind(operation)
            .bind(row::INPUT_POSITION)
            .bind(row::LEASED)
            .bind(after.map(|place| place.scope.as_str()))
            .bind(after.map(|place| place.key_hash.as_slice()));
        query.fetch_all(connection).await?.iter().map(abandoned).collect()
    }

    pub(super) async fn forget_entries(self, connection: &mut InTime<'_>, identity: &Identity) -> sqlx::Result<()> {
        bind_identity(self.query(&self.sql.forget_entries), identity).execute(connection).await.map(|_| ())
    }
}

/// A rejected record must not expire before it is undone: a hundred years are as good as never.
const UNTIL_UNDONE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A duration as it is bound. A duration that no interval holds is cut to some thousand years.
fn seconds(duration: Duration) -> f64 {
    const MOST: Duration = Duration::from_secs(100_000_000_000);
    duration.min(MOST).as_secs_f64()
}

/// The mark of a step's transaction, and for how long that has been open. A transaction without a step has just begun.
fn marked(step: Option<&Step>) -> (Option<String>, Duration) {
    step.map_or((None, Duration::ZERO), |step| (Some(step.mark.to_string()), step.began.elapsed()))
}

/// $1 to $5: the identity, the claim, and the lowest state of a leased record.
fn bind_held<'q>(
    query: Query<'q, Postgres, PgArguments>,
    identity: &Identity,
    claim: Claim,
) -> Query<'q, Postgres, PgArguments> {
    bind_identity(query, identity).bind(claim.as_bytes().as_slice()).bind(row::LEASED)
}

/// $1 to $8: those, the fingerprint, and how long the lease and the record live.
fn bind_lease<'q>(
    query: Query<'q, Postgres, PgArguments>,
    request: &Request,
    claim: Claim,
    terms: &LeaseTerms,
) -> Query<'q, Postgres, PgArguments> {
    bind_held(query, &request.identity, claim)
        .bind(request.fingerprint.as_bytes().as_slice())
        .bind(seconds(terms.duration))
        .bind(seconds(terms.duration.saturating_add(request.ttl)))
}

fn abandoned(row: &PgRow) -> sqlx::Result<Abandoned> {
    Ok(Abandoned {
        place: Place { scope: row.try_get("scope")?, key_hash: row.try_get("key_hash")? },
        input: Input(Bytes::from(row.try_get::<Vec<u8>, _>("body")?)),
    })
}

fn entries(rows: &[PgRow]) -> Result<Vec<Entry>, Error> {
    let entry = |row| {
        let columns = EntryColumns::from_row(row).map_err(store_error)?;
        row::entry(columns).ok_or_else(|| Error::new(Kind::RecordUnreadable))
    };
    rows.iter().map(entry).collect()
}

macro_rules! lease {
    ($before:literal, $after:literal) => {
        concat!(
            "
WITH leased AS (
    INSERT INTO {schema}.idem_records
        (scope, operation, key_hash, claim, state, fingerprint, attempt, lease_until, format, created_at, expires_at)
    ",
            $before,
            "$1::text, $2::text, $3::bytea, $4::bytea, $5::smallint, $6::bytea, 1,
        now() + $7::double precision * interval '1 second', 0,
        now(), now() + $8::double precision * interval '1 second'",
            $after,
            "
    ON CONFLICT (scope, operation, key_hash) DO NOTHING
    RETURNING 1
), forgotten AS (
    DELETE FROM {schema}.idem_journal
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND EXISTS (SELECT 1 FROM leased)
)
SELECT 1 FROM leased",
        )
    };
}

/// A record that was deleted by hand has left its entries: they are removed here.
const LEASE: Template = Template(lease!("VALUES (", ")"));

/// The same for a request that says when it was first sent.
const LEASE_WITHIN: Template = Template(lease!(
    "SELECT ",
    "
    WHERE (extract(epoch FROM statement_timestamp()) * 1000000)::bigint BETWEEN $9::bigint AND $10::bigint"
));

const REPLACE_LEASED: Template = Template(
    "
UPDATE {schema}.idem_records
SET claim = $4::bytea,
    state = $5::smallint,
    fingerprint = $6::bytea,
    attempt = 1,
    released = 0,
    lease_until = now() + $7::double precision * interval '1 second',
    format = 0,
    status = NULL,
    headers = NULL,
    body = NULL,
    created_at = now(),
    completed_at = NULL,
    expires_at = now() + $8::double precision * interval '1 second',
    kept_until = NULL,
    reason = NULL
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $9::bytea
    AND expires_at <= now()",
);

/// A separate statement, so that it sees every entry that was committed before this transaction got the record's row.
const FORGET_ENTRIES: Template = Template(
    "
DELETE FROM {schema}.idem_journal
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea",
);

const RECORD_INPUT: Template = Template(
    "
INSERT INTO {schema}.idem_journal
    (scope, operation, key_hash, claim, position, name, kind, format, headers, body, attempt, created_at)
VALUES ($1::text, $2::text, $3::bytea, $4::bytea, $5::integer, '', $6::smallint, $7::smallint, '', $8::bytea, 1,
    now())",
);

/// In the order of their places, so that a released run is not met twice in a pass. Only a run that is not over has
/// entries, its input among them.
const ABANDONED: Template = Template(
    "
SELECT scope, key_hash, input.body
FROM {schema}.idem_journal AS input JOIN {schema}.idem_records AS record USING (scope, operation, key_hash)
WHERE operation = $1::text
    AND position = $2::integer
    AND record.state >= $3::smallint
    AND record.lease_until <= now()
    AND record.expires_at > now()
    AND ($4::text IS NULL OR (scope, key_hash) > ($4::text COLLATE \"C\", $5::bytea))
ORDER BY scope, key_hash
LIMIT 100",
);

const TAKE_OVER: Template = Template(
    "
UPDATE {schema}.idem_records
SET claim = $6::bytea,
    attempt = attempt + 1,
    lease_until = now() + $7::double precision * interval '1 second',
    expires_at = greatest(expires_at, now() + $8::double precision * interval '1 second')
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $4::bytea
    AND state >= $5::smallint
    AND lease_until <= now()
    AND expires_at > now()",
);

const ENTRIES: Template = Template(
    "
SELECT position, kind, name, format, status, headers, body, undoes
FROM {schema}.idem_journal
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND position >= 0
ORDER BY position",
);

/// The record is kept for its whole `ttl` after the end of the last lease.
const RENEW: Template = Template(
    "
UPDATE {schema}.idem_records
SET lease_until = greatest(lease_until, now() + $6::double precision * interval '1 second'),
    expires_at = greatest(expires_at, now() + $7::double precision * interval '1 second')
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $4::bytea
    AND state >= $5::smallint",
);

/// The setting `idem.step` belongs to the transaction: it is gone after a COMMIT or ROLLBACK of the step's own. `now()` is
/// the start of the transaction, and a renewal may have come later than it. The entry's position may already hold the
/// call that was started, or the same entry if its COMMIT got no answer.
const RECORD_ENTRY: Template = Template(
    "
WITH held AS (
    UPDATE {schema}.idem_records
    SET lease_until = greatest(lease_until, now() + $6::double precision * interval '1 second'),
        state = coalesce($17::smallint, state),
        expires_at = greatest(expires_at, now() + $7::double precision * interval '1 second')
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND claim = $4::bytea
        AND state >= $5::smallint
        AND ($8::text IS NULL OR current_setting('idem.step', true) = $8::text)
    RETURNING attempt
)
INSERT INTO {schema}.idem_journal AS entry
    (scope, operation, key_hash, claim, position, name, kind, format, status, headers, body, undoes, attempt, created_at)
SELECT $1::text, $2::text, $3::bytea, $4::bytea, $9::integer, $10::text, $11::smallint, $12::smallint, $13::smallint,
    $14::bytea, $15::bytea, $16::text, attempt, now()
FROM held
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
WHERE entry.kind = $18::smallint AND (entry.name = excluded.name OR excluded.kind = $19::smallint)
    OR entry.claim = excluded.claim AND entry.name = excluded.name AND entry.kind = excluded.kind",
);

const COMPLETE_LEASED: Template = Template(
    "
WITH finished AS (
    UPDATE {schema}.idem_records
    SET state = $9::smallint,
        format = $10::smallint,
        status = $11::smallint,
        headers = $12::bytea,
        body = $13::bytea,
        lease_until = NULL,
        completed_at = now() + $6::double precision * interval '1 second',
        expires_at = now() + $7::double precision * interval '1 second',
        kept_until = now() + $14::double precision * interval '1 second'
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND claim = $4::bytea
        AND state >= $5::smallint
        AND ($8::text IS NULL OR current_setting('idem.step', true) = $8::text)
    RETURNING 1
), forgotten AS (
    DELETE FROM {schema}.idem_journal
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND EXISTS (SELECT 1 FROM finished)
)
SELECT 1 FROM finished",
);

const RELEASE: Template = Template(
    "
UPDATE {schema}.idem_records
SET lease_until = now(),
    claim = $6::bytea,
    attempt = attempt - $7::integer,
    released = released + 1 - $7::integer
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $4::bytea
    AND state >= $5::smallint",
);

const POISON: Template = Template(
    "
UPDATE {schema}.idem_records
SET state = $6::smallint,
    lease_until = NULL
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $4::bytea
    AND state >= $5::smallint",
);

const RESET_ATTEMPTS: Template = Template(
    "
UPDATE {schema}.idem_records
SET attempt = 0,
    released = 0
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND state >= $4::smallint
    AND lease_until <= now()
    AND expires_at > now()",
);
