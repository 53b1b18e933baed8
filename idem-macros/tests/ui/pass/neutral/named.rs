// Parameters that the attribute uses and the body does not: they are used.

use super::idempotent;
use crate::support::{CurrentUser, Json, NewPayment, PgTx};

use idem_core::Error;

async fn note(tx: &mut PgTx, id: u64) -> Result<u64, Error> {
    tx.write().await;
    Ok(id)
}

#[idempotent(scope = user)]
async fn by_its_scope(user: CurrentUser, tx: &mut PgTx) { tx.write().await }

#[idempotent(scope = format!("{} {user}", user.len()))]
async fn in_a_text(user: String, tx: &mut PgTx) { tx.write().await }

#[idempotent(scope = user, fingerprint = amount)]
async fn in_a_pattern(user: CurrentUser, tx: &mut PgTx, Json(NewPayment { amount, .. }): Json<NewPayment>) { tx.write().await }

#[idempotent(scope = user, axum, key = (order.customer_id).as_str())]
async fn by_its_key(user: CurrentUser, tx: &mut PgTx, Json(order): Json<NewPayment>) { tx.write().await }

#[idempotent(scope = user, fingerprint = _order.amount)]
#[expect(clippy::used_underscore_binding)]
async fn under_a_name_of_no_use(user: CurrentUser, tx: &mut PgTx, Json(_order): Json<NewPayment>) { tx.write().await }

#[idempotent(scope = user)]
async fn beside_a_variable_of_the_same_name(user: CurrentUser, tx: &mut PgTx) -> String {
    tx.write().await;
    let user = "ada";
    user.to_owned()
}

#[idempotent(scope = user)]
async fn before_items(user: CurrentUser, tx: &mut PgTx) -> String {
    //! Documented inside.
    use std::fmt::Write as _;
    macro_rules! greeting {
        () => {
            "hello"
        };
    }
    const GREETING: &str = greeting!();

    let mut text = String::new();
    tx.write().await;
    write!(text, "{GREETING}").expect("a text");
    text
}

#[idempotent(key = id, scope = "tills", fingerprint = amount)]
async fn of_a_function(tx: &mut PgTx, id: u64, amount: u64) -> Result<u64, Error> { note(tx, 1).await }

#[idempotent(key = id, scope = "tills", fingerprint = amount)]
async fn in_a_functions_pattern(tx: &mut PgTx, (id, amount): (u64, u64)) -> Result<u64, Error> { note(tx, 1).await }

pub fn all() {
    let _ = (by_its_scope, in_a_text, in_a_pattern, by_its_key, under_a_name_of_no_use);
    let _ = (beside_a_variable_of_the_same_name, before_items, of_a_function, in_a_functions_pattern);
}
