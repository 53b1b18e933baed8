//! The identity of a record: scope, operation and key.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind};
use crate::first_sent::of_uuid;
use crate::redacted::{Beginning, Redacted};

/// The owner of a key: two callers with different scopes never see each other's replies.
///
/// ```
/// use idem_core::ToScope;
///
/// assert_eq!("u1".to_scope()?.as_str(), "u1");
/// assert_eq!(("t1", 7).to_scope()?.as_str(), r#"["t1","7"]"#);
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// A scope has 1 to 255 bytes without a NUL character. It is stored in clear, so that an operator can find a caller's
/// records. Use an identifier, not a name or an address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(String);

impl Scope {
    /// The longest scope, in bytes: three of them fit into one Postgres index row with room to spare.
    pub const MAX_LEN: usize = 255;

    /// The scope that all callers share: the meaning of `scope = global`.
    ///
    /// This scope is the empty string, which no [`ToScope`] value can be.
    #[must_use]
    pub fn global() -> Self {
        Self(String::new())
    }

    /// A scope of one part.
    ///
    /// # Errors
    /// [`Kind::ScopeInvalid`] if the part is empty, longer than [`MAX_LEN`](Self::MAX_LEN) bytes, or holds NUL.
    pub fn of(part: impl Into<String>) -> Result<Self, Error> {
        let part = part.into();
        // A value that looks like a tuple is written as a tuple of one, so that no single value can pass for a real
        // tuple.
        if part.starts_with('[') {
            return Self::of_parts(&[part]);
        }
        Self::checked(part)
    }

    /// A scope of several parts. Two lists of parts are the same scope only if all their parts are equal.
    ///
    /// # Errors
    /// [`Kind::ScopeInvalid`] if a part is empty, or the whole is longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn of_parts(parts: &[String]) -> Result<Self, Error> {
        if parts.is_empty() || parts.iter().any(|part| part.is_empty() || part.contains('\0')) {
            return Err(Error::new(Kind::ScopeInvalid));
        }
        let json = serde_json::to_string(parts).map_err(|error| Error::new(Kind::ScopeInvalid).caused_by(error))?;
        Self::checked(json)
    }

    fn checked(text: String) -> Result<Self, Error> {
        if text.is_empty() || text.len() > Self::MAX_LEN || text.contains('\0') {
            return Err(Error::new(Kind::ScopeInvalid));
        }
        Ok(Self(text))
    }

    /// A scope from its stored text: for an operator who has a record. Empty text is the [global](Self::global) scope.
    /// `None` for a text that is no stored scope.
    ///
    /// ```
    /// use idem_core::{Scope, ToScope};
    ///
    /// let scope = ("t1", 7).to_scope()?;
    /// assert_eq!(Scope::from_stored(scope.as_str()), Some(scope));
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self::global()) } else { Self::checked(text.to_owned()).ok() }
    }

    /// The scope as it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&Redacted(self.0.len())).finish()
    }
}

/// A value that names the owner of a key: the value of `scope = EXPR`.
///
/// ```
/// use idem_core::{Error, Scope, ToScope};
///
/// struct CurrentUser { id: u64, name: String }
///
/// impl ToScope for CurrentUser {
///     fn to_scope(&self) -> Result<Scope, Error> {
///         self.id.to_scope()
///     }
/// }
/// ```
///
/// # Rules
/// - Two callers who must not see each other's replies have different scopes. One caller has the same scope on every
///   retry, on every server. A session identifier is no scope, since it changes.
/// - `Option<T>` is deliberately no scope: all anonymous callers would share one. Refuse them in an extractor, or write
///   `scope = global` if sharing is meant.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a scope",
    label = "does not say who owns the key",
    note = "name a part that is a string, an integer or a tuple of them: `scope = user.id`; for a type of yours, implement `idem_core::ToScope`; wrap another crate's type in one of yours",
    note = "`uuid::Uuid` is a scope with `features = [\"uuid\"]` of `idem-core`",
    note = "`Option` is no scope, because all anonymous callers would share one: let an extractor refuse them, or write `scope = global`"
)]
pub trait ToScope {
    /// The scope of this value.
    ///
    /// # Errors
    /// [`Kind::ScopeInvalid`] if the value is empty or too long. The request then fails and nothing is recorded.
    fn to_scope(&self) -> Result<Scope, Error>;
}

/// A value that is a key: the value of `key = EXPR`.
///
/// An empty string and `None` are no keys: the request is refused, or runs unrecorded if the handler says
/// `missing_key = run`. Such requests never share a record.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an idempotency key",
    label = "is no string, integer or option of one",
    note = "name a part that is: `key = event.id`; for a type of yours, implement `idem_core::ToKey`; wrap another crate's type in one of yours",
    note = "`uuid::Uuid` is a key with `features = [\"uuid\"]` of `idem-core`"
)]
pub trait ToKey {
    /// The key of this value, or `None` if it has none.
    ///
    /// # Errors
    /// [`Kind::KeyInvalid`] if the value cannot be a key.
    fn to_key(&self) -> Result<Option<Key>, Error>;
}

