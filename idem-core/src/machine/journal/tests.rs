//! Every way through a journal, in memory.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::Format;
use StepKind::{Call, Transaction};

fn reply(body: &'static str) -> Reply {
    Reply { format: Format::VALUE, status: None, headers: Bytes::new(), body: Bytes::from_static(body.as_bytes()) }
}

fn finished(position: u32, kind: StepKind, name: &str) -> Entry {
    Entry::new(position, kind.entry(), name).with_reply(reply("result"))
}

/// The journal of an attempt after one that has reserved, and has started the charge.
fn after_reserve_and_half_a_charge() -> Journal {
    let started = Entry::new(1, EntryKind::CALL_STARTED, "charge");
    Journal::read(vec![finished(0, Transaction, "reserve"), started]).expect("readable")
}

/// Runs a step to its end.
fn run(journal: &mut Journal, name: &str, kind: StepKind) {
    assert_eq!(journal.enter(name, kind), Ok(Next::Run));
    if kind == Call {
        journal.started();
    }
    journal.pass(name);
}

#[test]
fn r28_a_finished_step_is_read_and_the_run_goes_on_after_it() {
    let mut journal = after_reserve_and_half_a_charge();
    assert!(journal.has_finished("reserve") && !journal.has_finished("charge"));
    assert_eq!(journal.enter("reserve", Transaction), Ok(Next::Finished(reply("result"))));
    journal.pass("reserve");
    run(&mut journal, "charge", Call);
    run(&mut journal, "confirm", Transaction);
    assert_eq!(journal.may_complete(), Ok(()));
}

#[test]
fn r28_every_mismatch_has_its_own_refusal_and_stops_the_journal() {
    let position = 0;
    let other = |name: &str| Refused::OtherStep { position, name: name.into(), finished: "reserve".into() };
    type Script = fn(&mut Journal) -> Result<(), Refused>;
    let enter = |journal: &mut Journal, name: &str, kind| journal.enter(name, kind).map(|_| ());
    let table: Vec<(Script, Refused)> = vec![
        (|journal| journal.enter("", Transaction).map(|_| ()), Refused::BadName),
        (|journal| journal.enter("a\0b", Transaction).map(|_| ()), Refused::BadName),
        (|journal| journal.enter(&"n".repeat(256), Transaction).map(|_| ()), Refused::BadName),
        (|journal| journal.enter("pack", Transaction).map(|_| ()), other("pack")),
        (|journal| journal.enter("reserve", Call).map(|_| ()), other("reserve")),
        (|journal| journal.may_complete(), Refused::StepLeftOut("reserve".into())),
        (|journal| journal.may_finish(), Refused::StepLeftOut("reserve".into())),
        (|journal| journal.register("ship").map(|_| ()), Refused::UndoWithoutStep("ship".into())),
        (
            |journal| {
                journal.pass("reserve");
                journal.enter("reserve", Transaction).map(|_| ())
            },
            Refused::Twice("reserve".into()),
        ),
        (
            |journal| {
                journal.pass("reserve");
                journal.enter("pack", Transaction).map(|_| ())
            },
            Refused::OtherCall { position: 1, name: "pack".into(), started: "charge".into() },
        ),
        (
            |journal| {
                journal.pass("reserve");
                journal.enter("charge", Transaction).map(|_| ())
            },
            Refused::OtherCall { position: 1, name: "charge".into(), started: "charge".into() },
        ),
        (
            |journal| {
                journal.pass("reserve");
                journal.may_complete()
            },
            Refused::CallLeftOut("charge".into()),
        ),
        (
            |journal| {
                journal.pass("reserve");
                journal.enter("charge", Call).map(|_| ())?;
                journal.may_complete()
            },
            Refused::CallLeftOut("charge".into()),
        ),
        (
            |journal| {
                journal.pass("reserve");
                run(journal, "charge", Call);
                journal.enter("confirm", Transaction).map(|_| ())?;
                journal.enter("ship", Transaction).map(|_| ())
            },
            Refused::AfterFailed { failed: "confirm".into(), name: "ship".into() },
        ),
    ];
    for (script, refused) in table {
        let mut journal = after_reserve_and_half_a_charge();
        assert_eq!(script(&mut journal), Err(refused.clone()));
        assert_eq!(refused.kind(), Kind::StepMismatch);
        assert_eq!(
            enter(&mut journal, "reserve", Transaction),
            Err(Refused::Stopped(Kind::StepMismatch)),
            "{refused:?}"
        );
    }
}

