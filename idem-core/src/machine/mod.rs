//! The decisions, as pure functions: what a record means for a request and for a run, and which step may come next.
//!
//! There is no clock, no database and no waiting here: the time is an argument, and the stores carry the decisions out.

mod decide;
mod explain;
mod journal;

pub use decide::{Decision, Resume, Verdict, decide, decide_leased, lateness, pause, verdict};
pub use explain::{Details, Expected, Explanation, Holder, Retry, Seen, SeenStep, Sent, Session, Stage, explain};
pub use journal::{Journal, Next, Refused, Registered, StepKind, Unreadable};
