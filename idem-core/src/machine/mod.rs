//! The decisions, as pure functions: what a record means for a request, and what it means for a run.
//!
//! No clock, no database, no waiting: time comes in as an argument, and the stores carry the decision out.

mod decide;

pub use decide::{Decision, Verdict, decide, decide_leased, verdict};
