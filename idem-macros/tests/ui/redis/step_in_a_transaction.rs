use idem_core::{Error, idempotent};
use idem_redis::RedisSteps;

#[idempotent(scope = "accounts", key = id)]
async fn create_account(steps: &mut RedisSteps, id: &str) -> Result<u32, Error> {
    steps.transaction("insert", async |_tx| Ok::<_, Error>(7)).await
}

fn main() {}
