include!("../support.rs");

// Stands for sqlx.
mod sqlx {
    pub struct Error;
    pub type Result<T, E = Error> = std::result::Result<T, E>;
}

async fn insert(tx: &mut PgTx, id: u64) -> sqlx::Result<u64> {
    tx.write().await;
    if id == 0 { Err(sqlx::Error) } else { Ok(id) }
}

#[idempotent(key = id, scope = "test")]
async fn charge(tx: &mut PgTx, id: u64) -> sqlx::Result<u64> {
    insert(tx, id).await
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
