//! The hashes of keys and the fingerprints as a store has them, where whoever reads the store must not guess them.

use super::Seal;
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::identity::{Identity, Key};

/// What the fingerprints of one index key begin with: by it a database tells whether a claim is made under the index key
/// that its records have.
///
/// Two processes with different index keys have different names for one request, so each of them would run it. A store
/// therefore lets its database refuse claims with another mark than the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark([u8; Self::LEN]);

impl Mark {
    /// The length in bytes: the version of a fingerprint that is an HMAC, and four bytes that tell index keys apart.
    pub const LEN: usize = 5;

    /// The first byte of each mark. Of a fingerprint that is no HMAC it is the version of its rules, which stays lower.
    pub const INDEXED: u8 = 0x81;

    fn of(seal: &dyn Seal) -> Option<Self> {
        let [a, b, c, d, ..] = seal.hmac(b"idem mark 1")?;
        Some(Self([Self::INDEXED, a, b, c, d]))
    }

    /// The mark with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        <[u8; Self::LEN]>::try_from(bytes).ok().filter(|bytes| bytes[0] == Self::INDEXED).map(Self)
    }

    /// The mark with this id, which is eight hexadecimal digits.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        let bytes = u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 8)?.to_be_bytes();
        let [a, b, c, d] = bytes;
        Some(Self([Self::INDEXED, a, b, c, d]))
    }

    /// The id: what tells this mark from others, as an operator sees it. It says nothing about the key.
    #[must_use]
    pub fn id(&self) -> String {
        self.0[1..].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// What to do about a claim under another index key than that of the records.
pub const OTHER_INDEX: &str = "the keys in this database are named under another index key than this process has, or one \
                               of the two has none: give every process the same index key, and call `migrate()` before \
                               the first request";

/// The refusal of such a claim.
#[must_use]
pub fn other_index() -> Error {
    Error::new(Kind::DeploymentBroken).because(OTHER_INDEX)
}

/// An index: what a [`Seal`] makes of keys and fingerprints.
#[derive(Clone, Copy)]
pub(super) struct Index<'s> {
    seal: &'s dyn Seal,
    mark: Mark,
}

impl<'s> Index<'s> {
    /// The mark of the index, if there is an index key. It is made once for a store.
    pub(super) fn mark(seal: &dyn Seal) -> Option<Mark> {
        Mark::of(seal)
    }

    pub(super) fn new(seal: &'s dyn Seal, mark: Mark) -> Self {
        Self { seal, mark }
    }

    /// The identity as it is stored. An identity that was read from a record stays as it is.
    ///
    /// The HMAC is of the whole identity, so that one key of two users is stored as two hashes.
    pub(super) fn identity(self, identity: &Identity) -> Option<Identity> {
        if identity.key.is_stored() {
            return None;
        }
        let hash = self.seal.hmac(&[b"idem key 1".as_slice(), &identity.digest()].concat())?;
        let Identity { scope, operation, key } = identity;
        Some(Identity { scope: scope.clone(), operation: *operation, key: key.stored_as(hash) })
    }

    /// The fingerprint as it is stored beside a stored key.
    pub(super) fn fingerprint(self, key: &Key, fingerprint: Fingerprint) -> Option<Fingerprint> {
        if fingerprint.is_indexed() {
            return None;
        }
        let text = [b"idem fingerprint 1".as_slice(), key.hash(), fingerprint.as_bytes()].concat();
        Some(Fingerprint::indexed(self.mark, &self.seal.hmac(&text)?))
    }
}
