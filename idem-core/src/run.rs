//! Claim, body, settle: the one path that every run takes.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Kind};
use crate::policy::InFlight;
use crate::record::Request;
use crate::store::{Begun, Context};

/// The first pause of a duplicate that waits; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause: what a waiting duplicate may learn too late.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Claims the request, waiting for another run of it where the policy says so.
///
/// Between two looks it holds no connection (rule 11): everything it learnt went back with the context.
pub(crate) async fn claim<C: Context>(
    store: &C::Store,
    request: &Request,
    in_flight: InFlight,
) -> Result<Begun<C>, Error> {
    let patience = match in_flight {
        InFlight::Wait(patience) => patience,
        InFlight::Conflict | InFlight::Accepted => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = C::begin(store, request).await?;
        let now = Instant::now();
        if !matches!(begun, Begun::Refuse(Kind::KeyInFlight)) || now >= deadline {
            return Ok(begun);
        }
        sleep_until(deadline.min(now + pause)).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Runs the body, and gives its panic as an error: a panic releases (rule 15).
///
/// No `async fn`: that would keep room for the body twice.
pub(crate) fn catch<T>(body: impl Future<Output = T>) -> impl Future<Output = Result<T, Error>> {
    let caught = AssertUnwindSafe(body).catch_unwind();
    caught.map(|ended| ended.map_err(|panic| Error::new(Kind::Panicked).caused_by(words(panic.as_ref()))))
}

/// What `panic!` was called with. The message and the place have gone to the panic hook already.
fn words(panic: &(dyn Any + Send)) -> String {
    if let Some(words) = panic.downcast_ref::<&str>() {
        (*words).to_owned()
    } else if let Some(words) = panic.downcast_ref::<String>() {
        words.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
