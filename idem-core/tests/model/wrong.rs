//! The ways in which the model is wrong on purpose, each of which must be found out.

use crate::leased::Action;
use crate::store::Guard;

/// What is wrong with the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The updates ask whether the record is leased, and not by whom.
    NoTokenCheck,
    /// A client claims by its own clock.
    ApplicationClock,
    /// A release ends the lease of whoever holds it.
    ReleaseWithoutToken,
    /// The completion is written to whatever is there.
    FinishUnguarded,
    /// All requests have the same fingerprint.
    NoFingerprint,
    /// The undos begin before a rejection is recorded, and none is.
    RejectionNotRecorded,
    /// A rejection is recorded in the run of whoever holds the lease.
    RejectionWithoutToken,
    /// A record that is rejected expires like any other.
    RejectionExpires,
    /// Whoever goes on does not look whether the run was rejected: its own success counts, too.
    RejectionNotRead,
    /// Whoever goes on with a rejection completes it with its own reply.
    OwnReply,
    /// A call is made without a record.
    CallNotRecorded,
    /// Whoever goes on does not look whether the call was made.
    CallNotRead,
    /// A run is completed whatever its journal says.
    JournalNotAsked,
    /// A client does not wait for the time of its attempt.
    NotSpaced,
    /// A release leaves the claim in the record, so that a decision from before can still be carried out.
    ReleaseKeepsClaim,
    /// A release ends the lease and does not say that the attempt was released.
    ReleaseNotNoted,
    /// An undo is recorded in the run of whoever holds the lease.
    UndoWithoutToken,
}

impl Wrong {
    /// What the updates of this action ask, in a run that is on its way back or not.
    pub(crate) fn guard(self, action: Action, is_back: bool) -> Guard {
        match (self, action) {
            (Self::NoTokenCheck, _)
            | (Self::ReleaseWithoutToken, Action::Release(_))
            | (Self::RejectionWithoutToken, Action::Reject(_)) => Guard::Leased,
            (Self::UndoWithoutToken, Action::Keep(_)) if is_back => Guard::Leased,
            (Self::FinishUnguarded, Action::Finish(_)) => Guard::Nothing,
            _ => Guard::Claim,
        }
    }
}
