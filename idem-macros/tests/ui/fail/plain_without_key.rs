include!("../support.rs");

struct Reserved(u64);

#[idempotent(scope = "stock")]
async fn reserve(tx: &mut PgTx, order: &NewPayment) -> Result<Reserved, idem_core::Error> {
    tx.write().await;
    Ok(Reserved(order.amount))
}

fn main() {
    let _ = reserve;
}
