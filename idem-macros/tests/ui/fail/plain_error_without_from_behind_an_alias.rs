include!("../support.rs");

struct Declined;

type Outcome<T> = Result<T, Declined>;

#[idempotent(scope = "test", key = id)]
async fn charge(tx: &mut PgTx, id: u64) -> Outcome<u64> {
    tx.write().await;
    Ok(id)
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
