//! On SQLite.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use idem_core::idempotent;
use idem_sqlx::{SqliteSteps, SqliteStore, SqliteTx};
use sqlx::{SqliteConnection, SqlitePool};

use super::{Failed, KeyHash, NewPayment, OPERATION, Payment, Reply, User, fingerprint};

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) pool: SqlitePool,
    pub(crate) store: SqliteStore,
}

impl FromRef<App> for SqliteStore {
    fn from_ref(app: &App) -> Self {
        app.store.clone()
    }
}

/// Without a record: two requests are two payments.
pub(crate) async fn bare(
    State(app): State<App>,
    user: User,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), Failed> {
    let mut tx = app.pool.begin().await?;
    let payment = insert_payment(&mut tx, &user, order).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(payment)))
}

/// The bound: the finished record, in one insert of its own. Nothing is claimed, so duplicates do all the work.
pub(crate) async fn bound(State(app): State<App>, user: User, key: KeyHash, body: Bytes) -> Result<Response, Failed> {
    let order = serde_json::from_slice(&body)?;
    let mut tx = app.pool.begin().await?;
    let payment = insert_payment(&mut tx, &user, order).await?;
    let reply = Reply::created(&payment)?;
    let stored = insert_finished(&mut tx, &user, &key, &body, &reply).await?;
    if !stored {
        return Ok(StatusCode::CONFLICT.into_response());
    }
    tx.commit().await?;
    Ok(reply.into_response())
}

/// As people write it: a pending row, the work, and the row's completion. A duplicate waits for the write lock with a
/// connection in hand.
pub(crate) async fn by_hand(State(app): State<App>, user: User, key: KeyHash, body: Bytes) -> Result<Response, Failed> {
    let order = serde_json::from_slice(&body)?;
    let mut tx = app.pool.begin().await?;
    let claimed = sqlx::query(
        "INSERT INTO idempotency_keys (owner, operation, key_hash, request_hash, state, created_at)
         VALUES ($1, $2, $3, $4, 'pending', unixepoch())
         ON CONFLICT DO NOTHING",
    )
    .bind(&user.0)
    .bind(OPERATION)
    .bind(&key.0[..])
    .bind(fingerprint(&body))
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if claimed == 0 {
        // A real handler looks the reply up. In this bench no key comes twice.
        return Ok(StatusCode::CONFLICT.into_response());
    }
    let payment = insert_payment(&mut tx, &user, order).await?;
    let reply = Reply::created(&payment)?;
    sqlx::query(
        "UPDATE idempotency_keys
         SET state = 'completed', status = $4, headers = $5, body = $6, completed_at = unixepoch(),
             expires_at = unixepoch() + 86400
         WHERE owner = $1 AND operation = $2 AND key_hash = $3",
    )
    .bind(&user.0)
    .bind(OPERATION)
    .bind(&key.0[..])
    .bind(reply.status())
    .bind(&reply.headers)
    .bind(&reply.body)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(reply.into_response())
}

/// The attribute of this library.
#[idempotent(scope = user, ttl = "24h", operation = "payments.create")]
pub(crate) async fn attribute(
    user: User,
    tx: &mut SqliteTx,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), Failed> {
    let payment = insert_payment(tx, &user, order).await?;
    Ok((StatusCode::CREATED, Json(payment)))
}

