include!("../support.rs");

#[derive(Clone)]
struct Member {
    tenant: Option<u64>,
}

#[idempotent(scope = user.tenant)]
async fn create_payment(State(user): State<Member>, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.tenant.unwrap_or(0) })
}
fn main() {}
