//! A provider to try with: a server that takes no money, keeps its ledger in memory, and fails when it is told to.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

/// How it is with the provider. `PUT /mood` says so, and what waits is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mood {
    Well,
    /// Answers 500, and does nothing.
    Down,
    /// Does it, and does not answer before it is in another mood.
    Slow,
    /// Does it, and hangs up without an answer.
    Cut,
}

/// What it has done. An entry has its key, how often it was asked for, and when last, in microseconds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) charges: Vec<Entry<NewCharge>>,
    pub(crate) refunds: Vec<Entry<NewRefund>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry<T> {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) asked: T,
    pub(crate) declined: bool,
    pub(crate) times: u32,
    pub(crate) last: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewCharge {
    /// One whose name begins with `declined` is declined.
    pub(crate) card: String,
    pub(crate) amount: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewRefund {
    pub(crate) charge: String,
}

#[derive(Clone)]
struct Desk {
    ledger: Arc<Mutex<Ledger>>,
    mood: watch::Sender<Mood>,
}

pub(crate) fn router() -> Router {
    let desk = Desk { ledger: Arc::default(), mood: watch::Sender::new(Mood::Well) };
    Router::new()
        .route("/charges", post(charge))
        .route("/refunds", post(refund))
        .route("/ledger", get(ledger))
        .route("/mood", put(mood))
        .with_state(desk)
}

async fn charge(State(desk): State<Desk>, headers: HeaderMap, Json(asked): Json<NewCharge>) -> Response {
    let declined = asked.card.starts_with("declined");
    desk.serve(|ledger| book(&mut ledger.charges, "ch", &headers, asked, declined)).await
}

async fn refund(State(desk): State<Desk>, headers: HeaderMap, Json(asked): Json<NewRefund>) -> Response {
    let book = |ledger: &mut Ledger| {
        let is_paid = ledger.charges.iter().any(|charge| charge.id == asked.charge && !charge.declined);
        if is_paid { book(&mut ledger.refunds, "re", &headers, asked, false) } else { Err(StatusCode::NOT_FOUND) }
    };
    desk.serve(book).await
}

async fn ledger(State(desk): State<Desk>) -> Json<Ledger> {
    Json(desk.ledger().clone())
}

async fn mood(State(desk): State<Desk>, Json(mood): Json<Mood>) {
    desk.mood.send_replace(mood);
}

/// The answer under this key: the one that it has, or a new one.
fn book<T: PartialEq + Clone>(
    entries: &mut Vec<Entry<T>>,
    prefix: &str,
    headers: &HeaderMap,
    asked: T,
    declined: bool,
) -> Result<Entry<T>, StatusCode> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).ok_or(StatusCode::BAD_REQUEST)?;
    let number = entries.len() + 1;
    let entry = match entries.iter().position(|entry| entry.key == key) {
        Some(known) => &mut entries[known],
        None => {
            let id = format!("{prefix}_{number}");
            entries.push(Entry { id, key: key.to_owned(), asked: asked.clone(), declined, times: 0, last: 0 });
            &mut entries[number - 1]
        }
    };
    if entry.asked != asked {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    entry.times += 1;
    entry.last = now();
    Ok(entry.clone())
}

impl Desk {
    /// Does it, in the mood of this moment, and answers.
    async fn serve<T>(&self, book: impl FnOnce(&mut Ledger) -> Result<Entry<T>, StatusCode>) -> Response {
        let mood = *self.mood.borrow();
        if mood == Mood::Down {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let booked = book(&mut self.ledger());
        match mood {
            Mood::Well | Mood::Down => {}
            // It fails only where nobody can change the mood any more.
            Mood::Slow => drop(self.mood.subscribe().wait_for(|mood| *mood != Mood::Slow).await),
            // The connection's task ends, and with it the connection. Unlike a panic it writes no message.
            Mood::Cut => resume_unwind(Box::new("hung up")),
        }
        match booked {
            Ok(entry) if entry.declined => {
                (StatusCode::PAYMENT_REQUIRED, Json(json!({ "declined": true }))).into_response()
            }
            Ok(entry) => (StatusCode::CREATED, Json(json!({ "id": entry.id }))).into_response(),
            Err(status) => status.into_response(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
