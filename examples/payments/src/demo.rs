//! `demo`: starts the program on a database of its own, sends it real requests, and reports whether it keeps its
//! promises.

pub(crate) mod client;
pub(crate) mod scratch;
pub(crate) mod server;

use std::io::Read;
use std::time::Duration;

use axum::http::StatusCode;
use hyper::Request;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use client::{Answer, payment};
use scratch::Scratch;
use server::Server;

/// Long enough for duplicates to arrive while the first is charged.
const BUSY: Duration = Duration::from_millis(500);
/// Long enough that the charge does not end before the server is killed.
const ENDLESS: Duration = Duration::from_secs(600);
const DUPLICATES: usize = 50;

/// Runs all scenes. A broken promise is a failure.
pub(crate) async fn play() -> Result<(), Failure> {
    // Declared first, so dropped last: the servers have ended by then.
    let database = Scratch::create("payments_demo").await?;
    let broken = tokio::select! {
        broken = scenes(&database) => broken?,
        () = crate::stop_signal() => return Err("the demo was interrupted".into()),
    };
    match broken {
        0 => {
            println!("\nevery promise was kept");
            Ok(())
        }
        1 => Err("a promise was broken".into()),
        _ => Err(format!("{broken} promises were broken").into()),
    }
}

/// The server under the demo: the usual one, but it ends with its parent, even if the parent is killed.
pub(crate) async fn serve() -> Result<(), Failure> {
    std::thread::spawn(|| {
        // Nothing is ever sent. The read ends when the other end is closed.
        let _closed = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    crate::serve().await
}

async fn scenes(database: &Scratch) -> Result<u32, Failure> {
    let mut table = Table::begin(database);

    let server = start(database, BUSY).await?;
    let first = server.send(payment("ada", Some("order-1"), 100)).await?;
    let charged = first.is_fresh(StatusCode::CREATED);
    table.line("a payment", first.to_string(), 1, charged).await?;

    let retry = server.send(payment("ada", Some("order-1"), 100)).await?;
    let identical = retry.is_replay_of(&first);
    table.line("the same request again", retry.to_string(), 0, identical).await?;

    let answers = at_once(&server, || payment("ada", Some("order-2"), 250)).await?;
    let (summary, once) = one_of_many(&answers);
    table.line("another payment, 50 times at once", summary, 1, once).await?;

    let changed = server.send(payment("ada", Some("order-1"), 999)).await?;
    let refused = changed.is_refusal(StatusCode::UNPROCESSABLE_ENTITY, "key_reused");
    table.line("the first key, another amount", changed.to_string(), 0, refused).await?;

    let other = server.send(payment("bob", Some("order-1"), 100)).await?;
    let own = other.is_fresh(StatusCode::CREATED) && other.body != first.body;
    table.line("the first key, another user", other.to_string(), 1, own).await?;

    let keyless = server.send(payment("ada", None, 100)).await?;
    let refused = keyless.is_refusal(StatusCode::BAD_REQUEST, "key_missing");
    table.line("no key", keyless.to_string(), 0, refused).await?;

    let declined = server.send(payment("ada", Some("order-3"), 1_000_001)).await?;
    let refused = declined.is_fresh(StatusCode::PAYMENT_REQUIRED);
    table.line("a payment over the limit", declined.to_string(), 0, refused).await?;

    let retry = server.send(payment("ada", Some("order-3"), 1_000_001)).await?;
    let identical = retry.is_replay_of(&declined);
    table.line("the same request again", retry.to_string(), 0, identical).await?;
    server.kill().await?;

    let mut server = start(database, ENDLESS).await?;
    let cut_short = tokio::spawn(client::send(server.address, payment("ada", Some("order-4"), 400)));
    server.wait_for("charging").await?;
    let duplicate = server.send(payment("ada", Some("order-4"), 400)).await?;
    let refused = duplicate.is_refusal(StatusCode::CONFLICT, "key_in_flight");
    table.line("a duplicate in mid-charge", duplicate.to_string(), 0, refused).await?;

    server.kill().await?;
    let (summary, unanswered) = match cut_short.await? {
        Ok(answer) => (answer.to_string(), false),
        Err(_) => ("nothing".to_owned(), true),
    };
    table.line("SIGKILL to the server in mid-charge", summary, 0, unanswered).await?;

    let server = start(database, Duration::ZERO).await?;
    let retry = when_free(&server, || payment("ada", Some("order-4"), 400)).await?;
    let charged = retry.is_fresh(StatusCode::CREATED);
    table.line("a retry after the restart", retry.to_string(), 1, charged).await?;

    let oldest = server.send(payment("ada", Some("order-1"), 100)).await?;
    let identical = oldest.is_replay_of(&first);
    table.line("the very first request again", oldest.to_string(), 0, identical).await?;

    server.kill().await?;
    Ok(table.broken)
}

async fn start(database: &Scratch, charge_time: Duration) -> Result<Server, Failure> {
    Server::start(&std::env::current_exe()?, &["demo", "server"], &database.url, charge_time).await
}

/// Sends a request many times at once.
async fn at_once(server: &Server, request: impl Fn() -> Request<String>) -> Result<Vec<Answer>, Failure> {
    let mut sent = JoinSet::new();
    for _ in 0..DUPLICATES {
        sent.spawn(client::send(server.address, request()));
    }
    sent.join_all().await.into_iter().collect()
}

/// One of many answers comes from the run. The others say that the run is in flight, or replay it.
fn one_of_many(answers: &[Answer]) -> (String, bool) {
    let ran: Vec<_> = answers.iter().filter(|answer| answer.is_fresh(StatusCode::CREATED)).collect();
    let replays = answers.iter().filter(|answer| ran.iter().any(|ran| answer.is_replay_of(ran))).count();
    let refusals = answers.iter().filter(|answer| answer.is_refusal(StatusCode::CONFLICT, "key_in_flight")).count();

    let mut summary = format!("201 {} times, 409 {refusals} times", ran.len());
    if ran.len() == 1 {
        summary = format!("201 once, 409 {refusals} times");
    }
    if replays > 0 {
        summary += &format!(", replayed {replays} times");
    }
    let others = answers.len() - ran.len() - replays - refusals;
    if others > 0 {
        summary += &format!(", something else {others} times");
    }
    (summary, ran.len() == 1 && others == 0)
}

/// Sends a request again until the answer no longer asks for a retry: a database may need a moment to notice a dead
/// client.
async fn when_free(server: &Server, request: impl Fn() -> Request<String>) -> Result<Answer, Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = server.send(request()).await?;
        if !answer.is_refusal(StatusCode::CONFLICT, "key_in_flight") || Instant::now() > deadline {
            return Ok(answer);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What was sent, what was answered, and what is in the database afterwards.
struct Table<'a> {
    database: &'a Scratch,
    payments: i64,
    ledger: i64,
    broken: u32,
}

impl<'a> Table<'a> {
    fn begin(database: &'a Scratch) -> Self {
        println!("{:36} {:31} {:>8} {:>6}", "SENT", "ANSWERED", "PAYMENTS", "LEDGER");
        Self { database, payments: 0, ledger: 0, broken: 0 }
    }

    /// One line. It is ok if the answer is as promised, and if this number of payments is new, each with two ledger
    /// rows.
    async fn line(&mut self, sent: &str, answered: String, new: i64, promised: bool) -> Result<(), Failure> {
        let (payments, ledger) = self.database.rows().await?;
        let rows_promised = (self.payments + new, self.ledger + 2 * new);
        let verdict = match ((payments, ledger) == rows_promised, promised) {
            (true, true) => "ok".to_owned(),
            (true, false) => "BROKEN: another answer was promised".to_owned(),
            (false, _) => format!("BROKEN: {} and {} rows were promised", rows_promised.0, rows_promised.1),
        };
        println!("{sent:36} {answered:31} {payments:>8} {ledger:>6}  {verdict}");
        self.broken += u32::from(verdict != "ok");
        // A broken promise is reported once.
        (self.payments, self.ledger) = (payments, ledger);
        Ok(())
    }
}
