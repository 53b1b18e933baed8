//! Leased handlers: what is borrowed, what is moved, and what the attribute says of a lease.

use crate::support::*;
use crate::twice::{ORDER, block_on, json, twice};

use idem_core::Error;

#[derive(serde::Serialize, serde::Deserialize, Clone)]
struct Mail {
    id: String,
    to: String,
}

#[idempotent(scope = user, lease = "5s", attempts = 3)]
async fn checkout(
    user: CurrentUser,
    steps: &mut PgSteps,
    Json(order): Json<NewPayment>,
) -> Result<Json<Payment>, StatusCode> {
    run(steps, &user.name, order).await.map(Json).map_err(|error| {
        let _code = error.code();
        StatusCode::SERVICE_UNAVAILABLE
    })
}

async fn run(steps: &mut PgSteps, name: &str, order: NewPayment) -> Result<Payment, Error> {
    let reserve = async |tx: &mut PgTx| {
        tx.write().await;
        Ok::<_, Error>(order.amount)
    };
    let amount = steps.transaction("reserve", reserve).await?;
    let customer = order.customer_id.clone();
    steps.undo("reserve", async move |tx| give_back(tx, &customer).await);
    let charge = steps.call("charge", async |key| Ok::<_, Error>(format!("{name} {}", key.as_str().len()))).await?;
    let paid = charge.clone();
    steps.undo_call("charge", async move |key| if paid.is_empty() { Err(key.to_string()) } else { Ok(()) });
    steps.undo_call(
        "charge",
        |key| async move { Err::<(), _>(std::fmt::Error).or(key.as_str().parse().map(|_: u8| ())) },
    );
    let id = steps.finish(async |tx| Ok::<_, Error>(confirm(tx, amount).await)).await?;
    Ok(Payment { id })
}

async fn give_back(tx: &mut PgTx, customer: &str) -> Result<(), std::io::Error> {
    tx.write().await;
    if customer.is_empty() { Err(std::io::Error::other("nobody")) } else { Ok(()) }
}

async fn confirm(tx: &mut PgTx, amount: u64) -> u64 {
    tx.write().await;
    amount + 1
}

#[idempotent(key = mail.id, scope = "mails", lease = "1m", record_input = mail)]
async fn send(steps: &mut PgSteps, mail: &Mail) -> Result<String, Error> {
    deliver(steps, &mail.to).await
}

#[idempotent(key = id, scope = "mails", operation = "mails.parts", fingerprint = to, record_input = (id, &to))]
async fn parts(steps: &mut PgSteps, id: u64, to: String, mut office: impl FnMut() + Send) -> Result<String, Error> {
    office();
    deliver(steps, &format!("{id} {to}")).await
}

async fn deliver(steps: &mut PgSteps, to: &str) -> Result<String, Error> {
    let write = async |tx: &mut PgTx| {
        tx.write().await;
        Ok::<_, Error>(to.to_owned())
    };
    steps.transaction("deliver", write).await
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn a_leased_handler_is_answered_as_the_first_was() {
    let store = PgStore::default();
    let app = Router::new().route("/checkout", post(checkout)).with_state(store.clone());
    assert_eq!(twice(&store, &app, || json("/checkout", ORDER)), (200, r#"{"id":6}"#.to_owned()));
    assert_eq!(store.writes(), 2);
}

#[test]
fn a_leased_call_is_answered_as_the_first_was() {
    let store = PgStore::default();
    let mail = Mail { id: "m1".to_owned(), to: "ada".to_owned() };
    let calls = async || {
        (is_send(send(&store, &mail)).await.unwrap(), is_send(parts(&store, 1, "ada".to_owned(), || ())).await.unwrap())
    };
    let first = block_on(calls());
    assert_eq!(first, ("ada".to_owned(), "1 ada".to_owned()));
    assert_eq!(block_on(calls()), first);
    assert_eq!(store.writes(), 2);
}
