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
    let _ = async |user: CurrentUser, store: &PgStore| Api.create_payment(user, store).await;
}
