include!("../support.rs");

#[idempotent(scope = (user.id, tenant))]
async fn create_payment(user: CurrentUser, State(tenant): State<Option<u64>>, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id + tenant.unwrap_or(0) })
}

fn main() {}
