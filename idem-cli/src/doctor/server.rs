//! The checks of a Postgres server, of the way to it, and of the settings of the application's role.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Postgres};

use super::Finding;
use super::postgres::{Patient, quoted};
use crate::failure::Failure;

pub(super) async fn version(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let query = "SELECT current_setting('server_version'), current_setting('server_version_num')::int";
    let (name, number): (String, i32) = patient.one(query, &[]).await?;
    Ok(if number < 150_000 {
        Finding::warn(format!("PostgreSQL {name}"), "15 and 18 are tested: upgrade the server")
    } else {
        Finding::ok(format!("PostgreSQL {name}"))
    })
}

/// A replica may lag, and a decision taken on old data would run a request twice.
pub(super) async fn primary(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let (is_replica,): (bool,) = patient.one("SELECT pg_is_in_recovery()", &[]).await?;
    if is_replica {
        return Ok(Finding::fail("the server is a replica", "connect to the primary"));
    }
    let reads_only = patient.setting("default_transaction_read_only").await?;
    Ok(if reads_only == "on" {
        Finding::fail(
            "default_transaction_read_only is on for the role",
            format!("ALTER ROLE {} SET default_transaction_read_only = off", quoted(&patient.role)),
        )
    } else {
        Finding::ok("the server is a primary")
    })
}

/// With such a pooler one client meets several server processes, or two clients meet the same one.
pub(super) async fn pooler(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let mut one = patient.pool.acquire().await?;
    let mut other = patient.pool.acquire().await?;
    let mut is_shared = false;
    // A pooler gives out its free server connections in turn, or the last one first.
    for _ in 0..3 {
        let (first, next) = (server_process(&mut one).await?, server_process(&mut one).await?);
        is_shared |= first != next || server_process(&mut other).await? == next;
    }
    if !is_shared {
        return Ok(Finding::ok("each connection has a server process of its own"));
    }
    const FOUND: &str = "a pooler in transaction mode is between here and the server";
    if !patient.asked.unnamed_statements {
        let advice =
            "build the store with unnamed_statements(true) and a named schema, and say --unnamed-statements here";
        return Ok(Finding::fail(FOUND, advice));
    }
    Ok(if patient.has_named_schema {
        Finding::ok(format!("{FOUND}, and the store sends statements without names"))
    } else {
        Finding::warn(FOUND, "name the schema in the builder, and here by --schema")
    })
}

const PROCESS: &str = "SELECT pg_backend_pid()";

async fn server_process(connection: &mut PoolConnection<Postgres>) -> sqlx::Result<i32> {
    let mut transaction = connection.begin().await?;
    let (process,) = sqlx::query_as(PROCESS).persistent(false).fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(process)
}

/// Leases count by the database's clock, so a wrong one costs no second run. It makes times on pages and in logs wrong,
/// and a guard that compares a client's time with the database's refuses too much or too little.
pub(super) async fn clock(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = SystemTime::now();
    let (theirs,): (f64,) = patient.one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?;
    let after = SystemTime::now();
    let took = after.duration_since(before).unwrap_or(Duration::ZERO);
    let ours = (since_1970(before) + took / 2).as_secs_f64();
    let offset = (theirs - ours).abs() - took.as_secs_f64() / 2.0;
    let found = format!(
        "the database's clock is {:.1} s {} ours",
        offset.max(0.0),
        if theirs > ours { "ahead of" } else { "behind" }
    );
    let advice = "synchronise both clocks (NTP)";
    Ok(match offset {
        offset if offset > 60.0 => Finding::fail(found, advice),
        offset if offset > 2.0 => Finding::warn(found, advice),
        _ => Finding::ok("the database's clock is ours"),
    })
}

/// The store sets no level of its own for a handler's transaction unless its builder says so.
pub(super) async fn isolation(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let level = patient.setting("default_transaction_isolation").await?;
    Ok(if level == "read committed" {
        Finding::ok("handlers run at read committed")
    } else {
        Finding::warn(
            format!("handlers run at {level} by default, where the database refuses more of them as `retry_later`"),
            "say PgStoreBuilder::isolation, or leave it if handlers need this level",
        )
    })
}

/// A reply must not be sent before its commit is on the disk.
pub(super) async fn commits(patient: &Patient<'_>) -> Result<Finding, Failure> {
    if patient.setting("synchronous_commit").await? == "off" {
        return Ok(Finding::fail(
            "synchronous_commit is off for the role: a reply is sent before its commit is on the disk",
            format!("ALTER ROLE {} SET synchronous_commit = on", quoted(&patient.role)),
        ));
    }
    Ok(if patient.setting("fsync").await? == "off" {
        Finding::warn("fsync is off: a crash of the host can lose or damage everything", "switch fsync on")
    } else {
        Finding::ok("a commit is on the disk before its reply is sent")
    })
}

/// A host that lost its network leaves its transactions open, with their keys.
pub(super) async fn idle_transactions(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let limit = patient.setting("idle_in_transaction_session_timeout").await?;
    Ok(if is_zero(&limit) {
        Finding::warn(
            "idle_in_transaction_session_timeout is 0: the keys of a host that died stay taken until TCP gives up",
            format!(
                "ALTER ROLE {} SET idle_in_transaction_session_timeout = '90s', or PgStoreBuilder::idle_limit; longer \
                 than the longest deadline",
                quoted(&patient.role)
            ),
        )
    } else {
        Finding::ok(format!("the server ends an idle transaction after {limit}"))
    })
}

/// The server asks a silent client for a sign of life by these.
pub(super) async fn dead_hosts(patient: &Patient<'_>) -> Result<Finding, Failure> {
    let waiting = patient.setting("client_connection_check_interval").await?;
    let acknowledged = patient.setting("tcp_user_timeout").await?;
    let idle = patient.setting("tcp_keepalives_idle").await?;
    let seconds = idle.trim_end_matches('s').parse::<u32>().unwrap_or(0);
    // 0 is the system's own, which is two hours, or says that this connection is a socket file.
    let is_asked = (1..=600).contains(&seconds) || !is_zero(&acknowledged);
    let role = quoted(&patient.role);
    Ok(if !is_asked {
        Finding::warn(
            "the server notices a dead host after two hours (tcp_keepalives_idle, tcp_user_timeout)",
            format!("ALTER ROLE {role} SET tcp_keepalives_idle = '60s'"),
        )
    } else if is_zero(&waiting) {
        Finding::warn(
            "client_connection_check_interval is 0: a statement that waits for a lock outlives its client",
            format!("ALTER ROLE {role} SET client_connection_check_interval = '5s'"),
        )
    } else {
        Finding::ok("the server notices a dead host in minutes")
    })
}

/// `0`, `0s`, `0ms`.
fn is_zero(value: &str) -> bool {
    value.trim_start_matches('0').chars().all(char::is_alphabetic)
}
