//! The stock on the shelves.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::App;
use crate::database::Tx;
use crate::error::ApiError;

#[derive(Serialize, sqlx::FromRow)]
pub(crate) struct Stock {
    item: String,
    price: i64,
    available: i64,
}

/// Takes the quantity off the shelf, and returns the price.
pub(crate) async fn reserve(tx: &mut Tx, item: &str, quantity: i64) -> Result<i64, ApiError> {
    let reserve = "UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1 AND on_sale
                   RETURNING price";
    let price: Option<i64> = sqlx::query_scalar(reserve).bind(quantity).bind(item).fetch_optional(tx).await?;
    tracing::info!("reserving");
    Ok(price.ok_or(ApiError::SoldOut)? * quantity)
}

/// Puts it back.
pub(crate) async fn give_back(tx: &mut Tx, item: &str, quantity: i64) -> sqlx::Result<()> {
    let give_back = "UPDATE stock SET available = available + $1 WHERE item = $2";
    sqlx::query(give_back).bind(quantity).bind(item).execute(tx).await?;
    tracing::info!("giving back");
    Ok(())
}

pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<Stock>>, ApiError> {
    let stock = sqlx::query_as("SELECT item, price, available FROM stock ORDER BY item");
    Ok(Json(stock.fetch_all(app.store.pool()).await?))
}
