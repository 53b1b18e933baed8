//! One order, whatever the provider does.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::Request;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::time::timeout;

use crate::demo::client::{Answer, order, post_order};
use crate::demo::program::Program;
use crate::shop::{END_PAUSES, PROGRAM, Town, begin, json, send, when_free};
use crate::standin::Mood;

#[tokio::test]
async fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let folder = std::env::temp_dir().join(format!("checkout_demo_test_{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let demo = Command::new(PROGRAM).arg("demo").env("TMPDIR", &folder).output().await.expect("a process");
    // Not recursive: it fails where the demo left something.
    let emptied = std::fs::remove_dir(&folder);

    let output = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{output}\n{}", String::from_utf8_lossy(&demo.stderr));
    assert!(output.ends_with("every promise was kept\n"), "{output}");
    assert_eq!(output.matches("  ok\n").count(), 23, "{output}");
    emptied.expect("an empty folder");
}

#[tokio::test]
async fn an_order_takes_stock_and_money_once() {
    let town = Town::build().await;
    let server = town.open().await;

    let first = send(&server, order("ada", "k", "visa")).await;
    assert!(first.is_fresh(StatusCode::CREATED), "{first:?}");
    let charges = town.charges().await;
    assert_eq!((charges[0].asked.card.as_str(), charges[0].asked.amount), ("visa", 8000));
    let placed = json!({ "id": 1, "item": "lamp", "quantity": 2, "amount": 8000, "charge": charges[0].id });
    assert_eq!(json(&first), placed);
    town.assert_state(1, 98, 1, 0).await;

    let retry = send(&server, order("ada", "k", "visa")).await;
    assert!(retry.is_replay_of(&first), "{retry:?}");
    assert_eq!(town.charges().await[0].times, 1);
    town.assert_state(1, 98, 1, 0).await;

    assert_eq!(get(&server, "ada", "/orders").await, Value::from(vec![placed]));
    assert_eq!(get(&server, "bob", "/orders").await, Value::Array(Vec::new()));
    assert_eq!(get(&server, "bob", "/stock").await, json!([{ "item": "lamp", "price": 4000, "available": 98 }]));
}

#[tokio::test]
async fn the_same_key_is_another_charge_for_another_caller_and_a_mistake_with_another_order() {
    let town = Town::build().await;
    let server = town.open().await;

    for caller in ["ada", "bob"] {
        let placed = send(&server, order(caller, "k", "visa")).await;
        assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    }
    let charges = town.charges().await;
    assert_ne!(charges[0].key, charges[1].key);
    let refused = send(&server, order("ada", "k", "another")).await;
    assert!(refused.is_refusal(StatusCode::UNPROCESSABLE_ENTITY, "key_reused"), "{refused:?}");
    town.assert_state(2, 96, 2, 0).await;
}

#[tokio::test]
async fn a_declined_card_gives_the_stock_back_and_stays_declined() {
    let town = Town::build().await;
    let server = town.open().await;

    let declined = send(&server, order("ada", "k", "declined")).await;
    assert!(declined.is_refusal(StatusCode::PAYMENT_REQUIRED, "card_declined"), "{declined:?}");
    assert!(declined.is_fresh(StatusCode::PAYMENT_REQUIRED));
    town.assert_state(0, 100, 0, 0).await;

    let retry = send(&server, order("ada", "k", "declined")).await;
    assert!(retry.is_replay_of(&declined), "{retry:?}");
    assert_eq!(town.charges().await[0].times, 1);
    town.assert_state(0, 100, 0, 0).await;
}

#[tokio::test]
async fn a_card_that_the_provider_does_not_know_is_refused_for_good() {
    let town = Town::build().await;
    let server = town.open().await;

    let refused = send(&server, order("ada", "k", "unknown")).await;
    assert!(refused.is_refusal(StatusCode::UNPROCESSABLE_ENTITY, "payment_refused"), "{refused:?}");
    assert!(refused.is_fresh(StatusCode::UNPROCESSABLE_ENTITY));
    town.assert_state(0, 100, 0, 0).await;

    let retry = send(&server, order("ada", "k", "unknown")).await;
    assert!(retry.is_replay_of(&refused), "{retry:?}");
}

/// As when the shop's API key has run out.
#[tokio::test]
async fn a_shop_that_the_provider_does_not_know_keeps_the_order_for_later() {
    let town = Town::build().await;
    let mut server = town.open().await;

    town.provider_is(Mood::Stranger).await;
    let refused = send(&server, order("ada", "k", "visa")).await;
    assert!(refused.is_refusal(StatusCode::SERVICE_UNAVAILABLE, "payment_unavailable"), "{refused:?}");
    let line = server.wait_for("charging needs an operator").await.expect("a line");
    assert!(line.contains("ERROR") && line.contains("attempt=1"), "{line}");
    assert!(!line.contains("visa") && !line.contains("ada"), "{line}");
    town.assert_state(0, 98, 0, 0).await;

    town.provider_is(Mood::Well).await;
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 98, 1, 0).await;
}