/// A lease, as people write it with care: the claim is committed first, and the payment commits with the completion, if
/// the token still holds the key. Nothing renews the lease, and no step is recorded.
pub(crate) async fn leased_by_hand(
    State(app): State<App>,
    user: User,
    key: KeyHash,
    body: Bytes,
) -> Result<Response, Failed> {
    let order = serde_json::from_slice(&body)?;
    let token: Option<Vec<u8>> = sqlx::query_scalar(
        "INSERT INTO idempotency_leases (owner, operation, key_hash, request_hash, token, lease_until, created_at)
         VALUES ($1, $2, $3, $4, randomblob(16), unixepoch() + 30, unixepoch())
         ON CONFLICT (owner, operation, key_hash) DO UPDATE
         SET token = excluded.token, lease_until = excluded.lease_until
         WHERE idempotency_leases.request_hash = excluded.request_hash
             AND idempotency_leases.status IS NULL
             AND idempotency_leases.lease_until <= unixepoch()
         RETURNING token",
    )
    .bind(&user.0)
    .bind(OPERATION)
    .bind(&key.0[..])
    .bind(fingerprint(&body))
    .fetch_optional(&app.pool)
    .await?;
    let Some(token) = token else {
        // A real handler looks the reply up. In this bench no key comes twice.
        return Ok(StatusCode::CONFLICT.into_response());
    };
    let mut tx = app.pool.begin().await?;
    let payment = insert_payment(&mut tx, &user, order).await?;
    let reply = Reply::created(&payment)?;
    let completed = sqlx::query(
        "UPDATE idempotency_leases
         SET lease_until = NULL, status = $4, headers = $5, body = $6, completed_at = unixepoch(),
             expires_at = unixepoch() + 86400
         WHERE owner = $1 AND operation = $2 AND key_hash = $3 AND token = $7 AND status IS NULL",
    )
    .bind(&user.0)
    .bind(OPERATION)
    .bind(&key.0[..])
    .bind(reply.status())
    .bind(&reply.headers)
    .bind(&reply.body)
    .bind(token)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if completed == 0 {
        return Ok(StatusCode::CONFLICT.into_response());
    }
    tx.commit().await?;
    Ok(reply.into_response())
}

/// A leased run without a step: the payment is written with the completion.
#[idempotent(scope = user, ttl = "24h", operation = "payments.create")]
pub(crate) async fn leased(
    user: User,
    steps: &mut SqliteSteps,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), Failed> {
    let payment = steps.finish(async |tx| insert_payment(tx, &user, order).await.map_err(Failed::from)).await?;
    Ok((StatusCode::CREATED, Json(payment)))
}

/// The payment is a step: it is committed with its record, before the completion.
#[idempotent(scope = user, ttl = "24h", operation = "payments.create")]
pub(crate) async fn leased_step(
    user: User,
    steps: &mut SqliteSteps,
    Json(order): Json<NewPayment>,
) -> Result<(StatusCode, Json<Payment>), Failed> {
    let insert = async |tx: &mut SqliteTx| insert_payment(tx, &user, order).await.map_err(Failed::from);
    let payment = steps.transaction("insert", insert).await?;
    Ok((StatusCode::CREATED, Json(payment)))
}

async fn insert_payment(connection: &mut SqliteConnection, user: &User, order: NewPayment) -> sqlx::Result<Payment> {
    let insert = sqlx::query_scalar(
        "INSERT INTO payments (owner, customer_id, amount, currency) VALUES ($1, $2, $3, $4) RETURNING id",
    );
    let insert = insert.bind(&user.0).bind(&order.customer_id).bind(order.amount).bind(&order.currency);
    let id = insert.fetch_one(connection).await?;
    Ok(Payment::charged(id, order))
}

/// Inserts a record in its final state. Returns `false` if there is a record already.
async fn insert_finished(
    connection: &mut SqliteConnection,
    user: &User,
    key: &KeyHash,
    body: &[u8],
    reply: &Reply,
) -> sqlx::Result<bool> {
    let insert = sqlx::query(
        "INSERT INTO idem_records
             (scope, operation, key_hash, fingerprint, state, claim, attempt, format, status, headers, body,
              created_at, completed_at, expires_at)
         SELECT $1, $2, $3, $4, 2, $5, 1, 1, $6, $7, $8, now, now, now + 86400000000
         FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now)
         WHERE true
         ON CONFLICT DO NOTHING",
    );
    let insert = insert
        .bind(&user.0)
        .bind(OPERATION)
        .bind(&key.0[..])
        .bind(fingerprint(body))
        .bind(&key.0[..16])
        .bind(reply.status())
        .bind(&reply.headers)
        .bind(&reply.body);
    Ok(insert.execute(connection).await?.rows_affected() == 1)
}