#[test]
fn r28a_no_attempt_ends_over_a_call_without_an_answer() {
    // Started and given up.
    let mut journal = Journal::default();
    assert_eq!(journal.enter("charge", Call), Ok(Next::Run));
    assert_eq!(journal.call_started(), Entry::new(0, EntryKind::CALL_STARTED, "charge"));
    assert_eq!(journal.clone().may_complete(), Ok(()), "it is not started yet");
    journal.started();
    assert_eq!(journal.may_reject(), Err(Refused::RejectedOverCall("charge".into())));
    assert_eq!(journal.clone().may_complete(), Err(Refused::CallUnanswered("charge".into())));
    // Starting the call again, under the same key, changes nothing until it has answered.
    assert_eq!(journal.enter("charge", Call), Ok(Next::Run));
    assert_eq!(journal.may_reject(), Err(Refused::RejectedOverCall("charge".into())));
    journal.started();
    // "It did nothing" is an answer, too.
    journal.failed();
    assert_eq!((journal.clone().may_complete(), journal.clone().may_reject()), (Ok(()), Ok(())));
    // Started by an earlier attempt: before the call is entered, and in it.
    for entered in [false, true] {
        let mut journal = after_reserve_and_half_a_charge();
        journal.pass("reserve");
        if entered {
            assert_eq!(journal.enter("charge", Call), Ok(Next::Run));
        }
        assert_eq!(journal.may_reject(), Err(Refused::RejectedOverCall("charge".into())));
        assert_eq!(journal.stopped(), None, "it may still make the call");
        run(&mut journal, "charge", Call);
        assert_eq!(journal.may_reject(), Ok(()));
    }
    for refused in [Refused::CallUnanswered(String::new()), Refused::RejectedOverCall(String::new())] {
        assert_eq!(refused.kind(), Kind::OutcomeUnknown);
    }
}

#[test]
fn r28_after_a_failed_step_only_the_same_one_may_follow() {
    for kind in [Transaction, Call] {
        let mut journal = Journal::default();
        assert_eq!(journal.enter("a", kind), Ok(Next::Run));
        assert_eq!(journal.register("a"), Ok(Registered::Dropped), "it is not finished");
        assert_eq!(journal.enter("a", kind), Ok(Next::Run));
        assert_eq!(journal.may_complete(), Ok(()), "the handler may live with the failure");
        assert!(journal.enter("b", kind).is_err());
    }
}

#[test]
fn r28_nothing_follows_the_last_writes() {
    let mut journal = Journal::default();
    run(&mut journal, "a", Transaction);
    assert_eq!(journal.may_finish(), Ok(()));
    journal.finishing();
    assert_eq!(journal.enter("b", Transaction), Err(Refused::AfterFinish));
    assert_eq!(journal.may_finish(), Err(Refused::AfterFinish));
    assert_eq!(journal.stopped(), None, "a rejection is still possible");
    journal.unfinished();
    assert_eq!(journal.may_reject(), Ok(()));
}

#[test]
fn r28_the_last_writes_remember_a_step_that_failed_before_them() {
    let mut journal = Journal::default();
    run(&mut journal, "a", Transaction);
    assert_eq!(journal.enter("b", Transaction), Ok(Next::Run));
    journal.finishing();
    assert_eq!(journal.register("b"), Ok(Registered::Dropped), "it is not finished");
    journal.unfinished();
    assert_eq!(journal.register("b"), Ok(Registered::Dropped));
    assert_eq!(journal.may_reject(), Ok(()));
}

