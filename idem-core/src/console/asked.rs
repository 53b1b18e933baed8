//! What an operator has typed into a form.

use std::time::Duration;

use serde::Deserialize;

use crate::first_sent::FirstSent;
use crate::hex::{bytes, hex};
use crate::identity::{Identity, Key, Operation, Scope};
use crate::machine::{Retry, Sent};
use crate::operate::{Condition, Cursor, Query, Reason};
use crate::policy::LeaseTerms;

/// A question about one key. It has no `Debug`: the key is in it.
///
/// A person types scope, operation and key. A record of a list has its place in hexadecimal digits instead: a browser
/// changes line breaks, and no control character is written into a page.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyForm {
    scope: String,
    operation: String,
    key: String,
    /// The `attempts` of a leased handler, if they are known.
    attempts: String,
    /// When the retry says that it was first sent: a time, or `key` for the time of the key.
    first_sent: String,
    /// The `ttl` of the handler, with which that time is compared.
    ttl: String,
    at_scope: String,
    at_operation: String,
    at_key: String,
}

impl KeyForm {
    pub(super) fn read(&self) -> Result<(Identity, Retry), &'static str> {
        let identity = if self.at_key.is_empty() { self.typed()? } else { self.placed().ok_or(NO_PLACE)? };
        let terms = match self.attempts.trim() {
            "" => None,
            attempts => {
                let attempts = attempts.parse().ok().filter(|attempts| *attempts > 0);
                Some(LeaseTerms::DEFAULT.attempts(attempts.ok_or("The attempts are not a number from 1 on.")?))
            }
        };
        let sent = self.sent(&identity.key)?;
        Ok((identity, Retry { terms, sent, ..Retry::default() }))
    }

    fn sent(&self, key: &Key) -> Result<Option<Sent>, &'static str> {
        let by_key = FirstSent::of_key(key);
        let first = match self.first_sent.trim() {
            "" => return Ok(None),
            "key" => by_key.ok_or("The key has no time: it is no UUID of version 7.")?,
            text => {
                let time = humantime::parse_rfc3339_weak(text).ok().or_else(|| httpdate::parse_http_date(text).ok());
                let time = FirstSent::at(time.ok_or("The time of the first request cannot be read.")?);
                // As a request is read: the earlier of two counts.
                by_key.map_or(time, |by_key| by_key.min(time))
            }
        };
        let ttl = match self.ttl.trim() {
            "" => DAY,
            ttl => humantime::parse_duration(ttl).map_err(|_| "The ttl is no duration such as 24h.")?,
        };
        Ok(Some(Sent { first, ttl }))
    }

    fn typed(&self) -> Result<Identity, &'static str> {
        Ok(Identity {
            scope: Scope::from_stored(&self.scope).ok_or(NO_SCOPE)?,
            operation: Operation::named(self.operation.trim())
                .ok_or("The operation is empty, or longer than 255 bytes.")?,
            key: Key::of(&self.key).ok().flatten().ok_or("The key is blank, or longer than 255 bytes.")?,
        })
    }

    fn placed(&self) -> Option<Identity> {
        cursor(&self.at_scope, &self.at_operation, &self.at_key)?.identity()
    }
}

/// A record whose run is to be changed. A page of the console has named it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PlaceForm {
    at_scope: String,
    at_operation: String,
    at_key: String,
    reason: String,
}

impl PlaceForm {
    pub(super) fn identity(&self) -> Result<Identity, &'static str> {
        let at = cursor(&self.at_scope, &self.at_operation, &self.at_key);
        at.and_then(|at| at.identity()).ok_or(NO_PLACE)
    }

    pub(super) fn reason(&self) -> Result<Reason, &'static str> {
        Reason::new(&self.reason).ok_or("The reason is blank, or longer than 500 characters.")
    }
}

/// The scope to be forgotten: typed by a person, or named by a page of the console.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ScopeForm {
    scope: String,
    /// `yes`: the scope that all callers share. A field that was left empty does not stand for it.
    global: String,
    at_scope: Option<String>,
}

impl ScopeForm {
    pub(super) fn scope(&self) -> Result<Scope, &'static str> {
        match (&self.at_scope, self.global.as_str(), self.scope.as_str()) {
            (Some(hex), "", "") => text(hex).and_then(|scope| Scope::from_stored(&scope)).ok_or(NO_PLACE),
            (None, "yes", "") => Ok(Scope::global()),
            (None, "", typed) if !typed.is_empty() => Scope::from_stored(typed).ok_or(NO_SCOPE),
            _ => Err("Say whose records: either a scope, or the global scope."),
        }
    }
}

