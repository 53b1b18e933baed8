//! A step that has ended the transaction it was lent.

use std::future::Future;

use idem_core::{Error, Kind};
use tokio::time::sleep;

use crate::retry;

/// What it kept is not known, so its key must not run again: tries to bar it, and is the error to answer with.
pub(crate) async fn poison_in_tries<F>(bar: impl Fn() -> F) -> Error
where
    F: Future<Output = Result<(), Error>>,
{
    let mut error = Error::new(Kind::TransactionEnded);
    for pause in retry::pauses() {
        match bar().await {
            Ok(()) => return Error::new(Kind::TransactionEnded),
            Err(failed) => error = error.caused_by(failed),
        }
        sleep(pause).await;
    }
    error
}
