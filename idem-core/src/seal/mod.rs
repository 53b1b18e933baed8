//! Encryption of what is stored.
//!
//! A store seals a content before it writes it, and opens it after it has read it. What is sealed is bound to its
//! place: [`Binding`]. The hashes of keys and the fingerprints are stored as HMACs, if there is an index key. The page [`encryption`](crate::docs::encryption) has what is sealed, what is not, and how keys are
//! rotated.

mod binding;
mod index;
#[cfg(feature = "seal")]
mod key;
#[cfg(feature = "seal")]
mod keyring;
mod sealer;

pub use binding::{Binding, Part};
pub use index::{Mark, OTHER_INDEX, other_index};
#[cfg(feature = "seal")]
pub use key::{KeyError, SealKey};
#[cfg(feature = "seal")]
pub use keyring::Keyring;
pub use sealer::Sealer;

use crate::error::Error;

/// Encrypts what a store writes.
///
/// `Keyring` (feature `seal`) is one. Implement this trait for a key service or for another cipher. A call must not
/// block for long, so keep the data keys of a key service in memory.
///
/// # What an implementer must guarantee
/// - **Authentic.** [`open`](Self::open) gives a content back only if it was sealed under one of the keys, for this
///   binding, and no bit has changed. Otherwise it fails.
/// - **Rotation.** What was sealed by an earlier key that is still needed can be opened, in every process.
pub trait Seal: Send + Sync + 'static {
    /// Seals a content. What it returns is stored, and has to say by which key it was sealed.
    ///
    /// # Errors
    /// The content is not stored then. A transaction is rolled back.
    fn seal(&self, binding: &Binding<'_>, content: &[u8]) -> Result<Vec<u8>, Error>;

    /// Whether a content that is not sealed is read, too: while records are in force that were written before
    /// encryption was switched on. Otherwise such a content is refused, since whoever can write into the tables could
    /// have put it there.
    fn reads_plain(&self) -> bool {
        false
    }

    /// The HMAC-SHA-256 of a text under the index key, or `None` if there is no index key.
    ///
    /// With an index key, the hash of each key and each fingerprint is stored as an HMAC, and a reader of the database
    /// cannot guess what they were made of. Any function will do whose values nobody can tell from random bytes without
    /// its key.
    ///
    /// It is `None` always or never, and a value never changes: of a request that is stored under another name, nobody knows that it has run. It is
    /// called twice for each request, so it must not wait for a service.
    fn hmac(&self, _text: &[u8]) -> Option<[u8; 32]> {
        None
    }

    /// Whether contents are written as they are. A tool of operators that has no key writes so. An application does not.
    fn writes_plain(&self) -> bool {
        false
    }

    /// Opens what was sealed.
    ///
    /// # Errors
    /// [`Kind::RecordUnreadable`](crate::Kind::RecordUnreadable) if the key is missing, or if the content was sealed
    /// for another binding or has changed. The request is refused and does not run again.
    fn open(&self, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<u8>, Error>;
}
