//! Keys that seal and open.

use std::fmt;

use aes_gcm_siv::aead::{Aead, AeadInOut, Payload};
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key::{KeyError, SealKey};
use super::{Binding, Seal};
use crate::error::{Error, Kind};

/// Keys by their ids: one seals, and all open.
///
/// ```
/// use idem_core::seal::{Keyring, SealKey};
///
/// let new = SealKey::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?;
/// let old = SealKey::from_base64("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=")?;
/// let index = SealKey::from_base64("QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=")?;
/// let keyring = Keyring::new(2, new).reads(1, old)?.index(index);
/// # Ok::<(), idem_core::seal::KeyError>(())
/// ```
///
/// # Rules
/// - The cipher is AES-256-GCM-SIV. Each content is sealed by a key of its own, which HKDF-SHA-256 derives from the key
///   of the keyring, the [binding](Binding) of the content and 16 random bytes.
/// - An id names a key for ever. It is stored in clear with what the key has sealed.
/// - The index key is another key than those that seal, and it is never rotated: see [`index`](Self::index).
/// - The page [`encryption`](crate::docs::encryption) has the rotation, step by step.
pub struct Keyring {
    writes: u32,
    keys: Vec<(u32, Secret)>,
    reads_plain: bool,
    index: Option<Hmac<Sha256>>,
}

/// The first byte of what is sealed. A later release may add numbers, and never gives a number another meaning. No
/// recorded input starts with this byte, because an input is JSON.
pub(super) const VERSION: u8 = 1;

/// The version, the id of the key, and the random bytes.
const HEAD: usize = 1 + 4 + RANDOM;
const RANDOM: usize = 16;

/// The digest of the place.
const PLACE: usize = 32;

impl Keyring {
    /// A keyring whose only key seals and opens.
    #[must_use]
    pub fn new(id: u32, key: SealKey) -> Self {
        Self { writes: id, keys: vec![(id, Secret::of(&key))], reads_plain: false, index: None }
    }

    /// The same keyring with another key, which only opens.
    ///
    /// # Errors
    /// [`KeyError::DuplicateId`].
    pub fn reads(mut self, id: u32, key: SealKey) -> Result<Self, KeyError> {
        if self.key(id).is_some() {
            return Err(KeyError::DuplicateId(id));
        }
        self.keys.push((id, Secret::of(&key)));
        Ok(self)
    }

    /// The same keyring, and contents that are not sealed are read, too. Say so while encryption is switched on, until
    /// the records that were written before have expired.
    #[must_use]
    pub fn reads_plain(mut self) -> Self {
        self.reads_plain = true;
        self
    }

    /// The same keyring with an index key: the hash of each key and each fingerprint is stored as an HMAC-SHA-256 under
    /// it. Otherwise a reader of the database can confirm a guess, such as that a key is `order-17`.
    ///
    /// # Rules
    /// - The index key never changes, and all processes have it from the first request on. A store's `migrate` notes its
    ///   mark in the database, which refuses the claims of a process with another index key or none, as
    ///   [`Kind::DeploymentBroken`].
    /// - It is made like any other [`SealKey`], and is no key that seals.
    #[must_use]
    pub fn index(mut self, key: SealKey) -> Self {
        self.index = Some(Hmac::new_from_slice(key.0.as_slice()).expect("a key of any length"));
        self
    }

    fn key(&self, id: u32) -> Option<&Secret> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key)
    }
}

