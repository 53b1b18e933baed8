//! Between a row's columns and a record.

use bytes::Bytes;
use idem_core::store::{Claim, Format, Outcome, Record, Reply, State, Timestamp};
use idem_core::{Error, Fingerprint, Kind};

/// Numbers of the `state` column. They never change their meaning.
pub(crate) const RUNNING: i16 = 1;
const COMPLETED: i16 = 2;
const OVERSIZED: i16 = 3;
pub(crate) const LEASED: i16 = 4;
/// Leased, and rejected. What holds for a lease holds for `state >= LEASED`.
pub(crate) const UNDOING: i16 = 5;

/// The `position` of what a leased run was begun with: before all its steps.
pub(crate) const INPUT_POSITION: i32 = -1;

/// The columns that a decision needs, as both dialects select them, in this order.
pub(crate) type Columns = (
    Option<Vec<u8>>, // fingerprint
    Option<i16>,     // state
    Option<Vec<u8>>, // claim
    Option<i16>,     // format
    Option<i16>,     // status
    Option<Vec<u8>>, // headers
    Option<Vec<u8>>, // body
    Option<i64>,     // expires_at
    Option<i64>,     // lease_until
    Option<i32>,     // attempt
    i64,             // now, by the database's clock
);

/// The record in a row, if there is one, and the database's time.
pub(crate) fn read(columns: Columns) -> Result<(Option<Record>, Timestamp), Error> {
    let (fingerprint, state, claim, format, status, headers, body, expires_at, lease_until, attempt, now) = columns;
    let now = Timestamp(now);
    let Some(expires_at) = expires_at else {
        return Ok((None, now));
    };
    let claim = claim.as_deref().and_then(Claim::from_bytes).ok_or_else(|| Error::new(Kind::RecordUnreadable))?;
    let reply = || {
        Some(Reply {
            format: Format(format?),
            status: status.map(u16::try_from).transpose().ok()?,
            headers: Bytes::from(headers?),
            body: Bytes::from(body?),
        })
    };
    let state = match state {
        Some(RUNNING) => State::Running,
        Some(COMPLETED) => reply().map_or(State::Unreadable, State::Completed),
        Some(OVERSIZED) => State::Oversized,
        Some(state @ (LEASED | UNDOING)) => leased(lease_until, attempt, state == UNDOING).unwrap_or(State::Unreadable),
        _ => State::Unreadable,
    };
    let fingerprint = fingerprint.as_deref().and_then(Fingerprint::from_bytes);
    let record = Record::new(fingerprint, state, claim, Timestamp(expires_at));
    Ok((Some(record), now))
}

fn leased(lease_until: Option<i64>, attempt: Option<i32>, is_rejected: bool) -> Option<State> {
    Some(State::Leased { until: Timestamp(lease_until?), attempt: u32::try_from(attempt?).ok()?, is_rejected })
}

/// What the completion writes: state, format, status, headers, body.
pub(crate) fn written(outcome: &Outcome) -> (i16, i16, Option<i16>, &[u8], &[u8]) {
    match outcome {
        // An HTTP status has three digits, so it fits.
        Outcome::Reply(reply) => {
            (COMPLETED, reply.format.0, reply.status.map(|status| status as i16), &reply.headers, &reply.body)
        }
        Outcome::Oversized => (OVERSIZED, Format::HTTP.0, None, &[], &[]),
    }
}
