include!("../support.rs");

#[idempotent(scope = "test", key = id, record_input = idd)]
async fn charge(steps: &mut PgSteps, id: u64) -> Result<u64, idem_core::Error> {
    steps.call("charge", async |_| Ok(id)).await
}

fn main() {
    let _ = async |store: &PgStore| charge(store, 1).await;
}