/// The retry hears that it is done.
#[tokio::test]
async fn a_refund_that_is_refused_can_be_made_by_hand() {
    let town = Town::build().await;
    let mut server = town.open().await;

    town.provider_is(Mood::Slow).await;
    let order_in_flight = begin(&server, order("ada", "k", "visa"));
    town.charged(1).await;
    town.database.sell_lamps(false).await.expect("an update");
    town.provider_is(Mood::Stranger).await;
    let failed = order_in_flight.await.expect("no panic").expect("an answer");
    assert!(failed.is_refusal(StatusCode::SERVICE_UNAVAILABLE, "undo_failed"), "{failed:?}");
    let line = server.wait_for("give the money back by hand").await.expect("a line");
    assert!(line.contains("ERROR") && !line.contains("ch_1"), "{line}");
    town.assert_state(0, 98, 1, 0).await;

    town.provider_is(Mood::Well).await;
    let by_hand =
        Request::post("/refunds").header("idempotency-key", "by hand").header(CONTENT_TYPE, "application/json");
    let by_hand = by_hand.body(r#"{"charge": "ch_1"}"#.to_owned()).expect("a request");
    assert!(send(&town.provider.0, by_hand).await.is_fresh(StatusCode::CREATED));
    let withdrawn = send(&server, order("ada", "k", "visa")).await;
    assert!(withdrawn.is_refusal(StatusCode::GONE, "item_withdrawn"), "{withdrawn:?}");
    town.assert_state(0, 100, 1, 1).await;
}

#[tokio::test]
async fn a_provider_that_is_no_url_is_an_error_at_the_start() {
    let town = Town::build().await;
    let mut nowhere = Command::new(PROGRAM);
    nowhere.env("PORT", "0").env("DATABASE_URL", &town.database.url).env("PROVIDER_URL", "provider:4000");
    let output = timeout(Duration::from_secs(60), nowhere.kill_on_drop(true).output()).await;
    let output = output.expect("an end").expect("a process");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("PROVIDER_URL has to be"), "{words}");
}

#[tokio::test]
async fn what_is_withdrawn_while_it_is_paid_is_refunded_and_given_back() {
    let town = Town::build().await;
    let server = town.open().await;

    town.provider_is(Mood::Slow).await;
    let order_in_flight = begin(&server, order("ada", "k", "visa"));
    town.charged(1).await;
    town.database.sell_lamps(false).await.expect("an update");
    town.provider_is(Mood::Well).await;
    let withdrawn = order_in_flight.await.expect("no panic").expect("an answer");
    assert!(withdrawn.is_refusal(StatusCode::GONE, "item_withdrawn"), "{withdrawn:?}");
    town.assert_state(0, 100, 1, 1).await;
    let ledger = town.provider.ledger().await.expect("a ledger");
    assert_eq!(ledger.refunds[0].asked.charge, ledger.charges[0].id);
    assert_ne!(ledger.refunds[0].key, ledger.charges[0].key);

    town.database.sell_lamps(true).await.expect("an update");
    let retry = send(&server, order("ada", "k", "visa")).await;
    assert!(retry.is_replay_of(&withdrawn), "{retry:?}");
    town.assert_state(0, 100, 1, 1).await;
}