#[test]
fn r13_a_write_that_was_given_up_leaves_the_attempt_in_doubt() {
    let mut journal = Journal::default();
    assert_eq!(journal.enter("a", Transaction), Ok(Next::Run));
    journal.in_doubt();
    assert_eq!(journal.enter("a", Transaction), Err(Refused::Stopped(Kind::OutcomeUnknown)));
    assert_eq!(journal.may_complete(), Err(Refused::Stopped(Kind::OutcomeUnknown)));
    assert_eq!(journal.may_reject(), Err(Refused::Stopped(Kind::OutcomeUnknown)));
    journal.known();
    journal.pass("a");
    assert_eq!(journal.may_complete(), Ok(()));
}

#[test]
fn only_the_end_of_an_attempt_stops_its_journal() {
    for (kind, stops) in [
        (Kind::LeaseLost, true),
        (Kind::OutcomeUnknown, true),
        (Kind::TransactionEnded, true),
        (Kind::StepMismatch, true),
        (Kind::RecordUnreadable, true),
        (Kind::StoreUnavailable, false),
        (Kind::RetryLater, false),
        (Kind::RunRejected, false),
    ] {
        let mut journal = Journal::default();
        assert_eq!((journal.stop(kind), journal.stopped()), (stops, stops.then_some(kind)));
        assert_eq!(journal.check().is_err(), stops);
    }
}

#[test]
fn r28a_a_rejection_is_undone_from_the_last_step_on_each_step_once() {
    let mut journal = Journal::default();
    for (name, kind) in [("reserve", Transaction), ("charge", Call), ("note", Transaction)] {
        run(&mut journal, name, kind);
        assert_eq!(journal.register(name), Ok(Registered::Kept));
    }
    let outcome = Outcome::Reply(reply("declined"));
    let undoes = journal.undo_order(|step| step != "note");
    assert_eq!(undoes, ["charge", "reserve"]);
    let mut recorded: Vec<_> =
        ["reserve", "charge", "note"].iter().zip(0..).map(|(name, at)| finished(at, Transaction, name)).collect();
    recorded.push(journal.rejection(&outcome, undoes.clone()));
    journal.rejected(outcome.clone(), undoes);
    // When the undoing is cut short after each undo, the next attempt resumes there.
    for left in [2, 1, 0] {
        let mut next = Journal::read(recorded.clone()).expect("readable");
        assert_eq!(next.rejected_with(), Some(&outcome));
        assert_eq!(next.enter("ship", Transaction), Err(Refused::Rejected), "no step is entered any more");
        assert!(matches!(next.enter("note", Transaction), Ok(Next::Finished(_))), "in whatever order");
        assert_eq!(next.register("ship"), Ok(Registered::Dropped));
        assert_eq!(next.may_finish(), Err(Refused::Rejected));
        let undo = journal.next_undo();
        assert_eq!(next.next_undo(), undo);
        assert_eq!(undo.is_some(), left > 0);
        if let Some(undone) = undo {
            assert_eq!(undone.position, 6 - left, "after the rejection");
            recorded.push(undone);
            journal.undone();
        }
    }
    journal.undone();
    assert_eq!((journal.next_undo(), journal.may_complete()), (None, Ok(())));
}

#[test]
fn r19_the_reply_of_a_rejection_is_read_as_it_was_recorded() {
    let http = Reply { format: Format::HTTP, status: Some(402), ..reply("declined") };
    for outcome in [Outcome::Reply(http), Outcome::Oversized] {
        let entry = Journal::default().rejection(&outcome, vec!["reserve".into()]);
        let journal = Journal::read(vec![entry]).expect("readable");
        assert_eq!(journal.rejected_with(), Some(&outcome));
    }
}

