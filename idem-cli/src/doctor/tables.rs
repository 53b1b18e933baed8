//! The checks of the tables on Postgres.

use super::Finding;
use super::postgres::{Patient, no_role, quoted, several};
use crate::failure::Failure;

/// What the role of the application needs.
const RIGHTS: &[(&str, &[&str])] = &[
    ("idem_records", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("idem_journal", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("idem_migrations", &["SELECT"]),
    ("idem_secret", &["SELECT"]),
    ("idem_epoch", &["SELECT"]),
];

pub(super) async fn grants(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let (is_there,): (bool,) = patient
        .one("SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1::text)", &[&patient.role])
        .await?;
    if !is_there {
        return Ok(no_role(&patient.role));
    }
    let (schema, role) = (patient.quoted_schema(), quoted(&patient.role));
    let mut missing = Vec::new();
    let query = "SELECT has_schema_privilege($1::name, $2::text, 'USAGE')";
    let (may_use,): (bool,) = patient.one(query, &[&patient.role, &patient.schema]).await?;
    if !may_use {
        missing.push(format!("GRANT USAGE ON SCHEMA {schema} TO {role}"));
    }
    for (table, rights) in RIGHTS {
        let mut lacks = Vec::new();
        for right in *rights {
            // NULL where there is no such table: another check says that.
            let query = "
                SELECT has_table_privilege($1::name, (
                    SELECT pg_class.oid
                    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
                    WHERE nspname = $2::name AND relname = $3::name
                ), $4::text)";
            let (may,): (Option<bool>,) = patient.one(query, &[&patient.role, &patient.schema, table, right]).await?;
            if may == Some(false) {
                lacks.push(*right);
            }
        }
        if !lacks.is_empty() {
            missing.push(format!("GRANT {} ON {schema}.{table} TO {role}", lacks.join(", ")));
        }
    }
    Ok(if missing.is_empty() {
        Finding::ok(format!("the role {role} has the rights that it needs"))
    } else {
        Finding::fail(format!("the role {role} lacks rights"), missing.join("; "))
    })
}

/// The value from which the store computes its locks.
pub(super) async fn secret(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let table = format!("{}.idem_secret", patient.quoted_schema());
    let lengths: Vec<(i32,)> = patient.all(format!("SELECT octet_length(secret) FROM {table}"), &[]).await?;
    Ok(if lengths == [(16,)] {
        Finding::ok("the value for the locks is there")
    } else {
        Finding::fail(
            "idem_secret has lost its value: every request is refused",
            format!("INSERT INTO {table} (secret) VALUES (uuid_send(gen_random_uuid())), and restart all processes"),
        )
    })
}

/// Without it, deleted rows are never freed, and Postgres plans for tables as they once were.
pub(super) async fn autovacuum(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let query = "SELECT current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on'";
    let (is_on,): (bool,) = patient.one(query, &[]).await?;
    if !is_on {
        let advice = "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()";
        return Ok(Finding::fail("autovacuum or track_counts is off for the server", advice));
    }
    let query = "
        SELECT relname::text
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace,
            unnest(reloptions) AS option
        WHERE nspname = $1::name
            AND relname IN ('idem_records', 'idem_journal')
            AND split_part(option, '=', 1) = 'autovacuum_enabled'
            AND NOT split_part(option, '=', 2)::boolean
        ORDER BY relname";
    let off: Vec<(String,)> = patient.all(query.to_owned(), &[&patient.schema]).await?;
    if let Some((table,)) = off.first() {
        let advice = format!("ALTER TABLE {}.{table} RESET (autovacuum_enabled)", patient.quoted_schema());
        return Ok(Finding::fail(format!("autovacuum is off for {table}"), advice));
    }
    let query = "
        SELECT n_live_tup, n_dead_tup FROM pg_catalog.pg_stat_user_tables
        WHERE schemaname = $1::name AND relname = 'idem_records'";
    let rows: Vec<(i64, i64)> = patient.all(query.to_owned(), &[&patient.schema]).await?;
    let (live, dead) = rows.first().copied().unwrap_or_default();
    Ok(if dead > 100_000 && dead > live {
        Finding::warn(
            format!("idem_records has {dead} dead rows beside {live}"),
            format!("ALTER TABLE {}.idem_records SET (autovacuum_vacuum_scale_factor = 0.02)", patient.quoted_schema()),
        )
    } else {
        Finding::ok("autovacuum is on")
    })
}

/// A completion should stay in the page of its claim, and touch no index.
pub(super) async fn hot_updates(patient: &Patient<'_>) -> Result<Finding, Failure> {
    /// Fewer updates say nothing.
    const ENOUGH: i64 = 1000;
    let query = "
        SELECT n_tup_upd, n_tup_hot_upd FROM pg_catalog.pg_stat_user_tables
        WHERE schemaname = $1::name AND relname = 'idem_records'";
    let rows: Vec<(i64, i64)> = patient.all(query.to_owned(), &[&patient.schema]).await?;
    let (updates, hot) = rows.first().copied().unwrap_or_default();
    if updates < ENOUGH {
        return Ok(Finding::ok(format!("{} so far", several(updates, "update", "updates"))));
    }
    let percent = hot * 100 / updates;
    Ok(if percent < 50 {
        Finding::warn(
            format!("only {percent} % of the updates are heap-only: each of the others writes to every index"),
            "drop indexes on idem_records that the migrations did not create, restore its fillfactor of 80, and look for \
             long transactions; replies over a thousand bytes and `then = refuse` have their share, too",
        )
    } else {
        Finding::ok(format!("{percent} % of the updates are heap-only"))
    })
}

/// What is owed to somebody: an undo that is not done, a call whose answer is not known.
pub(super) async fn owed(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let schema = patient.quoted_schema();
    let query = format!(
        "SELECT
            count(DISTINCT (scope, operation, key_hash)) FILTER (WHERE entry.kind = 3),
            count(DISTINCT (scope, operation, key_hash)) FILTER (WHERE entry.kind = 6)
        FROM {schema}.idem_journal AS entry JOIN {schema}.idem_records AS record USING (scope, operation, key_hash)
        WHERE entry.kind IN (3, 6)
            AND record.state >= 4
            AND record.lease_until <= now()
            AND record.expires_at > now()"
    );
    let (undos, calls): (i64, i64) = patient.one(query, &[]).await?;
    Ok(super::records::owed(undos, calls))
}

/// The keys that the application's keyring must have.
pub(super) async fn sealed(patient: &Patient<'_>) -> Result<Finding, Failure> {
    if patient.key_ids.is_empty() {
        return Ok(super::records::not_asked());
    }
    let schema = patient.quoted_schema();
    let part = |table: &str| {
        format!(
            "SELECT encode(substr(body, 2, 4), 'hex') AS key FROM {schema}.{table}
            WHERE format >= 256 AND octet_length(body) > 4"
        )
    };
    // A recorded input has no format of its own: a byte before it says that it is sealed.
    let inputs = format!(
        "SELECT encode(substr(body, 3, 4), 'hex') FROM {schema}.idem_journal
        WHERE position = -1 AND octet_length(body) > 5 AND get_byte(body, 0) = 1"
    );
    let query = format!(
        "SELECT key, count(*) FROM ({} UNION ALL {} UNION ALL {inputs}) AS sealed GROUP BY key ORDER BY key",
        part("idem_records"),
        part("idem_journal")
    );
    Ok(super::records::sealed(&patient.all(query, &[]).await?, patient.key_ids))
}
