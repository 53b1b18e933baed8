//! Leased runs under a model checker: every order of what a few clients, the clock and the sweep may do.
//!
//! What a record means is decided by [`idem_core::machine`] itself: by `decide`, and `within` the limit of attempts.
//! Which step may come next, and whether a run may be completed or rejected, is decided by its `Journal`, which is read
//! from the modelled entries. The statements are modelled (`store`), each as one change with the guard that it has in
//! SQL; that the SQL has these guards is for the tests of `idem-sqlx`. A look at the record and what comes of it are
//! two changes, between which anything may happen. So are the entering of a step and its record. A step is entered when
//! the store says that the lease is held: what a body still does when it has slept since then is not seen here, and is
//! what the key of a call is for.
//!
//! A run that is rejected goes back (`run`): its rejection is recorded, its finished steps are undone, each with a
//! record of its own, and it is completed. An attempt that takes the run over resumes there. An undo is entered and
//! recorded as a step is, and the same holds for what its body does when it has slept. Each step has an undo here; which
//! ones have none in truth is recorded with the rejection, and nothing else comes of it.
//!
//! Attempts that are released are spaced (`r25a_…`). A tick of the clock is the shortest pause.
//!
//! The handler is free: it may complete or reject at any step that has answered, as far as the journal lets it.
//!
//! Left out are steps that end their transaction, and COMMITs without an answer.

mod late;
mod leased;
mod past;
mod run;
mod store;
mod wrong;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use late::{KEPT_ANSWERS, KEPT_REFUSES, Late, RUNS_ONCE};
use leased::{
    ALL_STEPS_PASSED, FINISHED_STEP_STAYS, LAST_IS_UNDONE_FIRST, LIVE_LEASE_STAYS, LIVE_RECORD_STAYS, Leased,
    NO_COMPLETION_OVER_A_CALL, NO_REJECTION_OVER_A_CALL, NO_STEP_BEHIND_REJECTION, ONE_COMPLETION,
    OTHER_BODY_IS_NOT_SERVED, REJECTED_IS_NOT_FORGOTTEN, REJECTED_IS_UNDONE, REJECTION_STANDS, RELEASED_IS_NOT_COUNTED,
    RELEASED_IS_SPACED, REPLY_IS_COMMITTED, STALE_CHANGES_NOTHING, SUCCESS_IS_NOT_UNDONE, UNDONE_ONCE,
};
use wrong::Wrong;

/// The number of states changes whenever the model does. When it changes with `decide` alone, a decision has changed.
#[track_caller]
fn keeps_the_promises(model: Leased, states: usize) {
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), states);
}

#[test]
fn r26_every_order_of_events_keeps_the_promises() {
    keeps_the_promises(Leased::without_rejections(Wrong::Nothing), 691_871);
}

#[test]
fn r14_every_order_of_events_around_a_rejection_keeps_the_promises() {
    keeps_the_promises(Leased::with_rejections(Wrong::Nothing), 266_477);
}

#[test]
fn r36_every_order_of_late_retries_keeps_the_promises() {
    for (refuses, states) in [(false, 9_185), (true, 8_040)] {
        let checker = Late::new(late::Wrong::Nothing, refuses).checker().spawn_bfs().join();
        checker.assert_properties();
        assert_eq!(checker.unique_state_count(), states);
    }
}

#[test]
fn r36_a_wrong_answer_to_late_retries_is_found_out() {
    for (wrong, refuses, property) in [
        (late::Wrong::InsertAsksNothing, false, RUNS_ONCE),
        (late::Wrong::SentAnew, false, RUNS_ONCE),
        (late::Wrong::Ignored, false, RUNS_ONCE),
        (late::Wrong::SweepRemovesAll, true, KEPT_REFUSES),
        (late::Wrong::KeptCountsAsExpired, true, KEPT_ANSWERS),
    ] {
        let all = HasDiscoveries::AllOf(BTreeSet::from([property]));
        let checker = Late::new(wrong, refuses).checker().finish_when(all).spawn_bfs().join();
        assert!(checker.discovery(property).is_some(), "{wrong:?}: no counterexample to {property:?}");
    }
}