#[tokio::test]
async fn a_refund_that_fails_is_gone_on_with_by_the_retry() {
    let town = Town::build().await;
    let server = town.shop().open_until("refunding").await;
    let mut server = server.expect("a shop");

    town.provider_is(Mood::Slow).await;
    let unanswered = begin(&server, order("ada", "k", "visa"));
    town.charged(1).await;
    town.database.sell_lamps(false).await.expect("an update");
    town.provider_is(Mood::Well).await;
    server.wait_for("refunding").await.expect("a refund");
    town.provider_is(Mood::Down).await;
    server.kill().await.expect("an end");
    unanswered.await.expect("no panic").expect_err("no answer");

    let server = town.open().await;
    let failed = when_free(&server, "k", "visa").await;
    assert!(failed.is_refusal(StatusCode::SERVICE_UNAVAILABLE, "undo_failed"), "{failed:?}");
    town.assert_state(0, 98, 1, 0).await;

    // What was refused for good is not sold by the retry, whatever is on sale by then.
    town.database.sell_lamps(true).await.expect("an update");
    town.provider_is(Mood::Well).await;
    let withdrawn = send(&server, order("ada", "k", "visa")).await;
    assert!(withdrawn.is_refusal(StatusCode::GONE, "item_withdrawn"), "{withdrawn:?}");
    town.assert_state(0, 100, 1, 1).await;
}

