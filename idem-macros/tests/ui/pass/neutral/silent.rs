// Functions in which rustc and Clippy find nothing. Bodies are in one line as rustfmt's `fn_single_line` writes them.

use super::idempotent;
use crate::neutral::Failed;
use crate::support::{CurrentUser, Json, NewPayment, Payment, PgSteps, PgTx, StatusCode};

use idem_core::{Error, Kind};

pub struct Pair {
    id: u64,
    amount: u64,
}

pub struct Till(u64);

async fn note(tx: &mut PgTx, id: u64) -> Result<u64, Error> {
    tx.write().await;
    if id == 0 { Err(Error::new(Kind::KeyMissing)) } else { Ok(id) }
}

#[idempotent(scope = user)]
async fn handler(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> { paid(tx, user).await }

async fn paid(tx: &mut PgTx, user: CurrentUser) -> Json<Payment> {
    tx.write().await;
    drop(user.name);
    Json(Payment { id: user.id })
}

#[idempotent(scope = global)]
async fn handler_without_a_reply(tx: &mut PgTx) { tx.write().await }

#[idempotent(scope = user.id, fingerprint = order.amount)]
async fn handler_of_a_pattern(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) -> String { text(tx, user, order).await }

async fn text(tx: &mut PgTx, user: CurrentUser, order: NewPayment) -> String {
    tx.write().await;
    user.name + &order.customer_id
}

#[idempotent(key = id, scope = "tills")]
async fn function(tx: &mut PgTx, id: u64) -> Result<u64, Error> { note(tx, id).await }

#[idempotent(key = id, scope = "tills")]
async fn function_that_changes_its_argument(mut id: u64, tx: &mut PgTx) -> Result<u64, Error> { id += 1; note(tx, id).await }

#[idempotent(key = id, scope = "tills", fingerprint = id)]
async fn function_of_a_pattern(Pair { id, mut amount }: Pair, tx: &mut PgTx) -> Result<u64, Error> { amount += note(tx, id).await?; Ok(amount) }

#[idempotent(key = id, scope = "tills")]
async fn function_that_refuses(tx: &mut PgTx, id: u64) -> Result<u64, Error> { match note(tx, id).await { Ok(0) => Err(Error::new(Kind::KeyMissing)), other => other } }

#[idempotent(key = id, scope = "tills")]
async fn function_that_never_ends(tx: &mut PgTx, id: u64) -> Result<u64, Error> { loop { tx.write().await; if id == 0 { return Ok(id) } } }

#[idempotent(key = id, scope = "tills")]
async fn function_that_never_returns(tx: &mut PgTx, id: u64) -> Result<u64, Error> { panic!("{}", note(tx, id).await.is_ok()) }

#[idempotent(key = id, scope = "tills", rejects = is_final)]
async fn function_in_a_generic<T: Send + Sync + serde::Serialize>(tx: &mut PgTx, id: u64, it: &T) -> Result<u64, Failed> { Ok(note(tx, id).await.map(|id| id + size_of_val(it) as u64)?) }

const fn is_final(_: &Failed) -> bool { true }

#[idempotent(key = id, scope = "tills", lease = "30s", record_input = id)]
async fn steps(steps: &mut PgSteps, id: u64) -> Result<u64, Error> { steps.transaction("note", async |tx: &mut PgTx| note(tx, id).await).await }

impl Till {
    #[idempotent(key = id, scope = self.0, operation = "tills.method")]
    async fn method(&self, tx: &mut PgTx, id: u64) -> Result<u64, Error> { note(tx, id + self.0).await }
}

#[idempotent(scope = user)]
async fn handler_with_items(user: CurrentUser, tx: &mut PgTx) -> StatusCode {
    const MOST: u64 = 7;
    fn is_most(id: u64) -> bool {
        id >= MOST
    }

    tx.write().await;
    if is_most(user.id) { StatusCode::OK } else { StatusCode::CREATED }
}

#[idempotent(key = id, scope = "tills")]
async fn function_with_items(tx: &mut PgTx, (id, amount): (u64, u64)) -> Result<u64, Error> {
    const MOST: u64 = 7;
    fn is_most(id: u64) -> bool {
        id >= MOST
    }

    if is_most(amount) {
        return Err(Error::new(Kind::KeyMissing));
    }
    note(tx, id).await
}

pub fn all() {
    let _ = (handler, handler_without_a_reply, handler_of_a_pattern, handler_with_items);
    let _ = (function, function_that_changes_its_argument, function_of_a_pattern, function_with_items, steps);
    let _ = (function_that_refuses, function_that_never_ends, function_that_never_returns);
    let _ = (is_final, function_in_a_generic::<u8>, Till::method, Till(1), Pair { id: 1, amount: 1 });
}
