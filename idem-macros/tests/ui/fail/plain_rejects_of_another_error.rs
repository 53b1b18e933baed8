include!("../support.rs");

#[idempotent(scope = "test", key = id, rejects = is_final)]
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

fn is_final(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