/// The key that a client chose for one request and all its retries.
///
/// Only the key's SHA-256 is held in memory, since keys are sometimes secrets. It is stored, or, by a store with an
/// [index key](crate::seal::Seal::hmac), an HMAC of it. Of a key that is a UUID of version 7, its time is held in
/// memory, too: see [`FirstSent`](crate::FirstSent).
#[derive(Clone)]
pub struct Key {
    hash: [u8; 32],
    /// Whether the hash is as a store has it. If not, it is the SHA-256 of the key.
    is_stored: bool,
    /// Milliseconds since 1970. Every future with a request in it has this, so it is small.
    made_at: Option<NonZeroU64>,
}

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 255;

    /// A key from its text. Blank text is no key.
    ///
    /// # Errors
    /// [`Kind::KeyInvalid`] if the text is longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn of(text: &str) -> Result<Option<Self>, Error> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        if text.len() > Self::MAX_LEN {
            return Err(Error::new(Kind::KeyInvalid));
        }
        let made_at = of_uuid(text).and_then(NonZeroU64::new);
        Ok(Some(Self { hash: Sha256::digest(text).into(), is_stored: false, made_at }))
    }

    /// A key from its stored hash: for an operator who has a record but not its key.
    #[must_use]
    pub fn from_hash(hash: [u8; 32]) -> Self {
        Self { hash, is_stored: true, made_at: None }
    }

    /// The same key, with the hash that a store has of it.
    pub(crate) fn stored_as(&self, hash: [u8; 32]) -> Self {
        Self { hash, is_stored: true, made_at: self.made_at }
    }

    /// The key's SHA-256, or the hash that a store has of it.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether the hash is as a store has it. If not, it is the SHA-256 of the key.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// The time in a UUID of version 7, in milliseconds since 1970.
    pub(crate) fn made_at(&self) -> Option<u64> {
        self.made_at.map(NonZeroU64::get)
    }
}

/// By the hash: a key that was read back from a record has no time, and is the same key.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&Beginning(&self.hash)).finish()
    }
}

/// A handler's stable name: 1 to 255 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operation(&'static str);

impl Operation {
    /// The longest operation, in bytes.
    pub const MAX_LEN: usize = 255;

    /// A name given in code.
    ///
    /// # Panics
    /// If the name is empty or longer than [`MAX_LEN`](Self::MAX_LEN) bytes. In a `const` that is a compile error.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "an operation needs a name");
        assert!(
            name.len() <= Self::MAX_LEN,
            "an operation's name has at most 255 bytes: give it a shorter one with `operation = \"…\"`"
        );
        Self(name)
    }

    /// A name that is known at run time only, such as one that an operator has typed. `None` if it is empty or longer
    /// than [`MAX_LEN`](Self::MAX_LEN) bytes, or has a NUL.
    ///
    /// ```
    /// use idem_core::Operation;
    ///
    /// let typed = String::from("payments.create");
    /// assert_eq!(Operation::named(&typed), Some(Operation::new("payments.create")));
    /// ```
    ///
    /// # Limitations
    /// Each name is kept until the process ends. After [`MOST_NAMED`](Self::MOST_NAMED) names, a new name is `None`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        static NAMED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        if name.is_empty() || name.len() > Self::MAX_LEN || name.contains('\0') {
            return None;
        }
        // A panic under the lock leaves the set as it was.
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = named.get(name) {
            return Some(Self(known));
        }
        if named.len() >= Self::MOST_NAMED {
            return None;
        }
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        named.insert(name);
        Some(Self(name))
    }

    /// How many names of run time a process keeps.
    pub const MOST_NAMED: usize = 10_000;

    /// The name as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// The identity of a record: scope, operation and key.
///
/// The three parts stay separate down to the store's columns, so that no joining of strings makes two identities equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The owner of the key.
    pub scope: Scope,
    /// The handler's stable name.
    pub operation: Operation,
    /// The client's key for the request.
    pub key: Key,
}

