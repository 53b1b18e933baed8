//! The claim: the beginning of every run.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Kind};
use crate::hint::{Answer, Hinted};
use crate::observer::Source;
use crate::policy::{InFlight, Intent, LeaseTerms};
use crate::record::Request;
use crate::store::{Claimed, Context, Store};

/// The first pause of a duplicate that waits. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause, and so the longest delay after which a waiting duplicate sees the result.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Claims the request. If the policy says so, it waits for another run of the request, and for the time at which a
/// released run may go on. A process that resumes abandoned runs does not wait for that time: it comes again.
///
/// Between two looks no connection is held (rule 11): it went back with the context. With the answer comes what gave it.
pub(crate) async fn claim<C: Context>(
    store: &C::Store,
    request: &Request,
    in_flight: InFlight,
    terms: &LeaseTerms,
    intent: Intent,
) -> Result<(Claimed<C>, Source), Error> {
    let patience = match in_flight {
        InFlight::Wait(patience) => patience,
        InFlight::Conflict | InFlight::Accepted => Duration::ZERO,
    };
    // A patience that no clock can count has no end.
    let deadline = Instant::now().checked_add(patience);
    let mut pause = FIRST_PAUSE;
    loop {
        let (claimed, source) = ask::<C>(store, request, terms, intent).await?;
        let now = Instant::now();
        let is_in_time = |next: Instant| deadline.is_none_or(|deadline| next <= deadline);
        match claimed {
            Claimed::Refuse(Kind::KeyInFlight) if deadline.is_none_or(|deadline| now < deadline) => {
                let next = now + pause;
                sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            Claimed::TooSoon(rest) if is_in_time(now + rest) && intent == Intent::Run => sleep_until(now + rest).await,
            claimed => return Ok((claimed, source)),
        }
    }
}

/// Asks the store's hints, and then the store. A process that resumes a run is not compared, so no hint answers it.
async fn ask<C: Context>(
    store: &C::Store,
    request: &Request,
    terms: &LeaseTerms,
    intent: Intent,
) -> Result<(Claimed<C>, Source), Error> {
    let _turn = match intent {
        Intent::Run => match store.hinted(request).await {
            Hinted::Answer(Answer::Replay(reply, age), source) => return Ok((Claimed::Replay(reply, age), source)),
            Hinted::Answer(Answer::InFlight, source) => return Ok((Claimed::Refuse(Kind::KeyInFlight), source)),
            Hinted::Ask(turn) => turn,
        },
        Intent::Resume => None,
    };
    Ok((C::claim_leased(store, request, terms, intent).await?, store.source()))
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::identity::Identity;
    use crate::memory::{MemoryStore, MemoryTx};

    #[tokio::test(start_paused = true)]
    async fn r10_a_duplicate_may_wait_without_end() {
        let store = MemoryStore::new(());
        let identity = Identity::new("scope", "claim", "k").expect("an identity");
        let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
        let claimed = async || {
            let (patience, terms) = (InFlight::Wait(Duration::MAX), LeaseTerms::DEFAULT);
            claim::<MemoryTx<()>>(&store, &request, patience, &terms, Intent::Run).await.expect("an answer").0
        };
        let Claimed::Run(first) = claimed().await else { panic!("it runs") };
        let ended = async {
            sleep_until(Instant::now() + Duration::from_secs(24 * 60 * 60)).await;
            drop(first);
        };
        let (second, ()) = futures_util::future::join(claimed(), ended).await;
        assert!(matches!(second, Claimed::Run(_)));
    }
}
