include!("../support.rs");

#[idempotent(scope = "test", key = id, rejects = true)]
async fn charge(tx: &mut PgTx, id: u64) -> Result<u64, Declined> {
    tx.write().await;
    Ok(id)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Declined;

impl From<idem_core::Error> for Declined {
    fn from(_: idem_core::Error) -> Self {
        Self
    }
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
