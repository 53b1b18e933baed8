include!("../support.rs");

use std::net::IpAddr;

#[idempotent(scope = "test", key = address, fingerprint = none)]
async fn greet(tx: &mut PgTx, address: IpAddr) -> Result<bool, idem_core::Error> {
    tx.write().await;
    Ok(address.is_ipv4())
}

fn main() {
    let _ = async |store: &PgStore, address: IpAddr| greet(store, address).await;
}
