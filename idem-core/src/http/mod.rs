//! Axum handlers: from a request to a run, from a run to a response.

pub(crate) mod extract;
pub(crate) mod key;
mod problem;
mod reply;
pub(crate) mod run;

pub use problem::Refusal;