impl Identity {
    /// An identity of these parts.
    ///
    /// ```
    /// use idem_core::Identity;
    ///
    /// let identity = Identity::new("inventory", "inventory.reserve", &"order-17")?;
    /// assert_ne!(identity, Identity::new("inventory", "inventory.release", &"order-17")?);
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::KeyMissing`] if the key is blank or `None`, [`Kind::KeyInvalid`] and [`Kind::ScopeInvalid`] if the key
    /// or the scope cannot be stored.
    ///
    /// # Panics
    /// If the operation is empty or too long: see [`Operation::new`].
    pub fn new(scope: impl ToScope, operation: &'static str, key: &(impl ToKey + ?Sized)) -> Result<Self, Error> {
        let key = key.to_key()?.ok_or_else(|| Error::new(Kind::KeyMissing))?;
        Ok(Self { scope: scope.to_scope()?, operation: Operation::new(operation), key })
    }

    /// A digest of the three parts, each with its length: for locks and tables that need a single value.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [self.scope.as_str().as_bytes(), self.operation.as_str().as_bytes(), self.key.hash().as_slice()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

impl ToScope for str {
    fn to_scope(&self) -> Result<Scope, Error> {
        Scope::of(self)
    }
}

impl ToScope for String {
    fn to_scope(&self) -> Result<Scope, Error> {
        Scope::of(self.as_str())
    }
}

impl ToScope for Scope {
    fn to_scope(&self) -> Result<Scope, Error> {
        Ok(self.clone())
    }
}

impl<T: ToScope + ?Sized> ToScope for &T {
    fn to_scope(&self) -> Result<Scope, Error> {
        (**self).to_scope()
    }
}

/// A key that was made before, such as one that was read from a header, or from a recorded input.
impl ToKey for Key {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        Ok(Some(self.clone()))
    }
}

/// As the hash: a recorded input with a `Key` in it does not hold the key itself.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.hash.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(|hash| Self { hash, is_stored: false, made_at: None })
    }
}

impl ToKey for str {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        Key::of(self)
    }
}

impl ToKey for String {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        Key::of(self)
    }
}

impl<T: ToKey + ?Sized> ToKey for &T {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        (**self).to_key()
    }
}

impl<T: ToKey> ToKey for Option<T> {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        self.as_ref().map_or(Ok(None), ToKey::to_key)
    }
}

macro_rules! by_display {
    ($($type:ty),*) => {$(
        // A list of integer types in a compile error would not help the user.
        #[diagnostic::do_not_recommend]
        impl ToScope for $type {
            fn to_scope(&self) -> Result<Scope, Error> {
                Scope::of(self.to_string())
            }
        }

        impl ToKey for $type {
            fn to_key(&self) -> Result<Option<Key>, Error> {
                Key::of(&self.to_string())
            }
        }
    )*};
}

by_display!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

#[cfg(feature = "uuid")]
by_display!(uuid::Uuid);

macro_rules! by_parts {
    ($(($($name:ident),+))*) => {$(
        impl<$($name: ToScope),+> ToScope for ($($name,)+) {
            fn to_scope(&self) -> Result<Scope, Error> {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                Scope::of_parts(&[$($name.to_scope()?.0),+])
            }
        }
    )*};
}

by_parts! { (A) (A, B) (A, B, C) (A, B, C, D) }

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(value: impl ToScope) -> String {
        value.to_scope().expect("a scope").as_str().to_owned()
    }

    #[test]
    fn r02_no_two_scopes_are_written_alike() {
        let texts = [
            scope("a"),
            scope(("a",)),
            scope(r#"["a"]"#),
            scope(("a", "b")),
            scope(r#"["a","b"]"#),
            scope(("a\",\"b",)),
            scope((("a", "b"), "c")),
            scope(("a", ("b", "c"))),
            scope(("a", "b", "c")),
            Scope::global().as_str().to_owned(),
        ];
        for (at, text) in texts.iter().enumerate() {
            assert!(!texts[..at].contains(text), "{text} stands for two scopes");
        }
    }

    #[test]
    fn r02_joining_the_parts_of_an_identity_makes_no_two_one() {
        let identity = |scope: &str, operation, key: &str| Identity {
            scope: Scope::of(scope).expect("a scope"),
            operation: Operation::new(operation),
            key: Key::of(key).expect("valid").expect("a key"),
        };
        assert_ne!(identity("a", "bc", "k").digest(), identity("ab", "c", "k").digest());
        assert_ne!(identity("a", "b", "k").digest(), identity("b", "a", "k").digest());
    }

    #[test]
    fn r02_a_key_is_not_shown() {
        let key = Key::of("secret-key").expect("valid").expect("a key");
        let shown = format!("{key:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn r03_an_empty_or_oversized_scope_is_refused() {
        for value in [String::new(), "x".repeat(256), "a\0b".to_owned()] {
            assert_eq!(value.to_scope().unwrap_err().kind(), Kind::ScopeInvalid);
        }
        assert_eq!(("t", "").to_scope().unwrap_err().kind(), Kind::ScopeInvalid);
        assert!("x".repeat(255).to_scope().is_ok());
    }

    #[test]
    fn a_blank_value_is_no_key_and_a_long_one_is_refused() {
        assert_eq!(" ".to_key().expect("valid"), None);
        assert_eq!(None::<String>.to_key().expect("valid"), None);
        assert_eq!("x".repeat(256).to_key().unwrap_err().kind(), Kind::KeyInvalid);
        assert_eq!(7_u64.to_key().expect("valid"), "7".to_key().expect("valid"));
    }
}
