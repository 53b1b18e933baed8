//! The place that a sealed content is bound to.

use sha2::{Digest, Sha256};

/// The place that a sealed content is bound to: moved to any other place, it cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding<'a> {
    /// The scope of the record.
    pub scope: &'a str,
    /// The operation of the record.
    pub operation: &'a str,
    /// The hash of the record's key, as it is stored.
    pub key_hash: &'a [u8],
    /// The part of the record.
    pub part: Part<'a>,
}

/// A part of a record that is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part<'a> {
    /// The reply or the final error. Its format and its status are not sealed, but bound.
    Reply {
        /// The format of the content.
        format: i16,
        /// The HTTP status.
        status: Option<u16>,
    },
    /// The result of a step, or the reply of a rejection.
    Entry {
        /// The place in the journal.
        position: u32,
        /// The kind of the entry.
        kind: i16,
        /// The step's name.
        name: &'a str,
        /// The format of the content.
        format: i16,
        /// The HTTP status.
        status: Option<u16>,
    },
    /// The recorded input.
    Input,
    /// The reason for which an operator has given a run up.
    Reason,
}

impl<'a> Binding<'a> {
    /// A binding to this part of a record.
    #[must_use]
    pub fn new(scope: &'a str, operation: &'a str, key_hash: &'a [u8], part: Part<'a>) -> Self {
        Self { scope, operation, key_hash, part }
    }

    /// A digest of the whole place: its kind, what has a fixed length, and each text with its length. It is what a cipher
    /// authenticates beside the content.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(b"idem binding 1");
        let name = match self.part {
            Part::Reply { format, status } => {
                digest.update(b"r");
                digest.update(written(format, status));
                ""
            }
            Part::Entry { position, kind, name, format, status } => {
                digest.update(b"e");
                digest.update(position.to_be_bytes());
                digest.update(kind.to_be_bytes());
                digest.update(written(format, status));
                name
            }
            Part::Input => {
                digest.update(b"i");
                ""
            }
            Part::Reason => {
                digest.update(b"g");
                ""
            }
        };
        for text in [self.scope.as_bytes(), self.operation.as_bytes(), self.key_hash, name.as_bytes()] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }
}

fn written(format: i16, status: Option<u16>) -> [u8; 6] {
    let [a, b] = format.to_be_bytes();
    let [c, d, e, f] = status.map_or(-1, i32::from).to_be_bytes();
    [a, b, c, d, e, f]
}

/// Without the scope and the key: neither is in a log.
impl std::fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding").field("operation", &self.operation).field("part", &self.part).finish_non_exhaustive()
    }
}
