//! Orders that are placed once and captured once by the design of their table, without a record.

use sqlx::{FromRow, SqlitePool};

/// An order as it is now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// In minor units.
    pub amount: i64,
    /// `authorized` or `captured`.
    pub status: String,
}

/// Why there is no such order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The reference belongs to an order of another amount.
    #[error("this reference stands for another order")]
    OtherOrder,
    /// There is no order of this number.
    #[error("no such order")]
    NoSuchOrder,
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether a call did the work, or found it done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// This call did the work.
    Now,
    /// An earlier call did the work.
    Already,
}

/// Places an order under the user's own reference, or finds the existing order.
///
/// The unique constraint decides among any number of concurrent calls. The constraint knows only the reference, so this
/// function checks that a second call asks for the same order.
///
/// # Errors
/// [`OrderError::OtherOrder`] if the reference is taken.
pub async fn place_order(
    pool: &SqlitePool,
    user_id: &str,
    order_reference: &str,
    amount: i64,
) -> Result<Order, OrderError> {
    let insert = "INSERT INTO orders (user_id, order_reference, amount, status) VALUES ($1, $2, $3, 'authorized')
                  ON CONFLICT (user_id, order_reference) DO NOTHING";
    sqlx::query(insert).bind(user_id).bind(order_reference).bind(amount).execute(pool).await?;
    let select = "SELECT id, amount, status FROM orders WHERE user_id = $1 AND order_reference = $2";
    let order: Order = sqlx::query_as(select).bind(user_id).bind(order_reference).fetch_one(pool).await?;
    if order.amount == amount { Ok(order) } else { Err(OrderError::OtherOrder) }
}

/// Captures an order: a change that is possible from one state only.
///
/// # Errors
/// [`OrderError::NoSuchOrder`].
pub async fn capture(pool: &SqlitePool, id: i64) -> Result<Done, OrderError> {
    let step = "UPDATE orders SET status = 'captured' WHERE id = $1 AND status = 'authorized'";
    if sqlx::query(step).bind(id).execute(pool).await?.rows_affected() == 1 {
        return Ok(Done::Now);
    }
    let is_there: i64 =
        sqlx::query_scalar("SELECT count(*) FROM orders WHERE id = $1").bind(id).fetch_one(pool).await?;
    if is_there == 1 { Ok(Done::Already) } else { Err(OrderError::NoSuchOrder) }
}
