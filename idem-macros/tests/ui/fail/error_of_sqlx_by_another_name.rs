include!("../support.rs");

// Stands for sqlx.
mod sqlx {
    pub struct Error;
    pub type Result<T, E = Error> = std::result::Result<T, E>;
}

use sqlx::Error as DbError;

async fn insert(tx: &mut PgTx, id: u64) -> sqlx::Result<u64> {
    tx.write().await;
    if id == 0 { Err(sqlx::Error) } else { Ok(id) }
}

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Result<Json<Payment>, DbError> {
    let id = insert(tx, user.id).await?;
    Ok(Json(Payment { id }))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
