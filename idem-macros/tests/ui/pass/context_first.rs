#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = user)]
async fn create_payment(tx: &mut PgTx, user: CurrentUser, Json(order): Json<NewPayment>) -> StatusCode {
    tx.write().await;
    println!("{} pays {}", user.name, order.amount);
    StatusCode::CREATED
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments", post(create_payment));
}
