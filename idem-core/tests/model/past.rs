//! What no store knows: what has become of the record so far, whatever its rows say, and what must never happen to it.

use std::collections::BTreeSet;

use idem_core::store::{Claim, Reply, Timestamp};

use crate::store::{CALL, Ending, STEPS, after};

/// What has become of the record since it was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// Which of the model's requests began it.
    pub(crate) asked: usize,
    /// How many attempts were begun behind the first one.
    again: u32,
    /// How many attempts were released.
    released: u32,
    /// When, if nothing has begun since.
    released_at: Option<Timestamp>,
    finished: [bool; STEPS],
    /// Whether the call was made, and is not finished.
    made: bool,
    /// Whose rejection was recorded first.
    rejected: Option<Claim>,
    undone: [bool; STEPS],
    /// How it was completed, in this order.
    completed: Vec<Ending>,
    /// Of all records.
    broken: BTreeSet<Broken>,
}

/// What happened and must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Broken {
    /// A record was completed that was completed.
    CompletedAgain,
    /// An update changed something by a claim that the record was not held by.
    StaleChange,
    /// A step was entered that was finished.
    Reentered,
    /// A step was entered although a rejection was recorded.
    EnteredBehindRejection,
    /// A record was completed by success, by a run that has not passed a finished step.
    StepLeftOut,
    /// A record was completed by success over a call that was made, by a run that has no answer to it.
    CompletedOverCall,
    /// A step was undone that was undone, or its undo was entered.
    UndoneAgain,
    /// A step was undone, or its undo was entered, before a later one was undone, or before it was finished itself.
    UndoneOutOfOrder,
    /// A record was completed by a rejection of which a finished step was not undone.
    NotUndone,
    /// A record was completed by success of which a step was undone.
    UndoneSuccess,
    /// A record was completed otherwise than by the rejection that was recorded.
    OtherEnding,
    /// A rejection was recorded over a call that was made, by a run that has no answer to it.
    RejectedOverCall,
    /// A record was removed or replaced of which something was to be undone.
    RejectionForgotten,
    /// A lease was taken over that was live.
    LiveLeaseTaken,
    /// A record was replaced that counts.
    LiveRecordReplaced,
    /// A request that asked for something else took a run over, or got its reply.
    OtherBodyServed,
    /// An attempt was begun at once behind two that were released.
    BegunTooSoon,
    /// A run was refused as used up of which too few attempts have ended without a word.
    UsedUpByReleases,
    /// A reply was given that is not the committed one, or counts no more.
    OtherReply,
}

impl Past {
    /// Another record begins.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self { broken: std::mem::take(&mut self.broken), ..Self::default() };
    }

    /// The record is removed, or another takes its place.
    pub(crate) fn forget(&mut self) {
        self.note(Broken::RejectionForgotten, self.rejected.is_some() && self.completed.is_empty());
    }

    pub(crate) fn has(&self, broken: Broken) -> bool {
        self.broken.contains(&broken)
    }

    /// Notes that it happened, if it did.
    pub(crate) fn note(&mut self, broken: Broken, happened: bool) {
        if happened {
            self.broken.insert(broken);
        }
    }

    /// Another attempt takes the run over, in a transaction that began then.
    pub(crate) fn begin_attempt(&mut self, began: Timestamp) {
        let is_too_soon = self.released_at.is_some_and(|at| self.released >= 2 && began < after(at, 1));
        self.note(Broken::BegunTooSoon, is_too_soon);
        self.again += 1;
        self.released_at = None;
    }

    /// The attempt that holds the lease says that it has ended.
    pub(crate) fn release(&mut self, now: Timestamp) {
        self.released += 1;
        self.released_at = Some(now);
    }

    /// A client is told that as many attempts as there may be have ended without a word.
    pub(crate) fn use_up(&mut self, attempts: u32) {
        self.note(Broken::UsedUpByReleases, (1 + self.again).saturating_sub(self.released) < attempts);
    }

    /// A step's body begins.
    pub(crate) fn enter(&mut self, step: usize) {
        self.note(Broken::Reentered, self.finished[step]);
        self.note(Broken::EnteredBehindRejection, self.rejected.is_some());
        self.made |= step == CALL;
    }

    pub(crate) fn finish(&mut self, step: usize) {
        self.finished[step] = true;
        self.made &= step != CALL;
    }

    /// A rejection is recorded. Only the first one counts.
    pub(crate) fn reject(&mut self, by: Claim, heard: bool) {
        self.note(Broken::RejectedOverCall, self.made && !heard && self.rejected.is_none());
        self.rejected.get_or_insert(by);
    }

    /// The body of a step's undo begins: of a call's, it has its effect.
    pub(crate) fn enter_undo(&mut self, step: usize) {
        let is_left = |later: usize| self.finished[later] && !self.undone[later];
        let is_out_of_order = !self.finished[step] || (step + 1..STEPS).any(is_left);
        self.note(Broken::UndoneOutOfOrder, is_out_of_order);
        self.note(Broken::UndoneAgain, self.undone[step]);
    }

    /// A step's undo is recorded: of a transaction's, it has its effect.
    pub(crate) fn undo(&mut self, step: usize) {
        self.enter_undo(step);
        self.undone[step] = true;
    }

    pub(crate) fn complete(&mut self, ending: Ending, passed: usize, heard: bool) {
        self.note(Broken::CompletedAgain, !self.completed.is_empty());
        self.note(Broken::OtherEnding, self.rejected.is_some_and(|by| ending != Ending::Rejection(by)));
        match ending {
            Ending::Success(_) => {
                self.note(Broken::StepLeftOut, self.finished[passed..].contains(&true));
                self.note(Broken::CompletedOverCall, self.made && !heard);
                self.note(Broken::UndoneSuccess, self.undone.contains(&true));
            }
            Ending::Rejection(_) => self.note(Broken::NotUndone, self.undone != self.finished),
        }
        self.completed.push(ending);
        // Nothing is begun any more. Forgotten, they make no states of their own.
        (self.again, self.released, self.released_at) = (0, 0, None);
    }

    /// A client gets this reply.
    pub(crate) fn answer(&mut self, reply: &Reply, counts: bool) {
        let committed = self.completed.first().map(|ending| ending.reply());
        self.note(Broken::OtherReply, !counts || committed.as_ref() != Some(reply));
    }

    /// Whose rejection it was completed with, and how many steps were undone for it.
    pub(crate) fn rejection(&self) -> Option<(Claim, usize)> {
        match self.completed.first()? {
            Ending::Success(_) => None,
            Ending::Rejection(by) => Some((*by, self.undone.iter().filter(|undone| **undone).count())),
        }
    }
}
