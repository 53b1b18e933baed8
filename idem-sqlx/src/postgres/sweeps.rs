//! The statements of the sweep, and nothing else.

use super::schema::{Template, statements};

statements! {
    /// The statements of the sweep, with the schema in them.
    SweepSql:
    sweep: SWEEP,
    sweep_to_archive: SWEEP_TO_ARCHIVE,
    expired: EXPIRED,
    sweep_scope: SWEEP_SCOPE,
    backlog: BACKLOG,
}

/// What is left to sweep, how old that is, and the abandoned runs. The counting stops at $1. Abandoned runs are found
/// through the journal, which has only runs that are not over: no index has the end of a lease.
const BACKLOG: Template = Template(
    "
SELECT
    (SELECT count(*) FROM (
        SELECT 1 FROM {schema}.idem_records WHERE expires_at <= now() ORDER BY expires_at LIMIT $1::bigint
    ) AS expired)::bigint,
    (
        SELECT (extract(epoch FROM now()) - greatest(extract(epoch FROM expires_at), 0))::double precision
        FROM {schema}.idem_records
        WHERE expires_at <= now()
        ORDER BY expires_at
        LIMIT 1
    ),
    (SELECT count(*) FROM (
        SELECT DISTINCT record.scope, record.operation, record.key_hash
        FROM {schema}.idem_journal AS entry
        JOIN {schema}.idem_records AS record
            ON record.scope = entry.scope
            AND record.operation = entry.operation
            AND record.key_hash = entry.key_hash
        WHERE record.state >= $2::smallint
            AND record.lease_until <= now()
            AND record.expires_at > now()
        LIMIT $1::bigint
    ) AS abandoned)::bigint",
);

/// `SKIP LOCKED` skips rows that a request is just replacing. For a row that was replaced meanwhile, Postgres checks
/// `expires_at` again. A locked row keeps its `ctid` until the transaction ends, so the deletion finds it by that: by
/// the primary key a batch takes half as long again. `tableoid` is for a table with partitions, each of which has
/// `ctid`s of its own.
///
/// Entries are removed with their record. A completed record has no entries. `OFFSET 0` makes Postgres look entries up
/// record by record, whatever its statistics say of the two tables. A commit that writes an entry also lets the record
/// expire later, so no entry of a swept record is written while the statement runs.
///
/// $1 is where the previous batch ended. Deleted rows stay in the index until a vacuum, and every batch would read them
/// again.
///
/// A record that still refuses retries is not deleted. It loses its reply, and expires when it refuses them no longer: so
/// the sweep does not find it again until then.
///
/// The arguments are what is kept of each record as it was before, and what the deletion returns of it.
macro_rules! sweep {
    ($before:literal, $returned:literal) => {
        concat!(
            "
WITH expired AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place, expires_at, kept_until > now() AS is_kept",
            $before,
            "
    FROM {schema}.idem_records AS before
    WHERE expires_at <= now()
        AND expires_at >= coalesce('epoch'::timestamptz + $1::bigint * interval '1 microsecond', '-infinity')
    ORDER BY expires_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), kept AS (
    UPDATE {schema}.idem_records AS record
    SET state = 0,
        status = NULL,
        headers = NULL,
        body = NULL,
        expires_at = record.kept_until,
        kept_until = NULL
    FROM expired
    WHERE record.tableoid = expired.part
        AND record.ctid = expired.place
        AND expired.is_kept
    RETURNING expired.is_kept",
            $before,
            "
), swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING expired
    WHERE record.tableoid = expired.part
        AND record.ctid = expired.place
        AND expired.is_kept IS NOT TRUE
    RETURNING ",
            $returned,
            "
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING swept, LATERAL (
        SELECT tableoid AS part, ctid AS place
        FROM {schema}.idem_journal
        WHERE scope = swept.scope
            AND operation = swept.operation
            AND key_hash = swept.key_hash
        OFFSET 0
    ) AS left_behind
    WHERE swept.completed_at IS NULL
        AND step.tableoid = left_behind.part
        AND step.ctid = left_behind.place
)"
        )
    };
}

/// It returns no reply, and an identity only where there may be a journal: the rows are kept until the statement ends.
const SWEEP: Template = Template(sweep!(
    "",
    "record.expires_at, record.completed_at,
        CASE WHEN record.completed_at IS NULL THEN record.scope END AS scope,
        CASE WHEN record.completed_at IS NULL THEN record.operation END AS operation,
        CASE WHEN record.completed_at IS NULL THEN record.key_hash END AS key_hash"
));

/// Every column, for the archive.
const SWEEP_TO_ARCHIVE: Template = Template(sweep!(", before", "record.*"));

/// The records that were removed, and those that have lost their reply. An operator may have let a record expire at
/// `-infinity`, which is not a number.
pub(super) const COUNTED: &str = "
SELECT (SELECT count(*) FROM swept), (SELECT count(*) FROM kept),
    (SELECT (extract(epoch FROM max(expires_at) FILTER (WHERE isfinite(expires_at))) * 1000000)::bigint FROM expired)";

/// Copies records into the archive (`{archive}`), once each: when they lose their reply, or are removed with it.
pub(super) const ARCHIVED: &str = ", archived AS (
    INSERT INTO {archive}
    SELECT * FROM swept WHERE state <> 0
    UNION ALL
    SELECT (before).* FROM kept
)";

/// For a distributed Postgres, like the next statement. It locks nothing, because it finds rows of many scopes.
const EXPIRED: Template = Template(
    "
SELECT scope, operation, key_hash,
    CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000)::bigint END
FROM {schema}.idem_records
WHERE expires_at <= now()
    AND expires_at >= coalesce('epoch'::timestamptz + $2::bigint * interval '1 microsecond', '-infinity')
ORDER BY expires_at
LIMIT $1::bigint",
);

/// Removes rows of one scope. It checks `expires_at` again, because another statement found the rows.
const SWEEP_SCOPE: Template = Template(
    "
WITH expired AS MATERIALIZED (
    SELECT operation, key_hash, expires_at, kept_until > now() AS is_kept, before
    FROM {schema}.idem_records AS before
    WHERE scope = $1::text
        AND (operation, key_hash) IN (SELECT * FROM unnest($2::text[], $3::bytea[]))
        AND expires_at <= now()
    FOR UPDATE SKIP LOCKED
), kept AS (
    UPDATE {schema}.idem_records AS record
    SET state = 0,
        status = NULL,
        headers = NULL,
        body = NULL,
        expires_at = record.kept_until,
        kept_until = NULL
    FROM expired
    WHERE record.scope = $1::text
        AND record.operation = expired.operation
        AND record.key_hash = expired.key_hash
        AND expired.is_kept
    RETURNING expired.is_kept, before
), swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING expired
    WHERE record.scope = $1::text
        AND record.operation = expired.operation
        AND record.key_hash = expired.key_hash
        AND expired.is_kept IS NOT TRUE
    RETURNING record.*
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING swept
    WHERE swept.completed_at IS NULL
        AND step.scope = $1::text
        AND step.operation = swept.operation
        AND step.key_hash = swept.key_hash
)",
);
