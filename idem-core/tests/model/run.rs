//! A client that runs: how far it is, and what it may do. What may come next is said by the journal itself.

use idem_core::Kind;
use idem_core::machine::{Journal, Next, StepKind};
use idem_core::store::{Claim, Outcome};

use crate::leased::{Action, Client, Told};
use crate::store::{CALL, Ending, Guard, STEPS, Store, name, reply, step_of};
use crate::wrong::Wrong;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) claim: Claim,
    journal: Journal,
    /// How many steps it has passed.
    passed: usize,
    /// Whether it is in the step at hand, or in the undo at hand.
    entered: bool,
}

impl Run {
    /// As it begins, with what is recorded.
    pub(crate) fn of(claim: Claim, store: &Store, wrong: Wrong) -> Self {
        let journal = Journal::read(store.kept.entries(claim, wrong)).expect("what the model records");
        Self { claim, journal, passed: 0, entered: false }
    }

    /// What it may do as the client `i`.
    pub(crate) fn actions(&self, i: usize, rejects: bool, wrong: Wrong, actions: &mut Vec<Action>) {
        let is_back = self.journal.rejected_with().is_some();
        if self.entered {
            actions.push(Action::Keep(i));
        } else if is_back && self.journal.next_undo().is_some() || !is_back && self.passed < STEPS {
            actions.push(Action::Enter(i));
        }
        // A handler may end at any step, once that has answered, as far as the journal lets it.
        if self.ended(wrong).is_some() {
            actions.push(Action::Finish(i));
        }
        if rejects && !is_back && self.heard().may_reject().is_ok() {
            actions.push(Action::Reject(i));
        }
        actions.extend([Action::Renew(i), Action::Release(i), Action::Crash(i)]);
    }

    /// Does this.
    pub(crate) fn act(self, store: &mut Store, action: Action, wrong: Wrong) -> Result<Client, Told> {
        let guard = wrong.guard(action, self.journal.rejected_with().is_some());
        match action {
            Action::Enter(_) => self.enter(store, guard, wrong),
            Action::Keep(_) => self.keep(store, guard),
            Action::Reject(_) => self.reject(store, guard, wrong),
            Action::Finish(_) => {
                let ending = self.ended(wrong).expect("it may end");
                self.finish(store, guard, ending)
            }
            Action::Renew(_) => {
                let is_held = store.renew(self.claim, guard);
                self.if_held(is_held)
            }
            // Whoever gives back what is lost is not told so.
            Action::Release(_) => {
                store.let_go(self.claim, guard, wrong);
                Ok(Client::Idle)
            }
            _ => unreachable!("{action:?} is not of a run"),
        }
    }

    /// Its journal, once the step at hand has answered that it did nothing.
    fn heard(&self) -> Journal {
        let mut journal = self.journal.clone();
        if self.entered {
            journal.failed();
        }
        journal
    }

    /// How it would be completed now, if it may be.
    fn ended(&self, wrong: Wrong) -> Option<Ending> {
        match self.journal.rejected_with() {
            Some(_) if self.entered || self.journal.next_undo().is_some() => None,
            Some(outcome) => Some(Ending::Rejection(Ending::claim_in(outcome))),
            None if wrong == Wrong::JournalNotAsked || self.heard().may_complete().is_ok() => {
                Some(Ending::Success(self.claim))
            }
            None => None,
        }
    }

    fn enter(mut self, store: &mut Store, guard: Guard, wrong: Wrong) -> Result<Client, Told> {
        if let Some(undo) = self.journal.next_undo() {
            let step = step_of(&undo);
            // The undo of a transaction looks, that of a call renews.
            let is_held = if step == CALL { store.renew(self.claim, guard) } else { store.held(self.claim, guard) };
            if is_held {
                store.past.enter_undo(step);
            }
            self.entered = true;
            return self.if_held(is_held);
        }
        let step = self.passed;
        let kind = if step == CALL { StepKind::Call } else { StepKind::Transaction };
        match self.journal.enter(name(step), kind).expect("the next step of an unchanged handler") {
            Next::Finished(_) => {
                self.journal.pass(name(step));
                self.passed += 1;
                return Ok(Client::Runs(self));
            }
            Next::Run => {}
        }
        // The first step is a transaction, which looks; the second is a call, which is recorded.
        let is_held = match kind {
            StepKind::Transaction => store.held(self.claim, guard),
            StepKind::Call => {
                let started = self.journal.call_started();
                store.start(self.claim, guard, &started, wrong != Wrong::CallNotRecorded)
            }
        };
        if is_held {
            if kind == StepKind::Call {
                self.journal.started();
            }
            store.past.enter(step);
        }
        self.entered = true;
        self.if_held(is_held)
    }

    fn keep(mut self, store: &mut Store, guard: Guard) -> Result<Client, Told> {
        self.entered = false;
        if let Some(undo) = self.journal.next_undo() {
            let is_held = store.undo(self.claim, guard, &undo);
            self.journal.undone();
            return self.if_held(is_held);
        }
        let kind = if self.passed == CALL { StepKind::Call } else { StepKind::Transaction };
        let finished = self.journal.finished(kind, reply(self.claim));
        let is_held = store.keep(self.claim, guard, &finished);
        self.journal.pass(name(self.passed));
        self.passed += 1;
        self.if_held(is_held)
    }

    /// The handler says no, be it to what the step at hand has answered. Without a finished step that is all.
    fn reject(mut self, store: &mut Store, guard: Guard, wrong: Wrong) -> Result<Client, Told> {
        self.journal = self.heard();
        let undoes = self.journal.undo_order(|_| true);
        if undoes.is_empty() {
            let ending = Ending::Rejection(self.claim);
            return self.finish(store, guard, ending);
        }
        let outcome = Outcome::Reply(reply(self.claim));
        let rejection = self.journal.rejection(&outcome, undoes.clone());
        let is_held = match wrong {
            Wrong::RejectionNotRecorded => store.held(self.claim, guard),
            _ => store.reject(self.claim, guard, &rejection, wrong == Wrong::RejectionExpires, self.entered),
        };
        self.journal.rejected(outcome, undoes);
        self.entered = false;
        self.if_held(is_held)
    }

    fn finish(self, store: &mut Store, guard: Guard, ending: Ending) -> Result<Client, Told> {
        if !store.finish(self.claim, guard, ending, self.passed, self.entered) {
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
