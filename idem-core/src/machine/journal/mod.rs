//! The journal: the order of the steps of a leased run.

use std::fmt;

use crate::entry::{Entry, EntryKind};
use crate::error::{Error, Kind};
use crate::record::{Outcome, Reply};

/// The steps of one attempt: the steps that earlier attempts have recorded, the steps that this attempt has passed, and
/// which may come next.
///
/// The journal itself does no I/O. Its caller records the entries in the store's transaction and reports the result to
/// the journal.
///
/// ```
/// use idem_core::machine::{Journal, Next, StepKind};
///
/// let mut journal = Journal::default();
/// assert_eq!(journal.enter("charge", StepKind::Call), Ok(Next::Run));
/// let started = journal.call_started();  // recorded before the call is made
/// journal.started();
/// assert!(journal.clone().may_complete().is_err(), "it may have happened, and its answer is not recorded");
/// # use idem_core::store::{Format, Reply};
/// # let reply = Reply { format: Format::VALUE, status: None, headers: Default::default(), body: Default::default() };
/// let finished = journal.finished(StepKind::Call, reply);  // recorded with the answer, in the same place
/// assert_eq!(started.position, finished.position);
/// journal.pass("charge");
/// assert!(journal.may_complete().is_ok());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Journal {
    /// The steps that earlier attempts have finished, in their order.
    finished: Vec<Entry>,
    /// The steps that this attempt has passed, in their order.
    passed: Vec<String>,
    at: At,
    rejection: Option<Rejection>,
    /// Why nothing more may be recorded, if the journal is stopped.
    stopped: Option<Kind>,
}

/// Where an attempt is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
enum At {
    /// Between two steps.
    #[default]
    Ready,
    /// Between two steps. An earlier attempt has started this call, and its answer is not recorded.
    Owing(String),
    /// In a step, or after the step failed. The step has had no effect.
    Entered(String),
    /// In a call that an earlier attempt has started, and this attempt has not.
    EnteredOwing(String),
    /// In a call that this attempt has started, or after the handler gave the call up. The call may have happened.
    Calling(String),
    /// In the last writes, or after them.
    Finishing {
        /// The step that failed before them, if the handler lives with a failure.
        failed: Option<String>,
    },
}

/// The rejection of the run, and what is left to undo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rejection {
    outcome: Outcome,
    undoes: Vec<String>,
    /// The place of the next undo.
    next: u32,
}

/// The kind of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// A transaction in the store's database.
    Transaction,
    /// A call of the outside world.
    Call,
}

impl StepKind {
    /// The kind of the entry of the finished step.
    #[must_use]
    pub const fn entry(self) -> EntryKind {
        match self {
            Self::Transaction => EntryKind::TRANSACTION,
            Self::Call => EntryKind::CALL,
        }
    }
}

/// What to do after a step was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Run the step.
    Run,
    /// Nothing: an earlier attempt has finished the step with this result.
    Finished(Reply),
}

/// What becomes of an undo that a handler registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The step is passed: the undo is kept.
    Kept,
    /// The step is not finished, so there is nothing to undo.
    Dropped,
}

/// Why a step may not be entered, or a run may not end in this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Nothing more may be recorded.
    Stopped(Kind),
    /// A step after the last writes.
    AfterFinish,
    /// An earlier attempt, or this one, was rejected: only undos follow.
    Rejected,
    /// The name is empty, longer than 255 bytes, or has a NUL.
    BadName,
    /// This attempt has already passed a step of this name.
    Twice(String),
    /// Another step failed or was given up. The next attempt may pass that step and take another way.
    AfterFailed {
        /// The step that failed.
        failed: String,
        /// The step after the failed one.
        name: String,
    },
    /// An earlier attempt has finished another step in this place.
    OtherStep {
        /// The place.
        position: usize,
        /// The step that this attempt enters there.
        name: String,
        /// The step that was finished there.
        finished: String,
    },
    /// Another call was started in this place, and it is not recorded as finished.
    OtherCall {
        /// The place.
        position: usize,
        /// The step that this attempt enters there.
        name: String,
        /// The call that was started there.
        started: String,
    },
    /// An earlier attempt has finished this step, and this attempt has left it out.
    StepLeftOut(String),
    /// An earlier attempt has started this call, and this attempt has not.
    CallLeftOut(String),
    /// This attempt has started this call, and its answer is not recorded.
    CallUnanswered(String),
    /// A call that may have happened cannot be undone before its answer is recorded.
    RejectedOverCall(String),
    /// An undo for a step that this attempt has not passed.
    UndoWithoutStep(String),
}

