include!("../support.rs");

struct Api;

impl Api {
    #[idempotent(scope = user)]
    async fn create_payment(&self, user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id })
    }
}

fn main() {
    let _ = Api::create_payment;
}
