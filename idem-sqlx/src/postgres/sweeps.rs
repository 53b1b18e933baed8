//! The statements of the sweep, and nothing else.

use super::schema::Template;

/// `SKIP LOCKED` passes over rows that a request is just replacing, and looks again at `expires_at` of one that has been
/// replaced meanwhile. What it has locked stays where it is until the transaction ends, so its place finds it again: by the
/// primary key a batch takes half as long again. `tableoid` is for a table with partitions, which count their places each
/// for itself.
///
/// Steps go with their record; one that was completed has none any more. `OFFSET 0` has Postgres look them up record by record,
/// whatever its statistics say of the two tables. Whoever writes one lets the record expire later in the same commit, so none is written behind
/// the statement's back.
///
/// $1 is where the batch before it ended: what is deleted stays in the index until a vacuum, and would be read again by
/// every batch.
pub(super) const SWEEP: Template = Template(
    "
WITH expired AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place
    FROM {schema}.idem_records
    WHERE expires_at <= now()
        AND expires_at >= coalesce('epoch'::timestamptz + $1::bigint * interval '1 microsecond', '-infinity')
    ORDER BY expires_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING expired
    WHERE record.tableoid = expired.part
        AND record.ctid = expired.place
    RETURNING record.*
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
)",
);

/// An operator may have let a record expire at `-infinity`, which is no number.
pub(super) const COUNTED: &str = "
SELECT count(*), max((extract(epoch FROM expires_at) * 1000000)::bigint) FILTER (WHERE isfinite(expires_at))
FROM swept";

/// For a distributed Postgres, as is the next one. It locks nothing, since it finds rows of many scopes.
pub(super) const EXPIRED: Template = Template(
    "
SELECT scope, operation, key_hash,
    CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000)::bigint END
FROM {schema}.idem_records
WHERE expires_at <= now()
    AND expires_at >= coalesce('epoch'::timestamptz + $2::bigint * interval '1 microsecond', '-infinity')
ORDER BY expires_at
LIMIT $1",
);

/// Rows of one scope, and a second look at `expires_at`: it is another statement than the one that found them.
pub(super) const SWEEP_SCOPE: Template = Template(
    "
WITH swept AS (
    DELETE FROM {schema}.idem_records AS record
    USING (
        SELECT operation, key_hash
        FROM {schema}.idem_records
        WHERE scope = $1
            AND (operation, key_hash) IN (SELECT * FROM unnest($2::text[], $3::bytea[]))
            AND expires_at <= now()
        FOR UPDATE SKIP LOCKED
    ) AS expired
    WHERE record.scope = $1
        AND record.operation = expired.operation
        AND record.key_hash = expired.key_hash
    RETURNING record.*
), forgotten AS (
    DELETE FROM {schema}.idem_journal AS step
    USING swept
    WHERE swept.completed_at IS NULL
        AND step.scope = $1
        AND step.operation = swept.operation
        AND step.key_hash = swept.key_hash
)",
);
