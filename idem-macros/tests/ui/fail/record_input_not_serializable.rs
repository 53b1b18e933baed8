include!("../support.rs");

struct Order {
    id: u64,
}

#[idempotent(scope = "test", key = order.id, fingerprint = order.id, record_input = order)]
async fn charge(steps: &mut PgSteps, order: Order) -> Result<u64, idem_core::Error> {
    steps.call("charge", async |_| Ok(order.id)).await
}

fn main() {
    let _ = async |store: &PgStore, order: Order| charge(store, order).await;
}
