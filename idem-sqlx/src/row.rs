//! Converts between a row's columns and a record.

use bytes::Bytes;
use idem_core::store::{Claim, Entry, EntryKind, Format, Outcome, Record, Reply, State, Timestamp};
use idem_core::{Error, Fingerprint, Kind};

/// Numbers of the `state` column. They never change their meaning.
/// An operator has given the run up.
pub(crate) const GIVEN_UP: i16 = -1;
/// Completed, and without its reply: the sweep has come by after its `ttl`.
pub(crate) const LATE: i16 = 0;
pub(crate) const RUNNING: i16 = 1;
const COMPLETED: i16 = 2;
const OVERSIZED: i16 = 3;
pub(crate) const LEASED: i16 = 4;
/// Leased and rejected. Every record with `state >= LEASED` is leased.
pub(crate) const UNDOING: i16 = 5;

/// The `position` of the recorded input of a leased run: before all its steps.
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
    Option<i64>,     // kept_until
    Option<i64>,     // completed_at
    Option<i64>,     // lease_until
    Option<i32>,     // attempt
    Option<i32>,     // released
    i64,             // now, by the database's clock
);

/// The record in a row, if there is one, and the database's time.
pub(crate) fn read(columns: Columns) -> Result<(Option<Record>, Timestamp), Error> {
    let (
        fingerprint,
        state,
        claim,
        format,
        status,
        headers,
        body,
        expires_at,
        kept_until,
        completed_at,
        lease_until,
        attempt,
        released,
        now,
    ) = columns;
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
        Some(LATE) => State::Late,
        Some(GIVEN_UP) => State::GivenUp,
        Some(state @ (LEASED | UNDOING)) => {
            leased(lease_until, attempt, released, state == UNDOING).unwrap_or(State::Unreadable)
        }
        _ => State::Unreadable,
    };
    let fingerprint = fingerprint.as_deref().and_then(Fingerprint::from_bytes);
    let record = Record::new(fingerprint, state, claim, Timestamp(expires_at)).kept_until(kept_until.map(Timestamp));
    let record = record.with_completed_at(completed_at.map(Timestamp));
    Ok((Some(record), now))
}

fn leased(lease_until: Option<i64>, attempt: Option<i32>, released: Option<i32>, is_rejected: bool) -> Option<State> {
    let (attempt, released) = (u32::try_from(attempt?).ok()?, u32::try_from(released?).ok()?);
    Some(State::Leased { until: Timestamp(lease_until?), attempt, released, is_rejected })
}

/// The columns of an entry of the journal, as both dialects select them, in this order.
pub(crate) type EntryColumns = (
    i32,             // position
    i16,             // kind
    String,          // name
    Option<i16>,     // format
    Option<i16>,     // status
    Option<Vec<u8>>, // headers
    Option<Vec<u8>>, // body
    Option<String>,  // undoes
);

/// The entry in a row, or `None` if the row is not one that a release writes.
pub(crate) fn entry(columns: EntryColumns) -> Option<Entry> {
    let (position, kind, name, format, status, headers, body, undoes) = columns;
    let entry = Entry::new(u32::try_from(position).ok()?, EntryKind(kind), name);
    let entry = match undoes {
        Some(undoes) => entry.with_undoes(serde_json::from_str(&undoes).ok()?),
        None => entry,
    };
    match (format, headers, body) {
        (None, None, None) => Some(entry),
        (Some(format), Some(headers), Some(body)) => Some(entry.with_reply(Reply {
            format: Format(format),
            status: status.map(u16::try_from).transpose().ok()?,
            headers: Bytes::from(headers),
            body: Bytes::from(body),
        })),
        _ => None,
    }
}

/// What an entry writes: its reply's format, status, headers and body, and the steps to undo.
pub(crate) struct EntryRow<'e> {
    pub(crate) format: Option<i16>,
    pub(crate) status: Option<i16>,
    pub(crate) headers: Option<&'e [u8]>,
    pub(crate) body: Option<&'e [u8]>,
    pub(crate) undoes: Option<String>,
}

impl<'e> EntryRow<'e> {
    pub(crate) fn of(entry: &'e Entry) -> Self {
        let reply = entry.reply.as_ref();
        // Serializing a list of strings cannot fail.
        let undoes = (!entry.undoes.is_empty()).then(|| serde_json::to_string(&entry.undoes).unwrap_or_default());
        Self {
            format: reply.map(|reply| reply.format.0),
            status: reply.and_then(|reply| reply.status).map(|status| status as i16),
            headers: reply.map(|reply| reply.headers.as_ref()),
            body: reply.map(|reply| reply.body.as_ref()),
            undoes,
        }
    }
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
