// Functions in which rustc or Clippy finds something, with the attribute as without it.

use super::idempotent;
use crate::support::{CurrentUser, Json, NewPayment, PgTx, StatusCode};

use idem_core::Error;

async fn note(tx: &mut PgTx, id: u64) -> Result<u64, Error> {
    tx.write().await;
    Ok(id)
}

#[expect(unused_variables)]
#[idempotent(scope = global)]
async fn handler_with_an_unused_parameter(user: CurrentUser, tx: &mut PgTx) { tx.write().await }

#[expect(unused_variables)]
#[idempotent(scope = user.id)]
async fn handler_with_a_parameter_that_is_a_fields_namesake(user: CurrentUser, tx: &mut PgTx, id: String) { tx.write().await; drop(user) }

#[expect(unused_variables)]
#[idempotent(scope = amount)]
async fn handler_with_a_part_of_a_pattern(tx: &mut PgTx, Json(NewPayment { amount, customer_id }): Json<NewPayment>) -> String { tx.write().await; amount.to_string() }

#[expect(unused_variables)]
#[idempotent(scope = global)]
async fn handler_with_an_unused_context(tx: &mut PgTx) -> StatusCode { std::future::ready(StatusCode::OK).await }

#[expect(unused_mut)]
#[idempotent(scope = user)]
async fn handler_with_an_unused_mut(mut user: CurrentUser, tx: &mut PgTx) -> String { tx.write().await; user.name }

#[expect(unused_braces)]
#[idempotent(scope = global)]
async fn handler_with_braces_of_its_own(tx: &mut PgTx) { { tx.write().await } }

#[expect(unused_must_use)]
#[idempotent(scope = global)]
async fn handler_with_an_unused_result(tx: &mut PgTx) { note(tx, 1).await; }

#[expect(unreachable_code)]
#[idempotent(scope = global)]
async fn handler_with_unreachable_code(tx: &mut PgTx) -> StatusCode { tx.write().await; return StatusCode::OK; StatusCode::CREATED }

#[expect(dead_code)]
#[idempotent(scope = global)]
async fn handler_that_no_route_mentions(tx: &mut PgTx) { tx.write().await }

#[expect(clippy::let_and_return)]
#[idempotent(scope = global)]
async fn handler_with_a_needless_name(tx: &mut PgTx) -> StatusCode { tx.write().await; let status = StatusCode::OK; status }

#[expect(clippy::items_after_statements)]
#[idempotent(scope = user)]
async fn handler_with_a_late_item(user: CurrentUser, tx: &mut PgTx) -> String {
    tx.write().await;
    const GREETING: &str = "hello ";
    GREETING.to_owned() + &user.name
}

#[expect(unused_variables)]
#[idempotent(key = id, scope = "tills", fingerprint = id)]
async fn function_with_an_unused_parameter(tx: &mut PgTx, id: u64, amount: u64) -> Result<u64, Error> { note(tx, id).await }

#[expect(unused_variables)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_a_part_of_a_pattern(tx: &mut PgTx, (id, amount): (u64, u64)) -> Result<u64, Error> { note(tx, id).await }

#[expect(unused_variables)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_an_unused_context(tx: &mut PgTx, id: u64) -> Result<u64, Error> { std::future::ready(Ok(id)).await }

#[expect(unused_mut)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_an_unused_mut(tx: &mut PgTx, mut id: u64) -> Result<u64, Error> { note(tx, id).await }

#[expect(unused_mut)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_an_unused_mut_in_a_pattern(tx: &mut PgTx, (mut id, _): (u64, u64)) -> Result<u64, Error> { note(tx, id).await }

#[expect(unused_braces)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_braces_of_its_own(tx: &mut PgTx, id: u64) -> Result<u64, Error> { { note(tx, id).await } }

#[expect(unused_parens)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_parentheses(tx: &mut PgTx, id: u64) -> Result<u64, Error> { let sum = (id + 1); note(tx, sum).await }

#[expect(unused_must_use)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_an_unused_result(tx: &mut PgTx, id: u64) -> Result<u64, Error> { note(tx, id).await; Ok(id) }

#[expect(unused_assignments)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_an_unused_value(tx: &mut PgTx, id: u64) -> Result<u64, Error> { let mut last = id; last = note(tx, last).await?; last = id; Ok(id) }

#[expect(unreachable_code)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_unreachable_code(tx: &mut PgTx, id: u64) -> Result<u64, Error> { return note(tx, id).await; Ok(id) }

#[expect(dead_code)]
#[idempotent(key = id, scope = "tills")]
async fn function_that_nobody_calls(tx: &mut PgTx, id: u64) -> Result<u64, Error> { note(tx, id).await }

#[expect(clippy::let_and_return)]
#[idempotent(key = id, scope = "tills")]
async fn function_with_a_needless_name(tx: &mut PgTx, id: u64) -> Result<u64, Error> { note(tx, id).await?; let noted = Ok(id); noted }

pub fn all() {
    let _ = (handler_with_an_unused_parameter, handler_with_a_parameter_that_is_a_fields_namesake);
    let _ = (handler_with_a_part_of_a_pattern, handler_with_an_unused_context, handler_with_an_unused_mut);
    let _ = (handler_with_braces_of_its_own, handler_with_an_unused_result, handler_with_unreachable_code);
    let _ = (handler_with_a_needless_name, handler_with_a_late_item);
    let _ = (function_with_an_unused_parameter, function_with_a_part_of_a_pattern, function_with_an_unused_context);
    let _ = (function_with_an_unused_mut, function_with_an_unused_mut_in_a_pattern, function_with_braces_of_its_own);
    let _ = (function_with_parentheses, function_with_an_unused_result, function_with_an_unused_value);
    let _ = (function_with_unreachable_code, function_with_a_needless_name);
}
