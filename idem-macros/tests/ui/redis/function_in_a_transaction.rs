use idem_core::{Error, idempotent};
use idem_redis::RedisTx;

#[idempotent(scope = "accounts", key = id)]
async fn create_account(tx: &mut RedisTx, id: &str) -> Result<u32, Error> {
    let _ = tx;
    Ok(7)
}

fn main() {}
