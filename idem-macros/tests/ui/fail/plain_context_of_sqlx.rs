include!("../support.rs");

// Stands for that of sqlx.
struct PgConnection;

#[idempotent(scope = "test", key = id)]
async fn charge(connection: &mut PgConnection, id: u64) -> Result<u64, idem_core::Error> {
    let _ = connection;
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
