//! What an order does.

use idem_core::message::{Action, Failure};
use idem_core::{idempotent, observe};
use idem_sqlx::{SqliteStore, SqliteTx};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// An order, as its message has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The shop's name for the order. A producer that sends the order again sends it under another offset but under the
    /// same id, so the id is the key.
    pub id: String,
    /// What is ordered.
    pub item: String,
    /// How many, above 0.
    pub quantity: i64,
}

/// Stock that was reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// How many are left.
    pub left: i64,
}

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum OrderError {
    /// The order makes no sense.
    #[error("a quantity is above 0")]
    Invalid,
    /// The warehouse has never had the item.
    #[error("no such item")]
    NoSuchItem,
    /// There are too few.
    #[error("sold out")]
    SoldOut,
    /// The store refused the call, or could not be asked.
    #[error(transparent)]
    #[serde(skip)]
    Store(#[from] idem_core::Error),
}

impl OrderError {
    /// Whether a redelivery gets the same answer, even if there is stock by then: the order has been dead-lettered.
    fn is_final(&self) -> bool {
        match self {
            Self::Invalid | Self::NoSuchItem | Self::SoldOut => true,
            Self::Store(_) => false,
        }
    }
}

impl Failure for OrderError {
    fn action(&self) -> Action {
        match self {
            Self::Invalid => Action::dead_letter("invalid", self),
            Self::NoSuchItem => Action::dead_letter("no_such_item", self),
            Self::SoldOut => Action::dead_letter("sold_out", self),
            // A message that violates a constraint is dead-lettered: Kafka would deliver it for ever. If the database is
            // away, busy or not migrated yet, the message is delivered again.
            Self::Store(error) => error.action(),
        }
    }
}

impl From<sqlx::Error> for OrderError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(idem_sqlx::into_idem_error(error))
    }
}

/// Reserves an order's stock in a warehouse.
///
/// Each warehouse has a consumer group of its own and gets every order. The warehouse is the scope, so that two
/// warehouses never share a record. Kafka keeps a message for seven days by default. The record outlives the message.
///
/// # Errors
/// [`OrderError`]. An error other than [`Store`](OrderError::Store) is also the answer to every redelivery.
#[idempotent(
    key = order.id,
    scope = warehouse,
    ttl = "30d",
    operation = "stock.reserve",
    rejects = OrderError::is_final
)]
pub async fn reserve(tx: &mut SqliteTx, warehouse: &str, order: &Order) -> Result<Reserved, OrderError> {
    let Order { id, item, quantity } = order;
    if *quantity <= 0 {
        return Err(OrderError::Invalid);
    }
    let take = "UPDATE stock SET on_hand = on_hand - $1 WHERE warehouse = $2 AND item = $3 AND on_hand >= $1
                RETURNING on_hand";
    let taken = sqlx::query_scalar(take).bind(quantity).bind(warehouse).bind(item).fetch_optional(&mut *tx).await?;
    let Some(left) = taken else {
        let is_there = "SELECT count(*) FROM stock WHERE warehouse = $1 AND item = $2";
        let is_there: i64 = sqlx::query_scalar(is_there).bind(warehouse).bind(item).fetch_one(tx).await?;
        return Err(if is_there == 0 { OrderError::NoSuchItem } else { OrderError::SoldOut });
    };
    let note = "INSERT INTO reservations (warehouse, order_id, item, quantity) VALUES ($1, $2, $3, $4)";
    sqlx::query(note).bind(warehouse).bind(id).bind(item).bind(quantity).execute(tx).await?;
    Ok(Reserved { left })
}

/// Reads a message, handles it, and returns what becomes of it.
pub async fn on_message(store: &SqliteStore, warehouse: &str, payload: &[u8]) -> Action {
    let order: Order = match serde_json::from_slice(payload) {
        Ok(order) => order,
        Err(error) => return Action::dead_letter("malformed", error),
    };
    let seen = observe(reserve(store, warehouse, &order)).await;
    match &seen.result {
        Ok(_) => info!(replayed = seen.replayed, "reserved"),
        Err(error) => warn!(%error, replayed = seen.replayed, "not reserved"),
    }
    Action::of(&seen.result)
}
