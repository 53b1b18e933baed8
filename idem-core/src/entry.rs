//! The entries of a leased run's journal.

use crate::record::Reply;

/// A row of a leased run's journal: a finished step, a call that was started, a rejection, or an undo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Entry {
    /// The place in the journal of the run: 0 is the first.
    pub position: u32,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The step's name. A rejection has none.
    pub name: String,
    /// The result of a finished step, or the reply of a rejection. If a rejection has none, its reply was over the
    /// limit.
    pub reply: Option<Reply>,
    /// In a rejection: the steps to undo, in the order in which they are undone.
    pub undoes: Vec<String>,
}

impl Entry {
    /// An entry without a reply.
    #[must_use]
    pub fn new(position: u32, kind: EntryKind, name: impl Into<String>) -> Self {
        Self { position, kind, name: name.into(), reply: None, undoes: Vec::new() }
    }

    /// The same entry with a reply.
    #[must_use]
    pub fn with_reply(self, reply: Reply) -> Self {
        Self { reply: Some(reply), ..self }
    }

    /// The same entry with the steps to undo.
    #[must_use]
    pub fn with_undoes(self, undoes: Vec<String>) -> Self {
        Self { undoes, ..self }
    }
}

/// The kind of an entry. A later release may add numbers, and never gives a number another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryKind(pub i16);

impl EntryKind {
    /// A transaction in the store's database is finished.
    pub const TRANSACTION: Self = Self(1);

    /// A call of the outside world is finished.
    pub const CALL: Self = Self(2);

    /// The run is rejected, with its reply and the steps to undo. Only undos follow this entry.
    pub const REJECTION: Self = Self(3);

    /// A step is undone.
    pub const UNDO: Self = Self(4);

    /// The input that the run was begun with. It is no step.
    pub const INPUT: Self = Self(5);

    /// A call was started, and its answer is not recorded. The finished call replaces this entry.
    pub const CALL_STARTED: Self = Self(6);
}