impl Seal for Keyring {
    fn seal(&self, binding: &Binding<'_>, content: &[u8]) -> Result<Vec<u8>, Error> {
        let key = self.key(self.writes).ok_or_else(|| Error::new(Kind::StoreFailed))?;
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(Kind::StoreUnavailable).caused_by(error.to_string()))?;
        let mut sealed = Vec::with_capacity(HEAD + content.len() + 16);
        sealed.push(VERSION);
        sealed.extend(self.writes.to_be_bytes());
        sealed.extend(random);
        let bound = bound(binding, sealed.as_slice().try_into().expect("a whole head"));
        let (cipher, nonce) = key.cipher(&random, &bound);
        sealed.extend(content);
        let text = sealed[HEAD..].as_mut();
        let tag =
            cipher.encrypt_inout_detached(&nonce, &bound, text.into()).map_err(|_| Error::new(Kind::StoreFailed))?;
        sealed.extend(tag);
        Ok(sealed)
    }

    fn reads_plain(&self) -> bool {
        self.reads_plain
    }

    fn hmac(&self, text: &[u8]) -> Option<[u8; 32]> {
        let mut hmac = self.index.clone()?;
        hmac.update(text);
        Some(hmac.finalize().into_bytes().into())
    }

    fn open(&self, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let unreadable = |why: String| Error::new(Kind::RecordUnreadable).caused_by(why);
        let Some((head, text)) = sealed.split_first_chunk::<HEAD>() else {
            return Err(unreadable("what is sealed is cut off".to_owned()));
        };
        let &[version, a, b, c, d, ref random @ ..] = head;
        if version != VERSION {
            return Err(unreadable(format!("what is sealed has the version {version}")));
        }
        let id = u32::from_be_bytes([a, b, c, d]);
        let key = self.key(id).ok_or_else(|| unreadable(format!("the keyring has no key of the id {id}")))?;
        let bound = bound(binding, head);
        let (cipher, nonce) = key.cipher(random, &bound);
        let payload = Payload { msg: text, aad: &bound };
        cipher.decrypt(&nonce, payload).map_err(|_| unreadable(format!("the key of the id {id} does not open it")))
    }
}

/// What is authenticated beside the content: its place, and the head.
fn bound(binding: &Binding<'_>, head: &[u8; HEAD]) -> [u8; PLACE + HEAD] {
    let mut bound = [0; PLACE + HEAD];
    bound[..PLACE].copy_from_slice(&binding.digest());
    bound[PLACE..].copy_from_slice(head);
    bound
}

