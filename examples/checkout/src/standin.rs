//! A provider for trying it out: a server that takes no money, keeps its ledger in memory, and fails on request.

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

/// The state of the provider. `PUT /mood` sets it, and waiting requests notice the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mood {
    Well,
    /// Answers 500, and books nothing.
    Down,
    /// Answers 401, and books nothing: it no longer knows the shop.
    Stranger,
    /// Books the request, and does not answer before the mood changes.
    Slow,
    /// Books the request, and hangs up without an answer.
    Cut,
}

/// What the provider has booked. An entry has its key, how often it was asked for, and the time of the last request in
/// microseconds.
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
    /// A card whose name begins with `declined` is declined, and one with `unknown` is refused.
    pub(crate) card: String,
    pub(crate) amount: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewRefund {
    pub(crate) charge: String,
}

/// The status and the code of a refusal.
type Refusal = (StatusCode, &'static str);

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
    let book = |ledger: &mut Ledger| {
        if asked.card.starts_with("unknown") {
            return Err((StatusCode::UNPROCESSABLE_ENTITY, "card_unknown"));
        }
        book(&mut ledger.charges, "ch", &headers, asked, declined)
    };
    desk.serve(book).await
}

async fn refund(State(desk): State<Desk>, headers: HeaderMap, Json(asked): Json<NewRefund>) -> Response {
    let book = |ledger: &mut Ledger| {
        let is_paid = ledger.charges.iter().any(|charge| charge.id == asked.charge && !charge.declined);
        if !is_paid {
            return Err((StatusCode::NOT_FOUND, "charge_unknown"));
        }
        let is_again = |refund: &Entry<NewRefund>| refund.asked == asked && !has_key(&headers, &refund.key);
        if ledger.refunds.iter().any(is_again) {
            return Err((StatusCode::CONFLICT, "already_refunded"));
        }
        book(&mut ledger.refunds, "re", &headers, asked, false)
    };
    desk.serve(book).await
}

async fn ledger(State(desk): State<Desk>) -> Json<Ledger> {
    Json(desk.ledger().clone())
}

async fn mood(State(desk): State<Desk>, Json(mood): Json<Mood>) {
    desk.mood.send_replace(mood);
}

/// The entry of this key: the existing entry, or a new one.
fn book<T: PartialEq + Clone>(
    entries: &mut Vec<Entry<T>>,
    prefix: &str,
    headers: &HeaderMap,
    asked: T,
    declined: bool,
) -> Result<Entry<T>, Refusal> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.ok_or((StatusCode::BAD_REQUEST, "key_missing"))?;
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
        return Err((StatusCode::UNPROCESSABLE_ENTITY, "key_reused"));
    }
    entry.times += 1;
    entry.last = now();
    Ok(entry.clone())
}

fn has_key(headers: &HeaderMap, key: &str) -> bool {
    headers.get("idempotency-key").is_some_and(|header| header == key)
}

impl Desk {
    /// Books the request in the current mood, and answers.
    async fn serve<T>(&self, book: impl FnOnce(&mut Ledger) -> Result<Entry<T>, Refusal>) -> Response {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Down => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Mood::Stranger => return StatusCode::UNAUTHORIZED.into_response(),
            Mood::Well | Mood::Slow | Mood::Cut => {}
        }
        let booked = book(&mut self.ledger());
        match mood {
            Mood::Well | Mood::Down | Mood::Stranger => {}
            // The wait fails only if the mood can no longer change.
            Mood::Slow => drop(self.mood.subscribe().wait_for(|mood| *mood != Mood::Slow).await),
            // The connection's task ends, and the connection with it. Unlike a panic, this prints no message.
            Mood::Cut => resume_unwind(Box::new("hung up")),
        }
        match booked {
            Ok(entry) if entry.declined => {
                (StatusCode::PAYMENT_REQUIRED, Json(json!({ "declined": true }))).into_response()
            }
            Ok(entry) => (StatusCode::CREATED, Json(json!({ "id": entry.id }))).into_response(),
            Err((status, code)) => (status, Json(json!({ "code": code }))).into_response(),
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