#[tokio::test]
async fn a_provider_that_is_down_keeps_the_stock_for_the_retry() {
    let town = Town::build().await;
    let server = town.open().await;

    town.provider_is(Mood::Down).await;
    for _ in 0..3 {
        let failed = send(&server, order("ada", "k", "visa")).await;
        assert_pending(&failed);
        town.assert_state(0, 98, 0, 0).await;
        town.database.execute(END_PAUSES.to_owned()).await.expect("an update");
    }
    town.provider_is(Mood::Well).await;
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn a_provider_that_is_not_there_keeps_the_stock_for_the_retry() {
    let town = Town::build().await;
    let mut nowhere = town.shop().command();
    // Bound, so that nobody else gets the port, and not listening.
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    nowhere.env("PROVIDER_URL", format!("http://{}", nobody.local_addr().expect("an address")));
    let server = Program::start(nowhere).await.expect("a shop");
    assert_pending(&send(&server, order("ada", "k", "visa")).await);
    town.assert_state(0, 98, 0, 0).await;

    let server = town.open().await;
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn a_charge_whose_answer_was_lost_is_not_made_again() {
    let town = Town::build().await;
    let server = town.open().await;

    town.provider_is(Mood::Cut).await;
    assert_pending(&send(&server, order("ada", "k", "visa")).await);
    town.assert_state(0, 98, 1, 0).await;
    town.provider_is(Mood::Well).await;
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    assert_eq!(town.charges().await[0].times, 2);
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn a_provider_that_is_too_slow_is_asked_again_by_the_retry() {
    let town = Town::build().await;
    let mut impatient = town.shop().command();
    impatient.env("PROVIDER_TIMEOUT_MS", "200");
    let server = Program::start(impatient).await.expect("a shop");

    town.provider_is(Mood::Slow).await;
    assert_pending(&send(&server, order("ada", "k", "visa")).await);
    town.assert_state(0, 98, 1, 0).await;
    town.provider_is(Mood::Well).await;
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn a_duplicate_of_a_slow_order_is_told_to_wait_and_another_order_is_not() {
    let town = Town::build().await;
    let server = town.open().await;

    town.provider_is(Mood::Slow).await;
    let first = begin(&server, order("ada", "k", "visa"));
    town.charged(1).await;
    // The other server knows of it by the database only.
    for server in [&server, &town.open().await] {
        let duplicate = send(server, order("ada", "k", "visa")).await;
        assert!(duplicate.is_refusal(StatusCode::CONFLICT, "key_in_flight"), "{duplicate:?}");
        assert!(duplicate.headers.contains_key(RETRY_AFTER), "{duplicate:?}");
        let reused = send(server, order("ada", "k", "another")).await;
        assert!(reused.is_refusal(StatusCode::UNPROCESSABLE_ENTITY, "key_reused"), "{reused:?}");
    }
    let other = begin(&server, order("ada", "other", "visa"));
    town.charged(2).await;
    town.provider_is(Mood::Well).await;
    for order in [first, other] {
        let placed = order.await.expect("no panic").expect("an answer");
        assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    }
    town.assert_state(2, 96, 2, 0).await;
}

/// What it reserved is no step that a retry would find: it may be sold by then.
#[tokio::test]
async fn what_is_sold_out_is_not_charged_and_can_be_ordered_later() {
    let town = Town::build().await;
    let server = town.open().await;

    let all = || post_order("ada", "all", r#"{"item": "lamp", "quantity": 101, "card": "visa"}"#.to_owned());
    let refused = send(&server, all()).await;
    assert!(refused.is_refusal(StatusCode::CONFLICT, "sold_out"), "{refused:?}");
    town.assert_state(0, 100, 0, 0).await;

    town.database.execute("UPDATE stock SET available = 101".to_owned()).await.expect("an update");
    let placed = send(&server, all()).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 0, 1, 0).await;
}

#[tokio::test]
async fn an_invalid_order_uses_no_key_up() {
    let town = Town::build().await;
    let server = town.open().await;

    for (body, status) in [
        (r#"{"item": "lamp", "quantity": 0, "card": "visa"}"#, 422),
        (r#"{"item": "lamp", "quantity": -1, "card": "visa"}"#, 422),
        (r#"{"item": "lamp", "quantity": 1001, "card": "visa"}"#, 422),
        (r#"{"item": "lamp", "quantity": 1}"#, 422),
        (r#"{"item": "lamp","#, 400),
    ] {
        let refused = send(&server, post_order("ada", "k", body.to_owned())).await;
        let status = StatusCode::from_u16(status).expect("a status");
        assert!(refused.is_refusal(status, "order_invalid"), "{body}: {refused:?}");
    }
    let mut stranger = order("ada", "k", "visa");
    stranger.headers_mut().remove(AUTHORIZATION);
    let refused = send(&server, stranger).await;
    assert!(refused.is_refusal(StatusCode::UNAUTHORIZED, "unauthorized"), "{refused:?}");
    assert_eq!(refused.headers[WWW_AUTHENTICATE], "Bearer");

    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    town.assert_state(1, 98, 1, 0).await;
}

/// Without `PROVIDER_URL` there is a provider all the same, so that one command is enough to try it.
#[tokio::test]
async fn a_shop_without_a_provider_has_one_of_its_own() {
    let town = Town::build().await;
    let mut alone = town.shop().command();
    alone.env_remove("PROVIDER_URL");
    let server = Program::start(alone).await.expect("a shop");
    let placed = send(&server, order("ada", "k", "visa")).await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    assert_eq!(json(&placed)["charge"], "ch_1");
    town.assert_state(1, 98, 0, 0).await;
}

fn assert_pending(answer: &Answer) {
    assert!(answer.is_refusal(StatusCode::SERVICE_UNAVAILABLE, "payment_pending"), "{answer:?}");
    assert!(answer.headers.contains_key(RETRY_AFTER), "{answer:?}");
}

async fn get(server: &Program, caller: &str, path: &str) -> Value {
    let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {caller}"));
    json(&send(server, request.body(String::new()).expect("a request")).await)
}