/// The pseudorandom key of RFC 5869, extracted once from a key of the keyring. The keys of contents are expanded from it.
struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    fn of(key: &SealKey) -> Self {
        // The key is random, so the salt need not be. It tells this use of the key from any other.
        let (secret, _) = Hkdf::<Sha256>::extract(Some(b"idem seal 1"), key.0.as_slice());
        Self(Zeroizing::new(secret.into()))
    }

    /// The cipher and the nonce of one content. No two contents share a key, so the nonce need not be a secret: it is a
    /// part of what the key is expanded from.
    fn cipher(&self, random: &[u8; RANDOM], bound: &[u8; PLACE + HEAD]) -> (Aes256GcmSiv, Nonce) {
        let hkdf = Hkdf::<Sha256>::from_prk(self.0.as_slice()).expect("32 bytes are enough");
        let mut derived = Zeroizing::new([0; 32]);
        // With its counter it fills one block of SHA-256. The rest of the head is authenticated with the content.
        let info = [&bound[..PLACE], random];
        hkdf.expand_multi_info(&info, derived.as_mut_slice()).expect("32 bytes are few enough");
        let cipher = Aes256GcmSiv::new_from_slice(derived.as_slice()).expect("a key has 32 bytes");
        let mut nonce = Nonce::default();
        nonce.copy_from_slice(&random[..12]);
        (cipher, nonce)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u32> = self.keys.iter().map(|(id, _)| *id).collect();
        f.debug_struct("Keyring")
            .field("writes", &self.writes)
            .field("ids", &ids)
            .field("has_index", &self.index.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Part;

    const KEY: [u8; 32] = [7; 32];

    fn ring() -> Keyring {
        Keyring::new(1, SealKey::from_bytes(KEY))
    }

    fn reply<'a>(scope: &'a str) -> Binding<'a> {
        Binding::new(scope, "pay", &[3; 32], Part::Reply { format: 1, status: Some(201) })
    }

    #[test]
    fn r35_a_content_is_opened_at_its_own_place_only() {
        let sealed = ring().seal(&reply("u1"), b"secret").expect("sealed");
        assert_eq!(ring().open(&reply("u1"), &sealed).expect("opened"), b"secret");
        let entry = |position, name| Part::Entry { position, kind: 1, name, format: 1, status: Some(201) };
        let other = [
            reply("u2"),
            Binding { operation: "refund", ..reply("u1") },
            Binding { operation: "ay", ..reply("u1p") },
            Binding { key_hash: &[4; 32], ..reply("u1") },
            Binding { part: Part::Reply { format: 2, status: Some(201) }, ..reply("u1") },
            Binding { part: Part::Reply { format: 1, status: None }, ..reply("u1") },
            Binding { part: entry(0, "a"), ..reply("u1") },
            Binding { part: entry(1, "a"), ..reply("u1") },
            Binding { part: entry(0, "b"), ..reply("u1") },
            Binding { part: Part::Input, ..reply("u1") },
            Binding { part: Part::Reason, ..reply("u1") },
        ];
        for binding in other {
            assert_eq!(ring().open(&binding, &sealed).unwrap_err().kind(), Kind::RecordUnreadable, "{binding:?}");
        }
        for (at, binding) in other.iter().enumerate() {
            assert!(other[..at].iter().all(|earlier| earlier.digest() != binding.digest()), "{binding:?}");
        }
    }

    #[test]
    fn r35_a_changed_bit_is_found_wherever_it_is() {
        let sealed = ring().seal(&reply("u1"), b"secret").expect("sealed");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring().open(&reply("u1"), &changed).unwrap_err().kind(), Kind::RecordUnreadable, "{bit}");
        }
        for length in 0..sealed.len() {
            assert!(ring().open(&reply("u1"), &sealed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn r35_a_rotated_keyring_opens_what_the_old_key_has_sealed_until_that_key_is_dropped() {
        let new = || SealKey::from_bytes([8; 32]);
        let before = ring().seal(&reply("u1"), b"old").expect("sealed");
        let both = Keyring::new(2, new()).reads(1, SealKey::from_bytes(KEY)).expect("two ids");
        let after = both.seal(&reply("u1"), b"new").expect("sealed");
        assert_eq!(both.open(&reply("u1"), &before).expect("opened"), b"old");
        assert_eq!(both.open(&reply("u1"), &after).expect("opened"), b"new");
        // A process that has learnt to read the new key, and does not write by it yet.
        let early = ring().reads(2, new()).expect("two ids");
        assert_eq!(early.open(&reply("u1"), &after).expect("opened"), b"new");
        let dropped = Keyring::new(2, new());
        assert_eq!(dropped.open(&reply("u1"), &before).unwrap_err().kind(), Kind::RecordUnreadable);
        let wrong = Keyring::new(1, new());
        assert_eq!(wrong.open(&reply("u1"), &before).unwrap_err().kind(), Kind::RecordUnreadable);
        assert_eq!(both.reads(2, new()).unwrap_err(), KeyError::DuplicateId(2));
    }

    #[test]
    fn r35_no_key_is_shown_and_no_content_is_sealed_alike_twice() {
        let shown = format!("{:?} {:?}", ring(), SealKey::from_bytes(KEY));
        assert!(!shown.contains("7, 7") && !shown.contains("0707"), "{shown}");
        let seal = || ring().seal(&reply("u1"), b"secret").expect("sealed");
        assert_ne!(seal()[HEAD..], seal()[HEAD..]);
    }

    #[test]
    fn r35_a_key_that_is_none_is_refused_with_the_reason() {
        assert_eq!(SealKey::from_base64("!").unwrap_err(), KeyError::NotBase64);
        assert_eq!(SealKey::from_base64("AAEC").unwrap_err(), KeyError::WrongLength(3));
    }

    /// Pinned: a release that derives another key could open no record of the release before.
    #[test]
    fn r35_what_version_1_has_sealed_is_opened() {
        let hex = PINNED.as_bytes().chunks(2);
        let sealed: Vec<u8> =
            hex.map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("ASCII"), 16).expect("hex")).collect();
        assert_eq!(ring().open(&reply("u1"), &sealed).expect("opened"), b"pinned");
    }

    const PINNED: &str = "010000000135eab4debd73048bfed7feefbee7a64f4f1cd362698e80a3bbec697faa1fb64f2a60411bc4a2";
}
