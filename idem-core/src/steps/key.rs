//! The keys of foreign calls.

use std::fmt;

use sha2::{Digest, Sha256};

/// A key for a foreign call: the same on every attempt, and different for every other step, operation, scope and key.
///
/// It has 64 hexadecimal digits: the SHA-256 of the identity, the fingerprint and the step's name, each with its
/// length. The fingerprint stays the same over all attempts. After the record has expired the client may use its key
/// for another request: the fingerprint keeps the other side from taking that for the first request.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StepKey(String);

impl StepKey {
    pub(super) fn of(seed: &[u8], name: &str) -> Self {
        Self::named(b"idem step 1", seed, name)
    }

    /// The key for undoing the step of this name.
    pub(super) fn of_undo(seed: &[u8], name: &str) -> Self {
        Self::named(b"idem undo 1", seed, name)
    }

    fn named(what: &[u8], seed: &[u8], name: &str) -> Self {
        let digest = digest([what, seed, name.as_bytes()]);
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The key to send with the call.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With the key, a call to the other side is taken for ours.
        f.write_str("StepKey(…)")
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of the parts, each with its length.
pub(super) fn digest<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r27_a_key_is_its_step_and_its_identity() {
        let key = StepKey::of(&[1; 32], "charge");
        assert_eq!(key, StepKey::of(&[1; 32], "charge"));
        assert_ne!(key, StepKey::of(&[1; 32], "charge2"));
        assert_ne!(key, StepKey::of(&[2; 32], "charge"));
        assert_ne!(key, StepKey::of_undo(&[1; 32], "charge"));
        assert_eq!(key.as_str().len(), 64);
        assert!(key.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
        // Every later release must derive the same keys, since providers have stored results under them.
        assert_eq!(key.as_str(), "26bbf2986eb109ba534cdf0fa6173cb972cdb5ffd4ee458ff299f2b9746c32ea");
    }
}