/// A question about many records. The page after a page is asked for by its place, in hexadecimal digits.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ListForm {
    /// `one`: only the records of the scope.
    scopes: String,
    scope: String,
    operation: String,
    /// The same, in hexadecimal digits.
    operation_hex: String,
    /// The name of a condition, `stuck`, or nothing.
    condition: String,
    /// In hours.
    older_than: String,
    after_scope: String,
    after_operation: String,
    after_key: String,
}

impl ListForm {
    pub(super) fn read(&self, limit: u32) -> Result<Query, &'static str> {
        let after = match self.after_key.is_empty() {
            true => None,
            false => Some(cursor(&self.after_scope, &self.after_operation, &self.after_key).ok_or(NO_PLACE)?),
        };
        let scope = match (self.scopes.as_str(), &after) {
            ("one", Some(after)) => Some(Scope::from_stored(&after.scope).ok_or(NO_SCOPE)?),
            ("one", None) => Some(Scope::from_stored(&self.scope).ok_or(NO_SCOPE)?),
            _ => None,
        };
        let operation = match self.operation_hex.is_empty() {
            true => self.operation.trim().to_owned(),
            false => text(&self.operation_hex).ok_or(NO_PLACE)?,
        };
        let conditions = match self.condition.as_str() {
            "" => Vec::new(),
            "stuck" => Condition::STUCK.to_vec(),
            name => vec![Condition::named(name).ok_or("There is no such condition.")?],
        };
        let hours = match self.older_than.trim() {
            "" => None,
            hours => Some(hours.parse::<u32>().map_err(|_| "The age is not a whole number of hours.")?),
        };
        Ok(Query {
            scope,
            operation: Some(operation).filter(|operation| !operation.is_empty()),
            conditions,
            older_than: hours.map(|hours| Duration::from_secs(u64::from(hours) * SECONDS)),
            limit,
            after,
        })
    }
}

/// The `ttl` of an attribute that says none.
const DAY: Duration = Duration::from_secs(24 * SECONDS);

/// The seconds of an hour.
const SECONDS: u64 = 3600;

const NO_PLACE: &str = "That place is of no record.";
const NO_SCOPE: &str = "The scope is longer than 255 bytes, or has a NUL.";

/// The fields of a form that asks for the page after a place, as [`ListForm`] reads them.
pub(super) fn after(query: &Query, next: &Cursor) -> Vec<(&'static str, String)> {
    let condition = match query.conditions.as_slice() {
        [] => "",
        [condition] => condition.name(),
        _ => "stuck",
    };
    let hours = query.older_than.map(|time| (time.as_secs() / SECONDS).to_string());
    let operation = query.operation.as_deref().unwrap_or_default();
    vec![
        ("scopes", if query.scope.is_some() { "one" } else { "all" }.to_owned()),
        ("operation_hex", hex(operation.as_bytes())),
        ("condition", condition.to_owned()),
        ("older_than", hours.unwrap_or_default()),
        ("after_scope", hex(next.scope.as_bytes())),
        ("after_operation", hex(next.operation.as_bytes())),
        ("after_key", next.key_hex()),
    ]
}

/// The fields of a form that asks about a record, as [`KeyForm`] reads them.
pub(super) fn at(at: &Cursor) -> Vec<(&'static str, String)> {
    vec![
        ("at_scope", hex(at.scope.as_bytes())),
        ("at_operation", hex(at.operation.as_bytes())),
        ("at_key", at.key_hex()),
    ]
}

/// The field of a form that names a scope, as [`ScopeForm`] reads it.
pub(super) fn at_scope(scope: &str) -> Vec<(&'static str, String)> {
    vec![("at_scope", hex(scope.as_bytes()))]
}

fn cursor(scope: &str, operation: &str, key: &str) -> Option<Cursor> {
    Some(Cursor { scope: text(scope)?, operation: text(operation)?, key_hash: bytes(key)? })
}

/// A text that a column can hold.
fn text(hex: &str) -> Option<String> {
    String::from_utf8(bytes(hex)?).ok().filter(|text| !text.contains('\0'))
}