#[test]
fn r22_what_no_release_writes_is_unreadable() {
    let rejection = Entry::new(1, EntryKind::REJECTION, "").with_undoes(vec!["reserve".into()]);
    let undo = |name: &str| Entry::new(2, EntryKind::UNDO, name);
    let reserved = finished(0, Transaction, "reserve");
    for entries in [
        vec![Entry::new(0, EntryKind::TRANSACTION, "no result")],
        vec![Entry::new(0, EntryKind::CALL_STARTED, "charge"), finished(1, Transaction, "after it")],
        vec![Entry::new(0, EntryKind::UNDO, "of no rejection")],
        vec![reserved.clone(), rejection.clone(), undo("another")],
        vec![reserved.clone(), rejection.clone(), undo("reserve"), undo("reserve")],
        vec![reserved.clone(), rejection.clone(), Entry { kind: EntryKind(99), ..undo("reserve") }],
        vec![reserved.clone(), rejection.clone(), finished(2, Transaction, "a step after it")],
    ] {
        assert_eq!(Journal::read(entries.clone()), Err(Unreadable), "{entries:?}");
    }
    // A step of an unknown kind, of a later release, is another step.
    let later = Entry { kind: EntryKind(99), ..reserved };
    let mut journal = Journal::read(vec![later]).expect("readable");
    assert_eq!(journal.enter("reserve", Transaction).expect_err("another").kind(), Kind::StepMismatch);
}

#[test]
fn every_refusal_says_which_step_it_is_about() {
    let (name, position) = (String::from("charge"), 3);
    for refused in [
        Refused::Twice(name.clone()),
        Refused::AfterFailed { failed: name.clone(), name: "b".into() },
        Refused::OtherStep { position, name: "b".into(), finished: name.clone() },
        Refused::OtherCall { position, name: "b".into(), started: name.clone() },
        Refused::StepLeftOut(name.clone()),
        Refused::CallLeftOut(name.clone()),
        Refused::CallUnanswered(name.clone()),
        Refused::RejectedOverCall(name.clone()),
        Refused::UndoWithoutStep(name),
    ] {
        assert!(refused.to_string().contains("`charge`"), "{refused}");
        assert_eq!(Error::from(refused.clone()).kind(), refused.kind());
    }
}

/// The acts of a handler, sensible or not, and the events that may happen to it.
#[derive(Debug, Clone)]
enum Act {
    Enter(usize, StepKind),
    Start,
    Fail,
    Finish,
    Reject,
    Undo,
    Complete,
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![Just(Transaction), Just(Call)];
    prop_oneof![
        4 => (0..3_usize, kind).prop_map(|(step, kind)| Act::Enter(step, kind)),
        3 => Just(Act::Start),
        1 => Just(Act::Fail),
        4 => Just(Act::Finish),
        1 => Just(Act::Reject),
        2 => Just(Act::Undo),
        2 => Just(Act::Complete),
        2 => Just(Act::Crash),
    ]
}

/// The real state of the world, whatever the journal assumes.
#[derive(Debug, Default)]
struct World {
    recorded: Vec<Entry>,
    finished: Vec<String>,
    /// The call that was made and has no recorded answer.
    made: Option<String>,
    undone: Vec<String>,
    is_rejected: bool,
}

impl World {
    fn record(&mut self, entry: Entry) {
        match self.recorded.iter_mut().find(|there| there.position == entry.position) {
            Some(there) => {
                assert_eq!(there.kind, EntryKind::CALL_STARTED, "only a started call is written over: {there:?}");
                assert!(there.name == entry.name || entry.kind == EntryKind::REJECTION);
                *there = entry;
            }
            None => self.recorded.push(entry),
        }
        self.recorded.sort_by_key(|entry| entry.position);
    }
}

/// One attempt, and the state of its handler.
struct Attempt {
    journal: Journal,
    entered: Option<(String, StepKind)>,
    has_started: bool,
}

