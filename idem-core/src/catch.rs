//! Turns panics into errors.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::error::{Error, Kind};

/// Runs the body, and returns its panic as an error: a panic releases the run (rule 15).
///
/// Not an `async fn`: its future would reserve space for the body twice.
pub(crate) fn catch<T>(body: impl Future<Output = T>) -> impl Future<Output = Result<T, Error>> {
    let caught = AssertUnwindSafe(body).catch_unwind();
    caught.map(|ended| ended.map_err(panicked))
}

/// Catches a panic of synchronous code.
#[cfg(feature = "axum")]
pub(crate) fn catch_now<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(body)).map_err(panicked)
}

fn panicked(panic: Box<dyn Any + Send>) -> Error {
    Error::new(Kind::Panicked).caused_by(words(panic.as_ref()))
}

/// The message of a panic. The panic hook has already got the message and the place.
fn words(panic: &(dyn Any + Send)) -> String {
    if let Some(words) = panic.downcast_ref::<&str>() {
        (*words).to_owned()
    } else if let Some(words) = panic.downcast_ref::<String>() {
        words.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
