include!("../support.rs");

use std::net::IpAddr;

#[idempotent(scope = address)]
async fn create_payment(Path(address): Path<IpAddr>, tx: &mut PgTx) -> Json<Payment> {
    tx.write().await;
    Json(Payment { id: u64::from(address.is_ipv4()) })
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/payments/{address}", post(create_payment));
}
