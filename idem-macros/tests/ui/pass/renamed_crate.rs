#![deny(warnings)]
include!("../support.rs");

mod framework {
    pub use ::idem_core as idempotency;
}

#[framework::idempotency::idempotent(crate = framework::idempotency, scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: user.id })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_payment));
}