impl Refused {
    /// The kind of error for the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Stopped(kind) => *kind,
            Self::Rejected => Kind::RunRejected,
            Self::CallUnanswered(_) | Self::RejectedOverCall(_) => Kind::OutcomeUnknown,
            Self::AfterFinish
            | Self::BadName
            | Self::Twice(_)
            | Self::AfterFailed { .. }
            | Self::OtherStep { .. }
            | Self::OtherCall { .. }
            | Self::StepLeftOut(_)
            | Self::CallLeftOut(_)
            | Self::UndoWithoutStep(_) => Kind::StepMismatch,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(kind) => write!(f, "nothing more may be recorded: {}", kind.code()),
            Self::AfterFinish => write!(f, "there is a step after `finish`"),
            Self::Rejected => write!(f, "the run is rejected; only undos follow"),
            Self::BadName => write!(f, "a step's name has 1 to 255 bytes, and no NUL"),
            Self::Twice(name) => write!(f, "there are two steps `{name}`: give each step of a run a name of its own"),
            Self::AfterFailed { failed, name } => write!(
                f,
                "the step `{failed}` failed, and `{name}` comes after it: give the failure as the step's result (`Ok(None)`)"
            ),
            Self::OtherStep { position, name, finished } => {
                write!(f, "step {position} is `{name}` now, and `{finished}` was finished there")
            }
            Self::OtherCall { position, name, started } => {
                write!(f, "step {position} is `{name}` now, and the call `{started}` was started there")
            }
            Self::StepLeftOut(name) => {
                write!(f, "an earlier attempt has finished the step `{name}`, which this one has left out")
            }
            Self::CallLeftOut(name) => {
                write!(f, "an earlier attempt has started the call `{name}`, which this one has not")
            }
            Self::CallUnanswered(name) => {
                write!(f, "the call `{name}` may have happened, and its answer is not recorded")
            }
            Self::RejectedOverCall(name) => {
                write!(f, "the call `{name}` may have happened and is not finished, so it cannot be undone")
            }
            Self::UndoWithoutStep(name) => {
                write!(f, "the undo of `{name}` does not stand after a step of this name")
            }
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::new(refused.kind()).caused_by(refused)
    }
}

