//! The program from outside: as a process that gets requests and signals.

use std::path::Path;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use hyper::Request;
use serde_json::Value;
use tokio::process::Command;

use demo::client::{self, Answer, payment};
use demo::scratch::Scratch;
use demo::server::Server;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[path = "../src/database.rs"]
#[allow(dead_code, unused_imports)]
mod database;

/// The demo's own means: a database for each test, a server, a client.
#[path = "../src/demo"]
#[allow(dead_code)]
mod demo {
    pub(crate) mod client;
    pub(crate) mod scratch;
    pub(crate) mod server;
}

#[cfg(feature = "metrics")]
mod prometheus;

const PROGRAM: &str = env!("CARGO_BIN_EXE_payments");

async fn scratch() -> Scratch {
    Scratch::create("payments_test").await.expect("a database")
}

async fn start(database: &Scratch, charge_time: Duration) -> Server {
    Server::start(Path::new(PROGRAM), &[], &database.url, charge_time).await.expect("a server")
}

async fn send(server: &Server, request: Request<String>) -> Answer {
    server.send(request).await.expect("an answer")
}

async fn get(server: &Server, caller: &str, path: &str) -> Answer {
    let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {caller}"));
    send(server, request.body(String::new()).expect("a request")).await
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).expect("a JSON body")
}

fn location(headers: &HeaderMap) -> &str {
    headers[LOCATION].to_str().expect("an ASCII location")
}

