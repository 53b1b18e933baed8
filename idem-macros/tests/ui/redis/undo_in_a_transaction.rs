use idem_core::{Error, idempotent};
use idem_redis::RedisSteps;

#[idempotent(scope = "accounts", key = id)]
async fn create_account(steps: &mut RedisSteps, id: &str) -> Result<u32, Error> {
    let number = steps.call("create", async |_key| Ok::<_, Error>(7)).await?;
    steps.undo("create", async |_tx| Ok::<_, Error>(()));
    Ok(number)
}

fn main() {}
