//! What a message does: it books seats.

use std::error::Error;
use std::num::NonZeroU32;

use idem_core::message::{Action, Failure};
use idem_core::{idempotent, observe};
use idem_sqlx::{SqliteStore, SqliteTx};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// A message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// The producer's name for this booking, the same in every message about it.
    pub id: String,
    /// What the seats are for.
    pub event: String,
    /// How many.
    pub seats: NonZeroU32,
}

/// Seats that were booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booked {
    /// How many seats the event has left.
    pub left: i64,
}

/// Why no seats were booked.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum BookingError {
    /// The event is not known.
    #[error("no such event")]
    NoSuchEvent,
    /// There are not enough seats.
    #[error("not enough seats left")]
    SoldOut,
    /// The store refused the call, or could not be asked.
    #[error(transparent)]
    #[serde(skip)]
    Store(#[from] idem_core::Error),
}

impl BookingError {
    /// Whether each delivery gets the same answer, even if there are seats by then: a person was told the first answer.
    fn is_final(&self) -> bool {
        match self {
            Self::NoSuchEvent | Self::SoldOut => true,
            Self::Store(_) => false,
        }
    }
}

impl From<sqlx::Error> for BookingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(idem_sqlx::into_idem_error(error))
    }
}

impl Failure for BookingError {
    fn action(&self) -> Action {
        match self {
            Self::NoSuchEvent => Action::dead_letter("no_such_event", self),
            Self::SoldOut => Action::dead_letter("sold_out", self),
            Self::Store(error) => error.action(),
        }
    }
}

/// Books seats, once for each booking.
///
/// The key is the producer's and is in the body, because SQS gives two ids to a message that is sent twice. A message
/// stays up to 14 days in a dead-letter queue, and up to 14 days more in its queue if it is sent back. Its record has
/// to last longer.
///
/// # Errors
/// [`BookingError`]. An error other than [`Store`](BookingError::Store) is also the answer to every later delivery.
#[idempotent(
    key = booking.id,
    scope = "bookings",
    ttl = "30d",
    operation = "bookings.book",
    rejects = BookingError::is_final
)]
pub async fn book(tx: &mut SqliteTx, booking: &Booking) -> Result<Booked, BookingError> {
    let seats = i64::from(booking.seats.get());
    let take = "UPDATE events SET seats_left = seats_left - $1 WHERE name = $2 AND seats_left >= $1
                RETURNING seats_left";
    let taken = sqlx::query_scalar(take).bind(seats).bind(&booking.event).fetch_optional(&mut *tx).await?;
    let Some(left) = taken else {
        let is_there = "SELECT count(*) FROM events WHERE name = $1";
        let is_there: i64 = sqlx::query_scalar(is_there).bind(&booking.event).fetch_one(tx).await?;
        return Err(if is_there == 0 { BookingError::NoSuchEvent } else { BookingError::SoldOut });
    };
    let insert = "INSERT INTO bookings (booking, event, seats) VALUES ($1, $2, $3)";
    sqlx::query(insert).bind(&booking.id).bind(&booking.event).bind(seats).execute(tx).await?;
    Ok(Booked { left })
}

/// Handles a message, and returns what becomes of it. The log does not name the booking, because that is the key.
pub async fn on_message(store: &SqliteStore, body: &str) -> Action {
    let booking: Booking = match serde_json::from_str(body) {
        Ok(booking) => booking,
        Err(error) => return Action::dead_letter("malformed", error),
    };
    let seen = observe(book(store, &booking)).await;
    match &seen.result {
        Ok(_) if seen.replayed => info!("replayed: an earlier delivery has booked the seats"),
        Ok(_) => info!("booked"),
        Err(BookingError::Store(error)) => warn!(code = error.code(), source = ?error.source(), "not booked: {error}"),
        Err(refused) => info!(replayed = seen.replayed, "refused: {refused}"),
    }
    Action::of(&seen.result)
}
