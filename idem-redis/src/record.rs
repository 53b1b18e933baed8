//! What a script answers, as a record and its journal.

use std::collections::BTreeMap;

use bytes::Bytes;
use idem_core::operate::{Cursor, Reason};
use idem_core::store::{Claim, Entry, EntryKind, Format, Input, Outcome, Record, Reply, State, Timestamp};
use idem_core::{Error, Fingerprint, Identity, Kind};
use redis::Value;

use crate::failure::Failed;

/// The version of a record's fields. A later release may add numbers, and never gives a number another meaning.
const VERSION: &[u8] = b"1";

/// Numbers of the field `state`: those of the SQL stores.
const GIVEN_UP: i64 = -1;
const LATE: i64 = 0;
const COMPLETED: i64 = 2;
const OVERSIZED: i64 = 3;
const LEASED: i64 = 4;
const UNDOING: i64 = 5;

/// A record as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) record: Record,
    /// Where it says that it is. `None`: its fields are not those of a record.
    pub(crate) at: Option<Cursor>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) reason: Option<Reason>,
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Claimed.
    Claimed {
        fence: u64,
        attempt: u32,
        fingerprint: Fingerprint,
        /// What earlier attempts have recorded.
        entries: Vec<Entry>,
    },
    /// Not claimed: there is this record, or none.
    Found(Option<Box<Found>>, Timestamp),
}

/// A field, or nothing where there is none.
fn field(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(field: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(field?).ok()?.parse().ok()
}

/// Times are whole microseconds. Lua has no integers, so it writes them without a fraction.
fn time(field: Option<&[u8]>) -> Option<Timestamp> {
    number(field).map(Timestamp)
}

fn text(field: Option<Vec<u8>>) -> Option<String> {
    String::from_utf8(field?).ok()
}

/// Nothing is written as nothing.
fn filled(field: Option<Vec<u8>>) -> Option<Vec<u8>> {
    field.filter(|bytes| !bytes.is_empty())
}

fn list(value: Value) -> Result<Vec<Value>, Failed> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(Failed::strange()),
    }
}

/// The first word of an answer, the time, and what follows.
fn split(answer: Value) -> Result<(Vec<u8>, Timestamp, std::vec::IntoIter<Value>), Failed> {
    let mut values = list(answer)?.into_iter();
    let (Some(word), Some(Value::Int(now))) = (values.next().and_then(field), values.next()) else {
        return Err(Failed::strange());
    };
    Ok((word, Timestamp(now), values))
}

/// The answer of the script `claim`.
pub(crate) fn claimed(answer: Value) -> Result<Result<Answer, Error>, Failed> {
    let (word, now, mut values) = split(answer)?;
    let mut next = || values.next().ok_or_else(Failed::strange);
    if word == b"claimed" {
        let (fence, attempt, fingerprint, journal) = (next()?, next()?, next()?, next()?);
        let read = || {
            let fingerprint = field(fingerprint).and_then(|bytes| Fingerprint::from_bytes(&bytes))?;
            let (fence, attempt) = (number(field(fence).as_deref())?, number(field(attempt).as_deref())?);
            let entries = entries(fields(journal)?)?.into_iter().map(|(entry, _)| entry).collect();
            Some(Answer::Claimed { fence, attempt, fingerprint, entries })
        };
        return Ok(read().ok_or_else(|| Error::new(Kind::RecordUnreadable)));
    }
    let found = if word == b"seen" { Some(Box::new(found(next()?, now, true)?)) } else { None };
    Ok(Ok(Answer::Found(found, now)))
}

/// What the script `look` has found.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) found: Option<Found>,
    pub(crate) now: Timestamp,
    /// The journal, if it was asked for. `None`: it cannot be read.
    pub(crate) entries: Option<Vec<(Entry, Option<Timestamp>)>>,
    pub(crate) input: Option<Input>,
}

/// The answer of the script `look`, which was asked for contents or not.
pub(crate) fn looked(answer: Value, has_contents: bool) -> Result<Looked, Failed> {
    let (word, now, mut values) = split(answer)?;
    if word != b"seen" {
        return Ok(Looked { found: None, now, entries: Some(Vec::new()), input: None });
    }
    let mut next = || values.next().ok_or_else(Failed::strange);
    let (record, journal, input) = (next()?, next()?, next().ok());
    let input = input.and_then(field).map(|bytes| Input(Bytes::from(bytes)));
    Ok(Looked {
        found: Some(found(record, now, has_contents)?),
        now,
        entries: fields(journal).and_then(entries),
        input,
    })
}

