#![deny(warnings)]
include!("../support.rs");

struct Api;

impl Api {
    #[idempotent(scope = user)]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id })
    }
}

fn main() {
    #[idempotent(scope = user)]
    async fn local(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        tx.write().await;
        Json(Payment { id: user.id })
    }

    let _: Router<PgStore> = Router::new().route("/", post(Api::create_payment)).route("/local", post(local));
}
