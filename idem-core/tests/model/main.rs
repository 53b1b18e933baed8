//! Leased runs under a model checker: every order of what three clients, the clock and the sweep may do.
//!
//! What a record means is decided by [`idem_core::machine`] itself: by `decide`, and `within` the limit of attempts. The
//! statements are modelled (`store`), each as one change with the guard that it has in SQL; that the SQL has these guards
//! is for the tests of `idem-sqlx`. A look at the record and what comes of it are two changes, between which anything may
//! happen. So are the entering of a step and its record. A step is entered when the store says that the lease is held:
//! what a body still does when it has slept since then is not seen here, and is what the key of a call is for.
//!
//! Compensation is left out, as it is not implemented yet. So are steps that end their transaction, and COMMITs without
//! an answer.

mod leased;
mod store;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use leased::{
    FINISHED_STEP_STAYS, LIVE_LEASE_STAYS, LIVE_RECORD_STAYS, Leased, ONE_COMPLETION, OTHER_BODY_IS_NOT_SERVED,
    REPLY_IS_COMMITTED, STALE_CHANGES_NOTHING, Wrong,
};

#[test]
fn r26_every_order_of_events_keeps_the_promises() {
    let checker = Leased::new(Wrong::Nothing).checker().spawn_bfs().join();
    checker.assert_properties();
    // It changes whenever the model does. When it changes with `decide` alone, a decision has changed.
    assert_eq!(checker.unique_state_count(), 236_047);
}

/// A wrong variant is found out by each of these properties.
#[track_caller]
fn found_out(wrong: Wrong, by: &[&'static str]) {
    let all = HasDiscoveries::AllOf(BTreeSet::from_iter(by.iter().copied()));
    let checker = Leased::new(wrong).checker().finish_when(all).spawn_bfs().join();
    for property in by {
        assert!(checker.discovery(property).is_some(), "{wrong:?}: no counterexample to {property:?}");
    }
}

#[test]
fn r26_updates_without_the_token_are_found_out() {
    found_out(Wrong::NoTokenCheck, &[STALE_CHANGES_NOTHING, FINISHED_STEP_STAYS]);
}

#[test]
fn r25_leases_by_the_applications_clock_are_found_out() {
    found_out(Wrong::ApplicationClock, &[LIVE_LEASE_STAYS, LIVE_RECORD_STAYS]);
}

#[test]
fn r26_a_release_without_the_token_is_found_out() {
    found_out(Wrong::ReleaseWithoutToken, &[STALE_CHANGES_NOTHING]);
}

#[test]
fn r26_a_completion_of_whatever_is_there_is_found_out() {
    found_out(Wrong::FinishUnguarded, &[ONE_COMPLETION, REPLY_IS_COMMITTED]);
}

#[test]
fn r28_one_fingerprint_for_all_is_found_out() {
    found_out(Wrong::NoFingerprint, &[OTHER_BODY_IS_NOT_SERVED]);
}
