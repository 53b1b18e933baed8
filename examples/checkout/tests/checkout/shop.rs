//! A shop for one test, with a database and a provider of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use hyper::Request;
use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::demo::client::{self, Answer, order};
use crate::demo::program::{Program, Provider, Shop};
use crate::demo::scratch::Scratch;
use crate::standin::{Entry, Mood, NewCharge};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_checkout");

/// Lets every run go on at once, however many of its attempts have failed.
pub(crate) const END_PAUSES: &str = "UPDATE idem_records SET released = 1 WHERE released > 1";

pub(crate) struct Town {
    pub(crate) database: Scratch,
    pub(crate) provider: Provider,
}

impl Town {
    pub(crate) async fn build() -> Self {
        Self {
            database: Scratch::create("checkout_test").await.expect("a database"),
            provider: Provider::start(Path::new(PROGRAM)).await.expect("a provider"),
        }
    }

    pub(crate) fn shop(&self) -> Shop<'_> {
        Shop { program: Path::new(PROGRAM), database_url: &self.database.url, provider: self.provider.0.address }
    }

    pub(crate) async fn open(&self) -> Program {
        self.shop().open().await.expect("a shop")
    }

    pub(crate) async fn provider_is(&self, mood: Mood) {
        self.provider.is(mood).await.expect("a mood");
    }

    pub(crate) async fn charges(&self) -> Vec<Entry<NewCharge>> {
        self.provider.ledger().await.expect("a ledger").charges
    }

    /// Waits until so many charges are booked.
    pub(crate) async fn charged(&self, number: usize) {
        until("the provider charges", async || self.charges().await.len() >= number).await;
    }

    /// Orders, lamps on the shelf, charges and refunds.
    pub(crate) async fn assert_state(&self, orders: i64, lamps: i64, charges: usize, refunds: usize) {
        let ledger = self.provider.ledger().await.expect("a ledger");
        let rows = self.database.rows().await.expect("rows");
        let paid = ledger.charges.iter().filter(|charge| !charge.declined).count();
        assert_eq!((rows.0, rows.1, paid, ledger.refunds.len()), (orders, lamps, charges, refunds), "{ledger:?}");
    }
}

pub(crate) async fn send(server: &Program, request: Request<String>) -> Answer {
    server.send(request).await.expect("an answer")
}

/// An answer that is waited for.
pub(crate) type Sent = JoinHandle<Result<Answer, Failure>>;

/// Sends it, and does not wait for the answer.
pub(crate) fn begin(server: &Program, request: Request<String>) -> Sent {
    tokio::spawn(client::send(server.address, request))
}

/// Sends the order until it is not told that it is running.
pub(crate) async fn when_free(server: &Program, key: &str, card: &str) -> Answer {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = send(server, order("ada", key, card)).await;
        if !answer.is_refusal(StatusCode::CONFLICT, "key_in_flight") {
            return answer;
        }
        assert!(Instant::now() < deadline, "in flight for {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).expect("a JSON body")
}

/// The shell has a `kill` built in, so that no program of that name has to be installed.
#[cfg(unix)]
pub(crate) async fn signal(program: &Program, signal: &str) {
    let process = program.process.id().expect("a running process");
    let kill = Command::new("sh").args(["-c", &format!("kill -{signal} {process}")]).status().await;
    assert!(kill.expect("a shell").success());
}

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// From 0 to below the limit.
pub(crate) fn random(limit: u64) -> u64 {
    getrandom::u64().expect("random bytes") % limit
}
