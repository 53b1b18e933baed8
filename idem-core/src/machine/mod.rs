//! The decisions, as pure functions: what a record means for a request, what it means for a run, and which step may come next.
//!
//! No clock, no database, no waiting: time comes in as an argument, and the stores carry the decision out.

mod decide;
mod journal;

pub use decide::{Decision, Verdict, decide, decide_leased, verdict};
pub use journal::{Journal, Next, Refused, Registered, StepKind, Unreadable};
