//! A key of a keyring.

use std::fmt;

use base64ct::{Base64, Encoding};
use zeroize::{Zeroize, Zeroizing};

/// A key of 32 random bytes. Its bytes are overwritten when it is dropped, and are in no `Debug`.
///
/// ```
/// use idem_core::seal::SealKey;
///
/// let key = SealKey::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?;
/// assert_eq!(format!("{key:?}"), "SealKey(…)");
/// # Ok::<(), idem_core::seal::KeyError>(())
/// ```
///
/// Make one by `openssl rand -base64 32`. A password is no key.
#[derive(Clone)]
pub struct SealKey(pub(super) Zeroizing<[u8; 32]>);

impl SealKey {
    /// A key of these bytes.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// A key from the base64 of its 32 bytes, with padding. White space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`], and [`KeyError::WrongLength`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(Base64::decode_vec(text.trim()).map_err(|_| KeyError::NotBase64)?);
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::WrongLength(bytes.len()))?;
        Ok(Self::from_bytes(bytes))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is not base64 with padding.
    NotBase64,
    /// The key has another length than 32 bytes.
    WrongLength(usize),
    /// The keyring has two keys of this id.
    DuplicateId(u32),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBase64 => f.write_str("a key is the base64 of 32 bytes, with padding"),
            Self::WrongLength(length) => write!(f, "a key has 32 bytes, and this one has {length}"),
            Self::DuplicateId(id) => write!(f, "the keyring has two keys of the id {id}"),
        }
    }
}

impl std::error::Error for KeyError {}