/// The recorded entries cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl Journal {
    /// The journal of an attempt after others, from the entries that they have recorded, in order.
    ///
    /// # Errors
    /// The entries are not written by this release or an earlier one.
    pub fn read(mut entries: Vec<Entry>) -> Result<Self, Unreadable> {
        let rejection = match entries.iter().position(|entry| entry.kind == EntryKind::REJECTION) {
            None => None,
            Some(at) => Some(Rejection::read(entries.split_off(at))?),
        };
        let started = entries.pop_if(|last| last.kind == EntryKind::CALL_STARTED);
        let has_result = |entry: &Entry| entry.reply.is_some();
        if !entries.iter().all(has_result) {
            return Err(Unreadable);
        }
        let at = started.map_or(At::Ready, |started| At::Owing(started.name));
        Ok(Self { finished: entries, at, rejection, ..Self::default() })
    }

    /// Enters a step.
    ///
    /// # Errors
    /// The step may not run now. A [mismatch](Kind::StepMismatch) stops the journal.
    pub fn enter(&mut self, name: &str, kind: StepKind) -> Result<Next, Refused> {
        self.check()?;
        if self.rejection.is_some() {
            // A rejected run enters no step, whatever way the handler takes this time. The handler gets the results of
            // finished steps, to register their undos.
            let finished = self.finished.iter().find(|entry| entry.name == name && entry.kind == kind.entry());
            let reply = finished.and_then(|entry| entry.reply.clone());
            return reply.map(Next::Finished).ok_or(Refused::Rejected);
        }
        let next = self.next(name, kind);
        self.noted(next)
    }

    fn next(&mut self, name: &str, kind: StepKind) -> Result<Next, Refused> {
        if name.is_empty() || name.len() > 255 || name.contains('\0') {
            return Err(Refused::BadName);
        }
        if self.has_passed(name) {
            return Err(Refused::Twice(name.to_owned()));
        }
        if let Some(failed) = self.entered().filter(|failed| *failed != name) {
            return Err(Refused::AfterFailed { failed: failed.to_owned(), name: name.to_owned() });
        }
        let position = self.passed.len();
        match self.finished.get(position) {
            Some(Entry { name: finished, kind: as_kind, reply: Some(reply), .. })
                if finished == name && *as_kind == kind.entry() =>
            {
                return Ok(Next::Finished(reply.clone()));
            }
            Some(Entry { name: finished, .. }) => {
                return Err(Refused::OtherStep { position, name: name.to_owned(), finished: finished.clone() });
            }
            None => {}
        }
        self.at = match &self.at {
            At::Owing(started) | At::EnteredOwing(started) | At::Calling(started)
                if started != name || kind != StepKind::Call =>
            {
                return Err(Refused::OtherCall { position, name: name.to_owned(), started: started.clone() });
            }
            At::Ready | At::Entered(_) => At::Entered(name.to_owned()),
            At::Owing(_) | At::EnteredOwing(_) => At::EnteredOwing(name.to_owned()),
            At::Calling(_) => At::Calling(name.to_owned()),
            At::Finishing { .. } => return Err(Refused::AfterFinish),
        };
        Ok(Next::Run)
    }

    /// The entry that records the current call as started. It is recorded before the call is made.
    #[must_use]
    pub fn call_started(&self) -> Entry {
        self.entry(EntryKind::CALL_STARTED)
    }

    /// Notes that the current call is recorded as started.
    pub fn started(&mut self) {
        self.at = match std::mem::take(&mut self.at) {
            At::Entered(name) | At::EnteredOwing(name) | At::Calling(name) => At::Calling(name),
            at @ (At::Ready | At::Owing(_) | At::Finishing { .. }) => at,
        };
    }

    /// Notes that the current call has answered that it did nothing.
    pub fn failed(&mut self) {
        self.at = match std::mem::take(&mut self.at) {
            At::Calling(name) => At::Entered(name),
            at @ (At::Ready | At::Owing(_) | At::Entered(_) | At::EnteredOwing(_) | At::Finishing { .. }) => at,
        };
    }

    /// The entry that records the current step as finished with this result.
    #[must_use]
    pub fn finished(&self, kind: StepKind, reply: Reply) -> Entry {
        self.entry(kind.entry()).with_reply(reply)
    }

    /// Notes that the step is recorded as finished, now or by an earlier attempt.
    pub fn pass(&mut self, name: &str) {
        self.passed.push(name.to_owned());
        self.at = match std::mem::take(&mut self.at) {
            // The step was finished by an earlier attempt, and the started call comes later.
            at @ (At::Owing(_) | At::Finishing { .. }) => at,
            At::Ready | At::Entered(_) | At::EnteredOwing(_) | At::Calling(_) => At::Ready,
        };
    }

    /// Registers an undo for a step.
    ///
    /// # Errors
    /// This attempt has not passed a step of this name. With a wrong name, the step would not be undone. The error
    /// stops the journal.
    pub fn register(&mut self, step: &str) -> Result<Registered, Refused> {
        if self.has_passed(step) {
            return Ok(Registered::Kept);
        }
        if self.rejection.is_some() || self.entered() == Some(step) {
            return Ok(Registered::Dropped);
        }
        self.noted(Err(Refused::UndoWithoutStep(step.to_owned())))
    }

    /// Whether the last writes may begin.
    ///
    /// # Errors
    /// The run may not complete, or is rejected.
    pub fn may_finish(&mut self) -> Result<(), Refused> {
        self.may_complete()?;
        if self.rejection.is_some() { Err(Refused::Rejected) } else { Ok(()) }
    }

    /// Notes that the last writes are made and wait for the completion.
    pub fn finishing(&mut self) {
        self.at = At::Finishing { failed: self.entered().map(str::to_owned) };
    }

    /// Notes that the last writes are rolled back.
    pub fn unfinished(&mut self) {
        if let At::Finishing { failed } = std::mem::take(&mut self.at) {
            self.at = failed.map_or(At::Ready, At::Entered);
        }
    }

    /// Whether the run may be completed.
    ///
    /// No attempt's work may be forgotten. An attempt that leaves out a step that an earlier attempt has finished, or a
    /// call that an earlier attempt has started, comes from a changed handler. A call that this attempt has started and
    /// given up may have happened: only the next attempt, which makes the call again, learns its answer.
    ///
    /// # Errors
    /// The run may not be completed. The error stops the journal.
    pub fn may_complete(&mut self) -> Result<(), Refused> {
        self.check()?;
        let complete = self.is_complete();
        self.noted(complete)
    }

    fn is_complete(&self) -> Result<(), Refused> {
        if self.rejection.is_some() {
            // Everything that was recorded is being undone.
            return Ok(());
        }
        match (self.finished.get(self.passed.len()), &self.at) {
            (Some(left_out), _) => Err(Refused::StepLeftOut(left_out.name.clone())),
            (None, At::Owing(name) | At::EnteredOwing(name)) => Err(Refused::CallLeftOut(name.clone())),
            (None, At::Calling(name)) => Err(Refused::CallUnanswered(name.clone())),
            (None, At::Ready | At::Entered(_) | At::Finishing { .. }) => Ok(()),
        }
    }

    /// Whether the run may be rejected, and its steps undone.
    ///
    /// # Errors
    /// The run may not be rejected.
    pub fn may_reject(&mut self) -> Result<(), Refused> {
        self.check()?;
        match &self.at {
            At::Owing(name) | At::EnteredOwing(name) | At::Calling(name) if self.rejection.is_none() => {
                Err(Refused::RejectedOverCall(name.clone()))
            }
            At::Ready | At::Owing(_) | At::Entered(_) | At::EnteredOwing(_) | At::Calling(_) | At::Finishing { .. } => {
                self.may_complete()
            }
        }
    }

    /// The passed steps that have an undo, the last step first.
    #[must_use]
    pub fn undo_order(&self, has_undo: impl Fn(&str) -> bool) -> Vec<String> {
        self.passed.iter().rev().filter(|step| has_undo(step)).cloned().collect()
    }

    /// The entry that records the rejection and the steps to undo. It is recorded before the first undo.
    #[must_use]
    pub fn rejection(&self, outcome: &Outcome, undoes: Vec<String>) -> Entry {
        let entry = Entry::new(place(self.passed.len()), EntryKind::REJECTION, "").with_undoes(undoes);
        match outcome {
            Outcome::Reply(reply) => entry.with_reply(reply.clone()),
            Outcome::Oversized => entry,
        }
    }

    /// Notes that the [rejection](Self::rejection) is recorded.
    pub fn rejected(&mut self, outcome: Outcome, undoes: Vec<String>) {
        self.rejection = Some(Rejection { outcome, undoes, next: place(self.passed.len()) + 1 });
    }

    /// The outcome of the rejection, if the run is rejected.
    #[must_use]
    pub fn rejected_with(&self) -> Option<&Outcome> {
        self.rejection.as_ref().map(|rejection| &rejection.outcome)
    }

    /// The entry that will record the next undo. It names the step to undo.
    #[must_use]
    pub fn next_undo(&self) -> Option<Entry> {
        let rejection = self.rejection.as_ref()?;
        rejection.undoes.first().map(|name| Entry::new(rejection.next, EntryKind::UNDO, name.clone()))
    }

    /// Notes that the [next undo](Self::next_undo) is recorded.
    pub fn undone(&mut self) {
        if let Some(rejection) = self.rejection.as_mut().filter(|rejection| !rejection.undoes.is_empty()) {
            rejection.undoes.remove(0);
            rejection.next += 1;
        }
    }

    /// Notes that a write was sent. Nothing more may be recorded until its result is [known](Self::known), since the
    /// handler may give up the wait.
    pub fn in_doubt(&mut self) {
        self.stopped = Some(Kind::OutcomeUnknown);
    }

    /// Notes that the result of the write is known.
    pub fn known(&mut self) {
        self.stopped = None;
    }

    /// Stops the journal if an error of this kind ends the attempt. Returns whether it does.
    pub fn stop(&mut self, kind: Kind) -> bool {
        let is_the_end = matches!(
            kind,
            Kind::LeaseLost
                | Kind::OutcomeUnknown
                | Kind::TransactionEnded
                | Kind::StepMismatch
                | Kind::RecordUnreadable
        );
        if is_the_end {
            self.stopped = Some(kind);
        }
        is_the_end
    }

    /// Why nothing more may be recorded, if the journal is stopped.
    #[must_use]
    pub fn stopped(&self) -> Option<Kind> {
        self.stopped
    }

    /// Whether anything more may be recorded.
    ///
    /// # Errors
    /// Nothing more may be recorded.
    pub fn check(&self) -> Result<(), Refused> {
        match (&self.at, self.stopped) {
            (At::Finishing { .. }, _) => Err(Refused::AfterFinish),
            (_, Some(kind)) => Err(Refused::Stopped(kind)),
            (At::Ready | At::Owing(_) | At::Entered(_) | At::EnteredOwing(_) | At::Calling(_), None) => Ok(()),
        }
    }

    /// Whether an earlier attempt has finished this step.
    #[must_use]
    pub fn has_finished(&self, name: &str) -> bool {
        self.finished.iter().any(|entry| entry.name == name)
    }

    fn has_passed(&self, name: &str) -> bool {
        self.passed.iter().any(|passed| passed == name)
    }

    /// The step that was entered and not passed.
    fn entered(&self) -> Option<&str> {
        match &self.at {
            At::Entered(name) | At::EnteredOwing(name) | At::Calling(name) => Some(name),
            At::Finishing { failed } => failed.as_deref(),
            At::Ready | At::Owing(_) => None,
        }
    }

    fn entry(&self, kind: EntryKind) -> Entry {
        Entry::new(place(self.passed.len()), kind, self.entered().unwrap_or_default())
    }

    fn noted<T>(&mut self, result: Result<T, Refused>) -> Result<T, Refused> {
        if let Err(refused) = &result {
            self.stop(refused.kind());
        }
        result
    }
}

impl Rejection {
    /// Reads the entry of a rejection and the entries of its undos.
    fn read(entries: Vec<Entry>) -> Result<Self, Unreadable> {
        let mut entries = entries.into_iter();
        let Entry { reply, undoes, position, .. } = entries.next().ok_or(Unreadable)?;
        let outcome = reply.map_or(Outcome::Oversized, Outcome::Reply);
        let mut rejection = Self { outcome, undoes, next: position + 1 };
        for undone in entries {
            // An undo of an unknown step is unreadable: it must not count as one of the recorded undos.
            let is_undo = |undo: &String| undone.kind == EntryKind::UNDO && *undo == undone.name;
            let at = rejection.undoes.iter().position(is_undo).ok_or(Unreadable)?;
            rejection.undoes.remove(at);
            rejection.next = undone.position + 1;
        }
        Ok(rejection)
    }
}

fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
