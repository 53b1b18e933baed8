//! The hashes of keys and the fingerprints as a store has them, where a reader of the store must not guess them.

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
        // The number alone could have a sign.
        let is_id = id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        let [a, b, c, d] = u32::from_str_radix(id, 16).ok().filter(|_| is_id)?.to_be_bytes();
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
        // Without a name of the index it stays plain, and the database refuses the claim.
        if fingerprint.is_indexed() || !key.is_stored() {
            return None;
        }
        let text = [b"idem fingerprint 1".as_slice(), key.hash(), fingerprint.as_bytes()].concat();
        Some(Fingerprint::indexed(self.mark, &self.seal.hmac(&text)?))
    }
}

#[cfg(all(test, feature = "seal"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{Input, Request};
    use crate::seal::{Keyring, SealKey, Sealer};

    fn sealer(index: u8) -> Sealer {
        let ring = Keyring::new(1, SealKey::from_bytes([1; 32]));
        Sealer::new(ring.index(SealKey::from_bytes([index; 32])))
    }

    fn request(scope: &str, operation: &'static str, key: &str, asked: u8) -> Request {
        let identity = Identity::new(scope, operation, key).expect("an identity");
        let fingerprint = Fingerprint::of_value(&asked).expect("a value");
        Request::new(identity, fingerprint, Duration::from_secs(60)).expect("a ttl")
    }

    fn stored(sealer: &Sealer, request: &Request) -> ([u8; 32], Fingerprint) {
        let stored = sealer.request(request).expect("sealed");
        (*stored.identity.key.hash(), stored.fingerprint)
    }

    #[test]
    fn r35_a_name_depends_on_the_whole_identity_and_on_the_index_key() {
        let requests = [
            request("u1", "pay", "k", 1),
            request("u2", "pay", "k", 1),
            request("u1", "refund", "k", 1),
            request("u1", "pay", "l", 1),
        ];
        let mut names = Vec::new();
        for sealer in [sealer(7), sealer(8)] {
            names.extend(requests.iter().map(|request| stored(&sealer, request)));
        }
        names.push((*requests[0].identity.key.hash(), requests[0].fingerprint));
        for (at, (hash, fingerprint)) in names.iter().enumerate() {
            for (other, asked) in &names[..at] {
                assert!(hash != other && fingerprint != asked, "{at}");
            }
        }
        // The same name, and another request.
        let (one, two) =
            (stored(&sealer(7), &request("u1", "pay", "k", 1)), stored(&sealer(7), &request("u1", "pay", "k", 2)));
        assert!(one.0 == two.0 && one.1 != two.1);
    }

    #[test]
    fn r35_what_is_stored_is_named_once() {
        let asked = request("u1", "pay", "k", 1).with_input(Input("{}".into()));
        let stored = sealer(7).request(&asked).expect("sealed").into_owned();
        let again = sealer(7).request(&stored).expect("sealed").into_owned();
        assert_eq!((&stored.identity, stored.fingerprint), (&again.identity, again.fingerprint));
        assert_eq!(Fingerprint::from_bytes(stored.fingerprint.as_bytes()), Some(stored.fingerprint));
        // A key that was read from a recorded input is as its caller sent it.
        let json = serde_json::to_string(&asked.identity.key).expect("JSON");
        let read = Identity { key: serde_json::from_str(&json).expect("a key"), ..asked.identity.clone() };
        assert_eq!(sealer(7).identity(&read).key, stored.identity.key);
    }

    #[test]
    fn r35_a_mark_is_read_back_and_tells_nothing_of_the_key() {
        let mark = sealer(7).mark().expect("an index key");
        assert_eq!(Mark::from_id(&mark.id()), Some(mark));
        assert_eq!(Mark::from_bytes(mark.as_bytes()), Some(mark));
        assert_ne!(Some(mark), sealer(8).mark());
        assert_eq!(Sealer::new(Keyring::new(1, SealKey::from_bytes([7; 32]))).mark(), None);
        for no_id in ["", "none", "0707070", "070707070", "0x070707", "+7070707"] {
            assert_eq!(Mark::from_id(no_id), None, "{no_id}");
        }
    }

    /// Pinned: a release that named records otherwise would run each request again.
    #[test]
    fn r35_names_never_change() {
        let (hash, fingerprint) = stored(&sealer(7), &request("u1", "pay", "k", 1));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&hash), "3708172250b2339d7628e8f0a21bc1f06826ed697c6c6fdf3ba060999b00e6ae");
        assert_eq!(hex(fingerprint.as_bytes()), "812c4242576cd68264cbb0d45a5959c0e253e66aa5bb869fcc5585fffb25a84c77");
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn r35_the_store_in_memory_refuses_another_index() {
        use crate::memory::{MemoryStore, MemoryTx};
        use crate::record::Outcome;
        use crate::store::{Claimed, Context};

        let keyring = |index: Option<u8>| {
            let ring = Keyring::new(1, SealKey::from_bytes([1; 32]));
            match index {
                Some(byte) => ring.index(SealKey::from_bytes([byte; 32])),
                None => ring,
            }
        };
        let indexes = [None, Some(7), Some(8)];
        for first in indexes {
            let shared = MemoryStore::new(0);
            let of = |index| shared.clone().sealed_by(keyring(index));
            let Ok(Claimed::Run(tx)) = MemoryTx::claim(&of(first), &request("u1", "pay", "k", 1)).await else {
                panic!("it runs");
            };
            tx.complete(&Outcome::Oversized).await.expect("completed");
            for other in indexes.into_iter().filter(|other| *other != first) {
                let refused = MemoryTx::claim(&of(other), &request("u1", "pay", "k", 1)).await;
                assert_eq!(refused.expect_err("another index").kind(), Kind::DeploymentBroken, "{first:?} {other:?}");
            }
        }
    }
}
