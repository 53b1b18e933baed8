//! The secret of a hint: the names of its entries, and the tags that prove them.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::redacted::Beginning;

/// What names and tags are made with, by HMAC-SHA-256.
///
/// A name tells nothing of its identity to one who does not have the secret. A value that was made without it, or for
/// another identity or fingerprint, is a miss.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl Secret {
    /// The shortest secret, in bytes.
    pub const MIN_LEN: usize = 32;

    /// The secret that the processes share.
    ///
    /// ```
    /// use idem_core::hint::Secret;
    ///
    /// let secret = Secret::new("A7rJ0Y3mUo5pQe8sVn1xT4zK6cW9fB2h")?;
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::DeploymentBroken`] if it is shorter than [`MIN_LEN`](Self::MIN_LEN).
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        let secret = secret.as_ref();
        if secret.len() < Self::MIN_LEN {
            return Err(Error::new(Kind::DeploymentBroken).because("the secret of a hint has 32 bytes at least"));
        }
        Ok(Self::of(secret))
    }

    /// A secret that only this process has, or `None` if the system provides no randomness.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self::of(&bytes))
    }

    pub(super) fn of(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// The name of the entry of the identity with this [digest](crate::Identity::digest).
    #[must_use]
    pub fn name(&self, identity: &[u8; 32]) -> Name {
        Name(self.code(&[b"name", identity]))
    }

    /// The tag of the entry that has this name and content and answers this fingerprint.
    pub(super) fn tag(&self, name: &Name, fingerprint: &Fingerprint, content: &[u8]) -> [u8; 32] {
        self.code(&[b"entry", &name.0, fingerprint.as_bytes(), content])
    }

    /// Whether it is that tag, in the same time whatever it is.
    pub(super) fn is_tag(&self, tag: &[u8], name: &Name, fingerprint: &Fingerprint, content: &[u8]) -> bool {
        let code = self.fed(&[b"entry", &name.0, fingerprint.as_bytes(), content]);
        code.verify_slice(tag).is_ok()
    }

    fn code(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.fed(parts).finalize().into_bytes().into()
    }

    /// Each part has its length before it: no joining of parts makes two lists equal.
    fn fed(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        for part in parts {
            code.update(&(part.len() as u64).to_be_bytes());
            code.update(part);
        }
        code
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// The name of an entry: the identity, under the secret of the hint.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; 32]);

impl Name {
    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&Beginning(&self.0)).finish()
    }
}
