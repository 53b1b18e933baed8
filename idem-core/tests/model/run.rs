//! A client that runs: how far it is, and what it may do.

use idem_core::Kind;
use idem_core::store::Claim;

use crate::leased::{Action, Client, Told};
use crate::store::{CALL, Ending, Guard, STEPS, Store};
use crate::wrong::Wrong;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) claim: Claim,
    course: Course,
    /// Whether it is in the step at hand, or in the undo at hand.
    entered: bool,
    /// Whether an earlier one has made the call, and nobody knows its answer.
    made: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Course {
    /// `next` is the step at hand.
    On { next: usize },
    /// The run is rejected, with the reply of this claim. So many steps are left to undo, the last of them first.
    Back { by: Claim, left: usize },
}

impl Run {
    /// As it begins: it comes past the finished steps at once. Where it is rejected already, what its handler says is not
    /// looked at, so here it says nothing.
    pub(crate) fn of(claim: Claim, store: &Store, wrong: Wrong) -> Self {
        let course = match store.kept.rejection {
            Some(rejection) if wrong != Wrong::RejectionNotRead => {
                let by = if wrong == Wrong::OwnReply { claim } else { rejection.by };
                Course::Back { by, left: store.kept.left(rejection) }
            }
            _ => Course::On { next: store.kept.steps.iter().flatten().count() },
        };
        let made = store.kept.made && wrong != Wrong::CallNotRead;
        Self { claim, course, entered: false, made }
    }

    /// What it may do as the client `i`.
    pub(crate) fn actions(&self, i: usize, rejects: bool, actions: &mut Vec<Action>) {
        actions.push(match self.course {
            _ if self.entered => Action::Keep(i),
            Course::On { next: STEPS } | Course::Back { left: 0, .. } => Action::Finish(i),
            Course::On { .. } | Course::Back { .. } => Action::Enter(i),
        });
        // Over the call of an earlier one only with an answer to its own.
        if rejects && matches!(self.course, Course::On { .. }) && (self.entered || !self.made) {
            actions.push(Action::Reject(i));
        }
        actions.extend([Action::Renew(i), Action::Release(i), Action::Crash(i)]);
    }

    /// Does this.
    pub(crate) fn act(self, store: &mut Store, action: Action, wrong: Wrong) -> Result<Client, Told> {
        let guard = wrong.guard(action, matches!(self.course, Course::Back { .. }));
        match action {
            Action::Enter(_) => self.enter(store, guard, wrong),
            Action::Keep(_) => self.keep(store, guard),
            Action::Reject(_) => self.reject(store, guard, wrong),
            Action::Finish(_) => match self.course {
                Course::On { .. } => self.finish(store, guard, Ending::Success(self.claim)),
                Course::Back { by, .. } => self.finish(store, guard, Ending::Rejection(by)),
            },
            Action::Renew(_) => self.if_held(store.renew(self.claim, guard)),
            // Whoever gives back what is lost is not told so.
            Action::Release(_) => {
                store.let_go(self.claim, guard);
                Ok(Client::Idle)
            }
            _ => unreachable!("{action:?} is not of a run"),
        }
    }

    fn enter(self, store: &mut Store, guard: Guard, wrong: Wrong) -> Result<Client, Told> {
        let step = match self.course {
            Course::On { next } => next,
            Course::Back { left, .. } => left - 1,
        };
        // The first step is a transaction, which looks; the second is a call, which is recorded. So are their undos, but for
        // that record: the undo of a call renews.
        let is_held = match self.course {
            _ if step != CALL => store.held(self.claim, guard),
            Course::On { .. } => store.make(self.claim, guard, wrong != Wrong::CallNotRecorded),
            Course::Back { .. } => store.renew(self.claim, guard),
        };
        if is_held {
            match self.course {
                Course::On { .. } => store.past.enter(step),
                Course::Back { .. } => store.past.enter_undo(step),
            }
        }
        Self { entered: true, ..self }.if_held(is_held)
    }

    fn keep(self, store: &mut Store, guard: Guard) -> Result<Client, Told> {
        let (is_held, course) = match self.course {
            Course::On { next } => (store.keep(self.claim, guard, next), Course::On { next: next + 1 }),
            Course::Back { by, left } => (store.undo(self.claim, guard, left - 1), Course::Back { by, left: left - 1 }),
        };
        Self { course, entered: false, ..self }.if_held(is_held)
    }

    /// The handler says no, be it to what the step at hand has answered. Without a finished step that is all.
    fn reject(self, store: &mut Store, guard: Guard, wrong: Wrong) -> Result<Client, Told> {
        let Course::On { next: left } = self.course else { unreachable!("it is rejected already") };
        if left == 0 {
            return self.finish(store, guard, Ending::Rejection(self.claim));
        }
        let is_held = match wrong {
            Wrong::RejectionNotRecorded => store.held(self.claim, guard),
            _ => store.reject(self.claim, guard, left, wrong == Wrong::RejectionExpires, self.entered),
        };
        Self { course: Course::Back { by: self.claim, left }, entered: false, ..self }.if_held(is_held)
    }

    fn finish(self, store: &mut Store, guard: Guard, ending: Ending) -> Result<Client, Told> {
        if !store.finish(self.claim, guard, ending) {
            return Err(Told::Refused(Kind::LeaseLost));
        }
        store.answer(&ending.reply());
        Err(Told::Reply)
    }

    /// It goes on like this, where the store has said that the lease is held.
    fn if_held(self, is_held: bool) -> Result<Client, Told> {
        if is_held { Ok(Client::Runs(self)) } else { Err(Told::Refused(Kind::LeaseLost)) }
    }
}
