//! The application's keyring as the command knows it: ids, and no key but the one of the index.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use idem_core::seal::{Binding, Keyring, Mark, Part, Seal, SealKey, Sealer};
use idem_core::{Error, Kind};

use crate::args::Options;
use crate::failure::Failure;

/// Stands for the keyring. No command shows content, so a sealed content only has to have a key that the application has:
/// what is "opened" is an empty reply.
#[derive(Clone)]
pub(crate) struct Keys {
    /// The ids that were named. If none was, the application is taken to have every key.
    ids: Vec<u32>,
    /// A keyring for its index.
    index: Option<Arc<Keyring>>,
    has_met_sealed: Arc<AtomicBool>,
}

impl Keys {
    pub(crate) fn of(options: &Options) -> Result<Self, Failure> {
        let index = options.index_key_file.as_deref().map(index).transpose()?;
        Ok(Self { ids: options.key_id.clone(), index: index.map(Arc::new), has_met_sealed: Arc::default() })
    }

    /// The mark of the index key.
    pub(crate) fn mark(&self) -> Option<Mark> {
        Sealer::new(self.clone()).mark()
    }

    /// Whether an answer rests on keys that nobody has named.
    pub(crate) fn are_assumed(&self) -> bool {
        self.ids.is_empty() && self.have_met_sealed()
    }

    /// Whether a content was sealed that a retry would read.
    pub(crate) fn have_met_sealed(&self) -> bool {
        self.has_met_sealed.load(Ordering::Relaxed)
    }
}

impl Seal for Keys {
    /// Nothing is sealed: see [`writes_plain`](Self::writes_plain).
    fn seal(&self, _: &Binding<'_>, _: &[u8]) -> Result<Vec<u8>, Error> {
        Err(Error::new(Kind::StoreFailed))
    }

    fn reads_plain(&self) -> bool {
        true
    }

    fn hmac(&self, text: &[u8]) -> Option<[u8; 32]> {
        self.index.as_ref()?.hmac(text)
    }

    /// The reason of `give-up` is all that a command writes.
    fn writes_plain(&self) -> bool {
        true
    }

    fn open(&self, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let unreadable = |why: &str| Error::new(Kind::RecordUnreadable).caused_by(why.to_owned());
        if binding.part == Part::Reason {
            return Err(unreadable("it would be shown"));
        }
        self.has_met_sealed.store(true, Ordering::Relaxed);
        let &[1, a, b, c, d, ..] = sealed else { return Err(unreadable("of another version")) };
        let id = u32::from_be_bytes([a, b, c, d]);
        if !self.ids.is_empty() && !self.ids.contains(&id) {
            return Err(unreadable("the keyring lacks its key"));
        }
        // The length of the headers, which are none.
        Ok(vec![0; 4])
    }
}

/// A keyring with the index key in this file. It seals nothing here.
fn index(path: &Path) -> Result<Keyring, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("the file of the index key cannot be read ({})", error.kind())))?;
    let key = SealKey::from_base64(&text)
        .map_err(|error| Failure::usage(format!("the file of the index key has no key: {error}")))?;
    Ok(Keyring::new(0, SealKey::from_bytes([0; 32])).index(key))
}
