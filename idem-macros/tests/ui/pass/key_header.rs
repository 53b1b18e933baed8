#![deny(warnings)]
include!("../support.rs");

#[idempotent(scope = "invoices", key = header("X-Key"), operation = "invoices.create", in_flight = accepted)]
async fn create_invoice(tx: &mut PgTx) -> StatusCode {
    tx.write().await;
    StatusCode::CREATED
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(create_invoice));
}
