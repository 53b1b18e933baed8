#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> impl IntoResponse {
    tx.write().await;
    let id = loop {
        if user.id != 0 {
            break user.id;
        }
    };
    ([("x-payment", "1")], Json(Payment { id }))
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
