//! The handlers. [`create`] is the one to copy.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use idem_core::idempotent;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::caller::Caller;
use crate::database::{Steps, Tx};
use crate::error::ApiError;
use crate::provider::Charge;
use crate::stock;

/// An order, as a client sends it.
#[derive(Deserialize)]
pub(crate) struct NewOrder {
    item: String,
    quantity: i64,
    /// The card's name at the provider.
    card: String,
}

#[derive(Serialize, sqlx::FromRow)]
pub(crate) struct Order {
    id: i64,
    item: String,
    quantity: i64,
    amount: i64,
    charge: String,
}

/// Reserves, charges, confirms. If this process ends for any reason, the client's retry resumes after the last finished
/// step.
///
/// A final refusal, for which [`ApiError`] returns `Disposition::Reject`, undoes the finished steps, the last step
/// first. After an error that is not final, the finished steps stay for the retry.
///
/// **It needs the retry.** A client that gives up after `payment_pending` leaves lamps reserved, and perhaps a charge,
/// and this program does not resume the order. If clients may give up, do the work in a plain function with
/// `record_input`. Call that function from the handler, and from `store.resume_abandoned` in a loop. Or look for
/// unfinished runs in `idem_records`: `idem_core::docs::leased` has an explanation and the query.
///
/// `operation` is in the records, and the keys of the calls derive from it. With it, you may rename or move the
/// function. Without it, a retry after such a change would charge under another key.
///
/// `lease` and `attempts` are chosen for trying it out: a retry after a kill is refused for two seconds at most, and a
/// shop that is killed again and again does not use up the attempts. In production take `lease = "30s"`, so that no run
/// loses its lease while the database fails over, and `attempts = 10`: a run under which ten processes died needs an
/// operator. A charge may take longer than the lease, because the lease is renewed. While the provider is down, retries
/// are spaced, and use up nothing.
#[idempotent(scope = caller, operation = "orders.create", ttl = "24h", lease = "2s", attempts = 1000)]
// Below the attribute, so that the span is about the attempt. The key and the card must not be logged.
#[tracing::instrument(
    name = "order",
    skip_all,
    fields(attempt = steps.attempt())
)]
pub(crate) async fn create(
    caller: Caller,
    State(app): State<App>,
    steps: &mut Steps,
    new: NewOrder,
) -> Result<(StatusCode, Json<Order>), ApiError> {
    let (item, quantity) = (new.item.clone(), new.quantity);
    let amount = steps.transaction("reserve", async |tx| stock::reserve(tx, &item, quantity).await).await?;
    steps.undo("reserve", async move |tx| stock::give_back(tx, &item, quantity).await);
    tracing::info!("reserved");

    let charge = steps
        .call("charge", async |key| app.provider.charge(&key, &new.card, amount).await.map_err(ApiError::Provider))
        .await?;
    let charge = match charge {
        Charge::Paid { id } => id,
        Charge::Declined => return Err(ApiError::Declined),
        Charge::Refused => return Err(ApiError::Refused),
    };
    let (provider, paid) = (app.provider.clone(), charge.clone());
    steps.undo_call("charge", async move |key| provider.refund(&key, &paid).await);
    tracing::info!("paid");

    // One commit with the answer.
    let order = steps.finish(async |tx| confirm(tx, &caller, &new, amount, &charge).await).await?;
    Ok((StatusCode::CREATED, Json(order)))
}

/// An item that was withdrawn from sale after it was reserved is not sold.
async fn confirm(tx: &mut Tx, caller: &Caller, new: &NewOrder, amount: i64, charge: &str) -> Result<Order, ApiError> {
    let confirm = "INSERT INTO orders (caller, item, quantity, amount, charge)
                   SELECT $1, item, $3, $4, $5 FROM stock WHERE item = $2 AND on_sale
                   RETURNING id, item, quantity, amount, charge";
    let order = sqlx::query_as(confirm).bind(&caller.0).bind(&new.item).bind(new.quantity).bind(amount).bind(charge);
    let order: Option<Order> = order.fetch_optional(tx).await?;
    tracing::info!("confirming");
    order.ok_or(ApiError::Withdrawn)
}

/// The caller's orders.
pub(crate) async fn list(caller: Caller, State(app): State<App>) -> Result<Json<Vec<Order>>, ApiError> {
    let orders = sqlx::query_as("SELECT id, item, quantity, amount, charge FROM orders WHERE caller = $1 ORDER BY id");
    Ok(Json(orders.bind(&caller.0).fetch_all(app.store.pool()).await?))
}

/// Checks the body while it is extracted. Extractors run before the key is looked up, so a mistake in the body does not
/// use up the key: the client corrects the body and sends the same key.
impl<S: Send + Sync> FromRequest<S> for NewOrder {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(new) = Json::<Self>::from_request(request, state).await.map_err(ApiError::NoJson)?;
        if !(1..=1000).contains(&new.quantity) {
            return Err(ApiError::Invalid("`quantity` must be 1 to 1000"));
        }
        Ok(new)
    }
}
