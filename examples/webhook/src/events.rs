//! What a message does.

use axum::Json;
use idem_core::{Error, idempotent};
use idem_sqlx::SqliteTx;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::signed::Signed;

/// An event of the sender's.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    id: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum What {
    #[serde(rename = "invoice.paid")]
    InvoicePaid { invoice: String, amount: i64 },
    /// An event that does not concern us, and must not be sent again.
    #[serde(other)]
    Other,
}

/// The key belongs to the message: `webhook-id` stays the same however often the sender tries.
#[idempotent(scope = "partner", key = header("webhook-id"), ttl = "7d", operation = "webhooks.message")]
pub(crate) async fn on_message(tx: &mut SqliteTx, Signed(event): Signed<Event>) -> Result<Json<Value>, Error> {
    take_effect(tx, &event).await
}

/// The key belongs to the event and is in the body: for a sender that makes a new message of an old event.
#[idempotent(scope = "partner", axum, key = event.id, ttl = "7d", operation = "webhooks.event")]
pub(crate) async fn on_event(tx: &mut SqliteTx, Signed(event): Signed<Event>) -> Result<Json<Value>, Error> {
    take_effect(tx, &event).await
}

async fn take_effect(tx: &mut SqliteTx, event: &Event) -> Result<Json<Value>, Error> {
    match &event.what {
        What::InvoicePaid { invoice, amount } => {
            let insert = sqlx::query("INSERT INTO ledger (invoice, amount) VALUES ($1, $2)").bind(invoice).bind(amount);
            insert.execute(tx).await.map_err(idem_sqlx::into_idem_error)?;
            Ok(Json(json!({ "event": event.id, "entered": true })))
        }
        What::Other => Ok(Json(json!({ "event": event.id, "entered": false }))),
    }
}