/// A record. One that cannot be read counts until Redis removes it, and refuses everything.
fn found(value: Value, now: Timestamp, has_contents: bool) -> Result<Found, Failed> {
    let mut parts = list(value)?.into_iter();
    let (Some(head), Some(reply)) = (parts.next(), parts.next()) else { return Err(Failed::strange()) };
    let mut head = list(head)?.into_iter().map(field);
    let mut next = || head.next().flatten();
    let version = next();
    let at = match (text(next()), text(next()), next()) {
        (Some(scope), Some(operation), Some(key_hash)) => Some(Cursor { scope, operation, key_hash }),
        _ => None,
    };
    let (state, claim, fingerprint) = (number::<i64>(next().as_deref()), next(), next());
    let (expires_at, kept_until) = (time(next().as_deref()), time(next().as_deref()));
    let (completed_at, created_at) = (time(next().as_deref()), time(next().as_deref()));
    let (lease_until, attempt, released) =
        (time(next().as_deref()), number(next().as_deref()), number(next().as_deref()));
    let reason = text(next()).map(Reason::from_stored);
    let claim = claim.as_deref().and_then(Claim::from_bytes);
    let (Some(claim), Some(expires_at), true) = (claim, expires_at, version.as_deref() == Some(VERSION)) else {
        return Ok(Found { record: unreadable(), at: None, created_at: None, reason: None });
    };
    let reply = read_reply(list(reply)?, has_contents);
    let state = match state {
        Some(COMPLETED) => match reply {
            Some(Some(reply)) => State::Completed(reply),
            // Redis has removed it, since its `ttl` is over.
            Some(None) if expires_at <= now && kept_until.is_some() => State::Late,
            _ => State::Unreadable,
        },
        Some(OVERSIZED) => State::Oversized,
        Some(LATE) => State::Late,
        Some(GIVEN_UP) => State::GivenUp,
        Some(state @ (LEASED | UNDOING)) => match (lease_until, attempt, released) {
            (Some(until), Some(attempt), Some(released)) => {
                State::Leased { until, attempt, released, is_rejected: state == UNDOING }
            }
            _ => State::Unreadable,
        },
        _ => State::Unreadable,
    };
    let fingerprint = fingerprint.as_deref().and_then(Fingerprint::from_bytes);
    let record = Record::new(fingerprint, state, claim, expires_at).kept_until(kept_until);
    Ok(Found { record: record.with_completed_at(completed_at), at, created_at, reason })
}

impl Found {
    /// The record, if it is of this identity. A record that was copied under another name is none.
    pub(crate) fn of(mut self, identity: &Identity) -> Self {
        if self.at.as_ref() != Some(&Cursor::of(identity)) {
            self.record = unreadable();
        }
        self
    }
}

/// A record that refuses everything.
pub(crate) fn unreadable() -> Record {
    let nobodys = Claim::from_bytes(&[0; 16]).expect("16 bytes");
    Record::new(None, State::Unreadable, nobodys, Timestamp(i64::MAX))
}

/// `Some(None)`: there is none. `None`: it cannot be read.
fn read_reply(values: Vec<Value>, has_contents: bool) -> Option<Option<Reply>> {
    let mut fields = values.into_iter().map(field);
    let mut next = || fields.next().flatten();
    let Some(format) = next() else { return Some(None) };
    reply(Some(format), next(), contents(next(), has_contents), contents(next(), has_contents)).map(Some)
}

fn contents(field: Option<Vec<u8>>, has_contents: bool) -> Option<Vec<u8>> {
    if has_contents { field } else { Some(Vec::new()) }
}

fn reply(
    format: Option<Vec<u8>>,
    status: Option<Vec<u8>>,
    headers: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
) -> Option<Reply> {
    let status = match filled(status) {
        Some(status) => Some(number(Some(&status))?),
        None => None,
    };
    Some(Reply {
        format: Format(number(format.as_deref())?),
        status,
        headers: Bytes::from(headers?),
        body: Bytes::from(body?),
    })
}

/// The fields of a hash.
fn fields(value: Value) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let pairs = value.into_map_iter().ok()?;
    pairs.map(|(name, value)| Some((field(name)?, field(value)?))).collect()
}

/// The journal among the fields of a record, in its order, with the time of each entry.
fn entries(mut fields: BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Vec<(Entry, Option<Timestamp>)>> {
    let positions = fields.keys().filter_map(|name| number::<u32>(Some(name.strip_suffix(b".kind")?)));
    let mut positions: Vec<u32> = positions.collect();
    positions.sort_unstable();
    let entry = |position: u32| {
        let mut take = |name: &str| fields.remove(format!("{position}.{name}").as_bytes());
        let entry = Entry::new(position, EntryKind(number(take("kind").as_deref())?), text(take("name"))?);
        let at = time(take("at").as_deref());
        let entry = match filled(Some(take("undoes")?)) {
            Some(undoes) => entry.with_undoes(serde_json::from_slice(&undoes).ok()?),
            None => entry,
        };
        let (format, status, headers, body) = (take("format")?, take("status"), take("headers"), take("body"));
        Some(match filled(Some(format)) {
            Some(format) => (entry.with_reply(reply(Some(format), status, headers, body)?), at),
            None => (entry, at),
        })
    };
    positions.into_iter().map(entry).collect()
}

/// The arguments that an entry is written as: position, kind, name, format, status, headers, body, undoes.
pub(crate) fn written_entry(entry: &Entry) -> Vec<Vec<u8>> {
    // Serializing a list of strings cannot fail.
    let undoes =
        if entry.undoes.is_empty() { Vec::new() } else { serde_json::to_vec(&entry.undoes).unwrap_or_default() };
    let mut written =
        vec![entry.position.to_string().into(), entry.kind.0.to_string().into(), entry.name.clone().into()];
    written.extend(written_reply(entry.reply.as_ref()));
    written.push(undoes);
    written
}

/// State, format, status, headers and body of an outcome.
pub(crate) fn written_outcome(outcome: &Outcome) -> Vec<Vec<u8>> {
    let (state, reply) = match outcome {
        Outcome::Reply(reply) => (COMPLETED, Some(reply)),
        Outcome::Oversized => (OVERSIZED, None),
    };
    let mut written = vec![state.to_string().into()];
    written.extend(written_reply(reply));
    written
}

fn written_reply(reply: Option<&Reply>) -> [Vec<u8>; 4] {
    let Some(Reply { format, status, headers, body }) = reply else { return Default::default() };
    let status = status.map(|status| status.to_string()).unwrap_or_default();
    [format.0.to_string().into(), status.into(), headers.to_vec(), body.to_vec()]
}
