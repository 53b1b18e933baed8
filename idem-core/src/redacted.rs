//! What a `Debug` output shows in place of content.

use std::fmt;

/// Content of this many bytes. Nothing of a request, a reply, a key or a scope is shown (rule 34): people print what they
/// debug, and logs are kept, copied and read by others.
pub(crate) struct Redacted(pub(crate) usize);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// The beginning of a digest or of a token: enough to tell two in a log apart, and too little to find out which of a
/// thousand likely keys or bodies it stands for.
pub(crate) struct Beginning<'b>(pub(crate) &'b [u8]);

impl fmt::Debug for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(2).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}
