//! The claim: the beginning of every run.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Kind};
use crate::policy::{InFlight, Intent, LeaseTerms};
use crate::record::Request;
use crate::store::{Claimed, Context};

/// The first pause of a duplicate that waits. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause, and so the longest delay after which a waiting duplicate sees the result.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Claims the request. If the policy says so, it waits for another run of the request, and for the time at which a
/// released run may go on. A process that resumes abandoned runs does not wait for that time: it comes again.
///
/// Between two looks no connection is held (rule 11): it went back with the context.
pub(crate) async fn claim<C: Context>(
    store: &C::Store,
    request: &Request,
    in_flight: InFlight,
    terms: &LeaseTerms,
    intent: Intent,
) -> Result<Claimed<C>, Error> {
    let patience = match in_flight {
        InFlight::Wait(patience) => patience,
        InFlight::Conflict | InFlight::Accepted => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let claimed = C::claim_leased(store, request, terms, intent).await?;
        let now = Instant::now();
        match claimed {
            Claimed::Refuse(Kind::KeyInFlight) if now < deadline => {
                sleep_until(deadline.min(now + pause)).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            Claimed::TooSoon(rest) if now + rest <= deadline && intent == Intent::Run => sleep_until(now + rest).await,
            claimed => return Ok(claimed),
        }
    }
}
