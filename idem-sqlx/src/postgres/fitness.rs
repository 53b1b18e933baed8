//! Whether a connection can do the work of the next transaction.

use super::error::is_unfit;

/// What the errors on a connection say about it (rule 18a).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    Fit,
    /// A statement failed by what belongs to the connection and outlives the transaction. The connection is closed after
    /// its rollback.
    Unfit,
    /// A statement got no answer in time. The connection is closed without another question.
    Silent,
}

impl Fitness {
    pub(super) fn note(&mut self, error: &sqlx::Error) {
        if *self == Self::Fit && is_unfit(error) {
            *self = Self::Unfit;
        }
    }
}
