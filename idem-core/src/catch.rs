//! Turns panics into errors.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinError;

use crate::error::{Error, Kind};

/// Runs the body, and returns its panic as an error: a panic releases the run (rule 15).
///
/// The body is moved several times on its way into the returned future, so a large one is boxed or pinned before.
///
/// Not an `async fn`: its future would reserve space for the body twice.
pub(crate) fn catch<T>(body: impl Future<Output = T>) -> impl Future<Output = Result<T, Error>> {
    let caught = AssertUnwindSafe(body).catch_unwind();
    caught.map(|ended| ended.map_err(|panic| panicked(&panic)))
}

/// Catches a panic of synchronous code.
#[cfg(feature = "axum")]
pub(crate) fn catch_now<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(body)).map_err(|panic| panicked(&panic))
}

/// The panic hook has got the message and the place. The message may quote what the handler works on, so it is not passed
/// on: a cause may be logged.
fn panicked(_: &(dyn Any + Send)) -> Error {
    Error::new(Kind::Panicked)
}

/// What became of a task without an answer. A [`JoinError`] quotes the message of a panic, so it is not passed on either.
pub(crate) fn no_answer(error: &JoinError) -> &'static str {
    if error.is_panic() { "the task panicked" } else { "the runtime is shutting down" }
}
