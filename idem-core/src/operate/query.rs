//! A question about many records, and its answer.

use std::fmt;
use std::time::Duration;

use super::Condition;
use crate::hex::hex;
use crate::identity::{Identity, Key, Operation, Scope};
use crate::machine::Seen;
use crate::record::Timestamp;
use crate::redacted::{Beginning, Redacted};

/// Which records to list. By default, all of them.
///
/// ```
/// use std::time::Duration;
/// use idem_core::operate::{Condition, Query};
///
/// let stuck = Query {
///     operation: Some("payments.create".to_owned()),
///     conditions: vec![Condition::Abandoned, Condition::Undoing],
///     older_than: Some(Duration::from_secs(3600)),
///     ..Query::default()
/// };
/// ```
///
/// # Limitations
/// - Only the scope narrows what is looked at, and with a scope the operation. The other parts choose among the records
///   that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The owner of the keys.
    pub scope: Option<Scope>,
    /// The handler's stable name.
    pub operation: Option<String>,
    /// The conditions. None: every condition.
    pub conditions: Vec<Condition>,
    /// Only records that began so long ago, or longer.
    pub older_than: Option<Duration>,
    /// The most records of a page, up to [`MOST_LOOKED_AT`](Self::MOST_LOOKED_AT). Default: 100.
    pub limit: u32,
    /// Where the page begins: after this place.
    pub after: Option<Cursor>,
}

impl Query {
    /// How many records a store looks at for a page, at most.
    pub const MOST_LOOKED_AT: u32 = 10_000;

    /// Whether this record is asked for.
    #[must_use]
    pub fn asks_for(&self, record: &Listed, now: Timestamp) -> bool {
        let is_old = |least: Duration| {
            let least = i64::try_from(least.as_micros()).unwrap_or(i64::MAX);
            record.seen.created_at.is_some_and(|created| now.0.saturating_sub(created.0) >= least)
        };
        self.scope.as_ref().is_none_or(|scope| scope.as_str() == record.at.scope)
            && self.operation.as_ref().is_none_or(|operation| *operation == record.at.operation)
            && (self.conditions.is_empty() || self.conditions.contains(&record.seen.condition))
            && self.older_than.is_none_or(is_old)
    }

    /// The most records of a page.
    #[must_use]
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, Self::MOST_LOOKED_AT) as usize
    }
}

impl Default for Query {
    fn default() -> Self {
        Self { scope: None, operation: None, conditions: Vec::new(), older_than: None, limit: 100, after: None }
    }
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The records, in the order of their places.
    pub records: Vec<Listed>,
    /// Where the next page begins. `None`: this is the last page.
    pub next: Option<Cursor>,
    /// The time by the store's clock.
    pub now: Timestamp,
}

impl Page {
    /// A page.
    #[must_use]
    pub fn new(records: Vec<Listed>, next: Option<Cursor>, now: Timestamp) -> Self {
        Self { records, next, now }
    }
}

/// A record in a list, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Scope, operation and key hash.
    pub at: Cursor,
    /// How far its run has come, and its times.
    pub seen: Seen,
}

impl Listed {
    /// A record at a place.
    #[must_use]
    pub fn new(at: Cursor, seen: Seen) -> Self {
        Self { at, seen }
    }
}

/// The place of a record in the order of the primary key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The owner of the key, as it is stored. Personal data, if it names a person.
    pub scope: String,
    /// The handler's stable name.
    pub operation: String,
    /// The stored hash of the key.
    pub key_hash: Vec<u8>,
}

impl Cursor {
    /// The place of an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self {
            scope: identity.scope.as_str().to_owned(),
            operation: identity.operation.as_str().to_owned(),
            key_hash: identity.key.hash().to_vec(),
        }
    }

    /// The identity at this place. `None` if a hand has written what no release writes.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let key = Key::from_hash(self.key_hash.as_slice().try_into().ok()?);
        Some(Identity { scope: Scope::from_stored(&self.scope)?, operation: Operation::named(&self.operation)?, key })
    }

    /// The key hash in hexadecimal digits.
    #[must_use]
    pub fn key_hex(&self) -> String {
        hex(&self.key_hash)
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("scope", &Redacted(self.scope.len()))
            .field("operation", &self.operation)
            .field("key_hash", &Beginning(&self.key_hash))
            .finish()
    }
}