/// A wrong variant is found out by each of these properties.
#[track_caller]
fn found_out(model: Leased, by: &[&'static str]) {
    let wrong = model.wrong;
    let all = HasDiscoveries::AllOf(BTreeSet::from_iter(by.iter().copied()));
    let checker = model.checker().finish_when(all).spawn_bfs().join();
    for property in by {
        assert!(checker.discovery(property).is_some(), "{wrong:?}: no counterexample to {property:?}");
    }
}

#[test]
fn r26_updates_without_the_token_are_found_out() {
    found_out(Leased::without_rejections(Wrong::NoTokenCheck), &[STALE_CHANGES_NOTHING, FINISHED_STEP_STAYS]);
}

#[test]
fn r25_leases_by_the_applications_clock_are_found_out() {
    found_out(Leased::without_rejections(Wrong::ApplicationClock), &[LIVE_LEASE_STAYS, LIVE_RECORD_STAYS]);
}

#[test]
fn r26_a_release_without_the_token_is_found_out() {
    found_out(Leased::without_rejections(Wrong::ReleaseWithoutToken), &[STALE_CHANGES_NOTHING]);
}

#[test]
fn r26_a_completion_of_whatever_is_there_is_found_out() {
    found_out(Leased::without_rejections(Wrong::FinishUnguarded), &[ONE_COMPLETION, REPLY_IS_COMMITTED]);
}

#[test]
fn r28_one_fingerprint_for_all_is_found_out() {
    found_out(Leased::without_rejections(Wrong::NoFingerprint), &[OTHER_BODY_IS_NOT_SERVED]);
}

#[test]
fn r14_undos_before_the_rejection_is_recorded_are_found_out() {
    found_out(Leased::with_rejections(Wrong::RejectionNotRecorded), &[SUCCESS_IS_NOT_UNDONE, UNDONE_ONCE]);
}

#[test]
fn r14_a_rejection_without_the_token_is_found_out() {
    found_out(
        Leased::with_rejections(Wrong::RejectionWithoutToken),
        &[NO_STEP_BEHIND_REJECTION, REJECTED_IS_UNDONE, LAST_IS_UNDONE_FIRST],
    );
}

#[test]
fn r14_a_rejection_that_expires_is_found_out() {
    found_out(Leased::with_rejections(Wrong::RejectionExpires), &[REJECTED_IS_NOT_FORGOTTEN]);
}

#[test]
fn r14_a_rejection_that_is_not_looked_for_is_found_out() {
    found_out(
        Leased::with_rejections(Wrong::RejectionNotRead),
        &[NO_STEP_BEHIND_REJECTION, REJECTION_STANDS, SUCCESS_IS_NOT_UNDONE],
    );
}

#[test]
fn r14_a_reply_of_ones_own_to_an_earlier_rejection_is_found_out() {
    found_out(Leased::with_rejections(Wrong::OwnReply), &[REJECTION_STANDS]);
}

#[test]
fn r14_a_call_without_a_record_is_found_out() {
    found_out(Leased::with_rejections(Wrong::CallNotRecorded), &[NO_REJECTION_OVER_A_CALL]);
}

#[test]
fn r14_a_call_that_is_not_looked_for_is_found_out() {
    found_out(Leased::with_rejections(Wrong::CallNotRead), &[NO_REJECTION_OVER_A_CALL]);
}

#[test]
fn r28_a_completion_that_does_not_ask_the_journal_is_found_out() {
    found_out(Leased::without_rejections(Wrong::JournalNotAsked), &[ALL_STEPS_PASSED, NO_COMPLETION_OVER_A_CALL]);
}

#[test]
fn r25a_attempts_that_are_not_spaced_are_found_out() {
    found_out(Leased::without_rejections(Wrong::NotSpaced), &[RELEASED_IS_SPACED]);
    found_out(Leased::with_rejections(Wrong::NotSpaced), &[RELEASED_IS_SPACED]);
}

#[test]
fn r25a_a_release_that_keeps_its_claim_is_found_out() {
    found_out(Leased::without_rejections(Wrong::ReleaseKeepsClaim), &[RELEASED_IS_SPACED]);
}

#[test]
fn r25a_a_release_that_is_not_noted_is_found_out() {
    found_out(Leased::without_rejections(Wrong::ReleaseNotNoted), &[RELEASED_IS_NOT_COUNTED, RELEASED_IS_SPACED]);
}

#[test]
fn r14_an_undo_without_the_token_is_found_out() {
    found_out(Leased::with_rejections(Wrong::UndoWithoutToken), &[STALE_CHANGES_NOTHING, UNDONE_ONCE]);
}