impl Attempt {
    fn of(world: &World) -> Self {
        let journal = Journal::read(world.recorded.clone()).expect("what a journal has recorded");
        Self { journal, entered: None, has_started: false }
    }

    /// Does the act if the journal permits it. Returns whether the run is over.
    fn act(&mut self, act: &Act, world: &mut World) -> bool {
        match act {
            Act::Enter(step, kind) => {
                let name = ["a", "b", "c"][*step];
                match self.journal.enter(name, *kind) {
                    Ok(Next::Run) => {
                        assert!(!world.finished.iter().any(|finished| finished == name), "a finished step runs again");
                        assert!(!world.is_rejected, "a step runs after a rejection");
                        assert!(world.made.as_deref().is_none_or(|made| made == name), "over a call without an answer");
                        // A handler that enters a call again has given the call up and knows no answer.
                        self.entered = Some((name.to_owned(), *kind));
                        self.has_started = false;
                    }
                    Ok(Next::Finished(_)) => {
                        assert!(world.finished.iter().any(|finished| finished == name));
                        self.journal.pass(name);
                    }
                    Err(_) => {}
                }
            }
            Act::Start => {
                if let Some((name, Call)) = &self.entered {
                    world.record(self.journal.call_started());
                    self.journal.started();
                    self.has_started = true;
                    world.made = Some(name.clone());
                }
            }
            Act::Fail => {
                if let Some((_, kind)) = self.entered.clone()
                    && (kind == Transaction || self.has_started)
                {
                    self.journal.failed();
                    // The record of the call stays: the next attempt makes it again.
                    world.made = None;
                    self.entered = None;
                }
            }
            Act::Finish => {
                if let Some((name, kind)) = self.entered.clone()
                    && (kind == Transaction || self.has_started)
                {
                    world.record(self.journal.finished(kind, reply("result")));
                    self.journal.pass(&name);
                    self.entered = None;
                    world.made = None;
                    world.finished.push(name);
                }
            }
            Act::Reject => {
                if !world.is_rejected && self.journal.may_reject().is_ok() {
                    assert_eq!(world.made, None, "a rejection over a call without an answer");
                    // The handler has ended.
                    self.entered = None;
                    let undoes = self.journal.undo_order(|_| true);
                    assert!(undoes.iter().rev().eq(&world.finished), "all that is finished is undone, the last first");
                    if undoes.is_empty() {
                        return true;
                    }
                    world.record(self.journal.rejection(&Outcome::Oversized, undoes.clone()));
                    self.journal.rejected(Outcome::Oversized, undoes);
                    world.is_rejected = true;
                }
            }
            Act::Undo => {
                if let Some(undo) = self.journal.next_undo() {
                    assert!(!world.undone.contains(&undo.name), "a step is undone twice");
                    world.undone.push(undo.name.clone());
                    world.record(undo);
                    self.journal.undone();
                }
            }
            Act::Complete => {
                let is_back = self.journal.rejected_with().is_some();
                if is_back && self.journal.next_undo().is_none() {
                    assert!(world.undone.iter().rev().eq(&world.finished), "all is undone");
                    return true;
                }
                if !is_back && self.journal.may_complete().is_ok() {
                    assert!(!world.is_rejected, "a rejected run is completed");
                    assert_eq!(world.made, None, "a completion over a call without an answer");
                    assert!(world.finished.iter().all(|step| self.journal.has_passed(step)), "a step is left out");
                    return true;
                }
            }
            Act::Crash => *self = Self::of(world),
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn r28a_whatever_a_handler_does_nothing_happens_twice_and_nothing_is_forgotten(acts in vec(act(), 1..60)) {
        let mut world = World::default();
        let mut attempt = Attempt::of(&world);
        for act in &acts {
            if attempt.act(act, &mut world) {
                break;
            }
        }
    }
}