#[tokio::test]
async fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let folder = std::env::temp_dir().join(format!("payments_demo_test_{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let demo = Command::new(PROGRAM)
        .arg("demo")
        .env("TMPDIR", &folder)
        .env_remove("CHARGE_MS")
        .output()
        .await
        .expect("a process");
    // Not recursive: it fails where the demo left something.
    let emptied = std::fs::remove_dir(&folder);

    let output = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{output}\n{}", String::from_utf8_lossy(&demo.stderr));
    assert!(output.ends_with("every promise was kept\n"), "{output}");
    assert_eq!(output.matches("  ok\n").count(), 12, "{output}");
    emptied.expect("an empty folder");
}

#[tokio::test]
async fn a_charge_leaves_one_payment_and_two_ledger_rows() {
    let database = scratch().await;
    let server = start(&database, Duration::ZERO).await;

    let first = send(&server, payment("ada", Some("k"), 100)).await;
    assert!(first.is_fresh(StatusCode::CREATED), "{first:?}");
    let charged = json(&first);
    assert_eq!(charged["status"], "charged");
    assert_eq!(location(&first.headers), format!("/payments/{}", charged["id"]));
    assert_eq!(json(&get(&server, "ada", location(&first.headers)).await), charged);
    assert_eq!(json(&get(&server, "ada", "/payments").await), Value::from(vec![charged]));

    let retry = send(&server, payment("ada", Some("k"), 100)).await;
    assert!(retry.is_replay_of(&first), "{retry:?}");
    assert_eq!(database.rows().await.expect("rows"), (1, 2));
}

#[tokio::test]
async fn a_declined_payment_stays_declined_and_leaves_no_rows() {
    let database = scratch().await;
    let server = start(&database, Duration::ZERO).await;

    let declined = send(&server, payment("ada", Some("k"), 1_000_001)).await;
    assert!(declined.is_refusal(StatusCode::PAYMENT_REQUIRED, "payment_declined"), "{declined:?}");
    assert!(declined.is_fresh(StatusCode::PAYMENT_REQUIRED));
    let retry = send(&server, payment("ada", Some("k"), 1_000_001)).await;
    assert!(retry.is_replay_of(&declined), "{retry:?}");
    assert_eq!(database.rows().await.expect("rows"), (0, 0));

    let highest = send(&server, payment("ada", Some("another"), 1_000_000)).await;
    assert!(highest.is_fresh(StatusCode::CREATED), "{highest:?}");
}

#[tokio::test]
async fn callers_do_not_see_each_others_payments() {
    let database = scratch().await;
    let server = start(&database, Duration::ZERO).await;

    let ada = send(&server, payment("ada", Some("k"), 100)).await;
    let bob = send(&server, payment("bob", Some("k"), 100)).await;
    assert!(bob.is_fresh(StatusCode::CREATED), "{bob:?}");
    assert_ne!(location(&ada.headers), location(&bob.headers));

    assert_eq!(json(&get(&server, "ada", "/payments").await), Value::from(vec![json(&ada)]));
    assert_eq!(json(&get(&server, "eve", "/payments").await), Value::Array(Vec::new()));
    for path in [location(&bob.headers), "/payments/0", "/payments/none"] {
        let answer = get(&server, "ada", path).await;
        assert!(answer.is_refusal(StatusCode::NOT_FOUND, "payment_not_found"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn an_invalid_payment_uses_no_key_up() {
    let database = scratch().await;
    let server = start(&database, Duration::ZERO).await;

    for (body, status) in [
        (r#"{"customer_id": "c1", "amount": 0, "currency": "USD"}"#, 422),
        (r#"{"customer_id": "c1", "amount": -100, "currency": "USD"}"#, 422),
        (r#"{"customer_id": "c1", "amount": 1.5, "currency": "USD"}"#, 422),
        (r#"{"customer_id": "c1", "amount": 100, "currency": "usd"}"#, 422),
        (r#"{"customer_id": "c1", "amount": 100, "currency": "USDT"}"#, 422),
        (r#"{"customer_id": "", "amount": 100, "currency": "USD"}"#, 422),
        (r#"{"amount": 100, "currency": "USD"}"#, 422),
        (r#"{"customer_id": "c1","#, 400),
    ] {
        let mut request = payment("ada", Some("k"), 100);
        *request.body_mut() = body.to_owned();
        let refused = send(&server, request).await;
        let status = StatusCode::from_u16(status).expect("a status");
        assert!(refused.is_refusal(status, "payment_invalid"), "{body}: {refused:?}");
    }
    let charged = send(&server, payment("ada", Some("k"), 100)).await;
    assert!(charged.is_fresh(StatusCode::CREATED), "{charged:?}");
    assert_eq!(database.rows().await.expect("rows"), (1, 2));
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_key_is_looked_at() {
    let database = scratch().await;
    let server = start(&database, Duration::ZERO).await;

    let known = send(&server, payment("ada", Some("k"), 100)).await;
    assert!(known.is_fresh(StatusCode::CREATED), "{known:?}");
    for authorization in [None, Some("ada"), Some("Bearer "), Some("Bearer a b"), Some("Basic ada")] {
        for key in [None, Some("k")] {
            let mut request = payment("ada", key, 100);
            request.headers_mut().remove(AUTHORIZATION);
            if let Some(value) = authorization {
                request.headers_mut().insert(AUTHORIZATION, value.parse().expect("a header value"));
            }
            let refused = send(&server, request).await;
            assert!(refused.is_refusal(StatusCode::UNAUTHORIZED, "unauthorized"), "{authorization:?}: {refused:?}");
            assert_eq!(refused.headers[WWW_AUTHENTICATE], "Bearer");
        }
    }
    let request = Request::get("/payments").body(String::new()).expect("a request");
    assert_eq!(send(&server, request).await.status, StatusCode::UNAUTHORIZED);
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_lets_a_charge_end() {
    let database = scratch().await;
    let mut server = start(&database, Duration::from_secs(1)).await;

    let charge = tokio::spawn(client::send(server.address, payment("ada", Some("k"), 100)));
    server.wait_for("charging").await.expect("a charge");
    // The shell has a `kill` built in, so that no program of that name has to be installed.
    let process = server.process.id().expect("a running process");
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {process}")]).status().await;
    assert!(kill.expect("a shell").success());

    let answer = charge.await.expect("no panic").expect("an answer");
    assert!(answer.is_fresh(StatusCode::CREATED), "{answer:?}");
    let ended = server.process.wait().await.expect("an exit");
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert_eq!(database.rows().await.expect("rows"), (1, 2));
    client::send(server.address, payment("ada", Some("k"), 100)).await.expect_err("nobody listens");
}

/// A client that hangs up does not stop its charge, so SIGTERM must wait for the charge and not for the client.
#[cfg(unix)]
#[tokio::test]
async fn sigterm_lets_a_charge_end_whose_client_is_gone() {
    let database = scratch().await;
    let mut server = start(&database, Duration::from_secs(1)).await;

    let charge = tokio::spawn(client::send(server.address, payment("ada", Some("k"), 100)));
    server.wait_for("charging").await.expect("a charge");
    charge.abort();
    charge.await.expect_err("aborted");
    let process = server.process.id().expect("a running process");
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {process}")]).status().await;
    assert!(kill.expect("a shell").success());

    let ended = server.process.wait().await.expect("an exit");
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert_eq!(database.rows().await.expect("rows"), (1, 2));
}

#[tokio::test]
async fn the_url_of_another_database_is_refused_in_one_line() {
    let url = if cfg!(feature = "postgres") { "sqlite://payments.db" } else { "postgres://localhost/shop" };
    let ended = Command::new(PROGRAM).env("DATABASE_URL", url).output().await.expect("a process");
    assert_eq!(ended.status.code(), Some(1));
    let output = String::from_utf8_lossy(&ended.stderr);
    assert!(output.contains("--features postgres"), "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");

    let ended = Command::new(PROGRAM).arg("serve").output().await.expect("a process");
    assert_eq!(ended.status.code(), Some(1));
}
