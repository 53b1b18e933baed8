//! The handlers.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use idem_core::idempotent;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::caller::Caller;
use crate::database::Tx;
use crate::error::ApiError;

/// The highest amount that is not declined.
const LIMIT: i64 = 1_000_000;

/// A payment, as a client sends it.
#[derive(Deserialize)]
pub(crate) struct NewPayment {
    customer_id: String,
    /// In the currency's smallest unit: 100 is one dollar.
    amount: i64,
    currency: String,
}

#[derive(Serialize, sqlx::FromRow)]
pub(crate) struct Payment {
    id: i64,
    customer_id: String,
    amount: i64,
    currency: String,
    status: String,
}

/// Charges a payment. The claim on the key, the three rows and the answer are one commit. No line of the body is about
/// idempotency, so none can be forgotten.
#[idempotent(scope = caller, ttl = "24h")]
pub(crate) async fn create(
    caller: Caller,
    State(app): State<App>,
    tx: &mut Tx,
    new: NewPayment,
) -> Result<impl IntoResponse, ApiError> {
    let payment: Payment = sqlx::query_as(
        "INSERT INTO payments (caller, customer_id, amount, currency, status)
         VALUES ($1, $2, $3, $4, 'charged')
         RETURNING id, customer_id, amount, currency, status",
    )
    .bind(&caller.0)
    .bind(&new.customer_id)
    .bind(new.amount)
    .bind(&new.currency)
    .fetch_one(&mut *tx)
    .await?;

    for (account, entry) in [(new.customer_id.as_str(), "debit"), ("merchant", "credit")] {
        sqlx::query("INSERT INTO ledger (payment_id, account, entry, amount) VALUES ($1, $2, $3, $4)")
            .bind(payment.id)
            .bind(account)
            .bind(entry)
            .bind(payment.amount)
            .execute(&mut *tx)
            .await?;
    }
    charge(&payment, app.charge_time).await?;

    let location = [(LOCATION, format!("/payments/{}", payment.id))];
    Ok((StatusCode::CREATED, location, Json(payment)))
}

/// Stands for the rule that accepts or declines a payment, and for the time it takes. It comes last, to show that a
/// decline rolls the rows back.
///
/// Only writes to the database are rolled back with the transaction. If this function called a bank, a crash before the
/// commit would make the retry call the bank again: send the bank a key of its own that stays the same.
async fn charge(payment: &Payment, time: Duration) -> Result<(), ApiError> {
    tracing::info!("charging");
    tokio::time::sleep(time).await;
    if payment.amount > LIMIT { Err(ApiError::Declined) } else { Ok(()) }
}

/// The caller's payments.
pub(crate) async fn list(caller: Caller, State(app): State<App>) -> Result<Json<Vec<Payment>>, ApiError> {
    let payments =
        sqlx::query_as("SELECT id, customer_id, amount, currency, status FROM payments WHERE caller = $1 ORDER BY id")
            .bind(&caller.0)
            .fetch_all(app.store.pool())
            .await?;
    Ok(Json(payments))
}

/// One of the caller's payments. Another caller's payment is not found, like one that never existed.
pub(crate) async fn get(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Payment>, ApiError> {
    let id: i64 = id.parse().map_err(|_| ApiError::NotFound)?;
    let payment =
        sqlx::query_as("SELECT id, customer_id, amount, currency, status FROM payments WHERE caller = $1 AND id = $2")
            .bind(&caller.0)
            .bind(id)
            .fetch_optional(app.store.pool())
            .await?;
    payment.map(Json).ok_or(ApiError::NotFound)
}

/// Checks the body while it is extracted. Extractors run before the key is looked up, so a mistake in the body does not
/// use up the key: the client corrects the body and sends the same key.
impl<S: Send + Sync> FromRequest<S> for NewPayment {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(new) = Json::<Self>::from_request(request, state).await.map_err(ApiError::NoJson)?;
        new.check().map_err(ApiError::Invalid)?;
        Ok(new)
    }
}

impl NewPayment {
    fn check(&self) -> Result<(), &'static str> {
        if self.customer_id.is_empty() || !self.customer_id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("`customer_id` must be visible ASCII characters");
        }
        if self.amount <= 0 {
            return Err("`amount` must be above 0");
        }
        if self.currency.len() != 3 || !self.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err("`currency` must be three capital letters");
        }
        Ok(())
    }
}
