//! An outage of a store: told when it begins and when it ends, and not by each request that meets it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind};

/// How long no request must have failed before an answer ends the outage. During a failover some connections answer
/// and others do not.
const QUIET: Duration = Duration::from_secs(5);

/// How often an outage that lasts is told again.
const AGAIN: Duration = Duration::from_secs(60);

/// The outages of a store: it cannot be reached, or it is busy.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    unavailable: Outage,
    busy: Outage,
}

impl Outages {
    /// Notes that a request has failed. Only failures of the store itself count.
    pub(crate) fn failed(&self, error: &Error) {
        let (outage, code) = match error.kind() {
            Kind::StoreUnavailable => (&self.unavailable, error.code()),
            Kind::RetryLater => (&self.busy, error.code()),
            _ => return,
        };
        match outage.failed(Instant::now()) {
            Told::Nothing => {}
            // One transaction that is to be retried is no outage.
            Told::Began if error.kind() == Kind::RetryLater => {
                tracing::warn!(target: "idem", code, cause = std::error::Error::source(error), "the store is busy");
            }
            Told::Began => {
                let cause = std::error::Error::source(error);
                tracing::error!(target: "idem", code, cause, "the store cannot be reached; requests fail");
            }
            Told::Lasts { failed, lasted } => {
                tracing::error!(target: "idem", code, failed, ?lasted, "requests still fail");
            }
        }
    }

    /// Notes that the store has answered a request.
    pub(crate) fn answered(&self) {
        for (outage, kind) in [(&self.unavailable, Kind::StoreUnavailable), (&self.busy, Kind::RetryLater)] {
            if let Some(Ended { failed, lasted }) = outage.answered() {
                let code = kind.code();
                tracing::warn!(target: "idem", code, failed, ?lasted, "the store answers again");
            }
        }
    }
}

#[derive(Debug, Default)]
struct Outage {
    /// Asked by every request that succeeds.
    lasts: AtomicBool,
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    last: Instant,
    told: Instant,
    failed: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Began,
    Lasts { failed: u64, lasted: Duration },
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    failed: u64,
    lasted: Duration,
}

impl Outage {
    fn failed(&self, now: Instant) -> Told {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = &mut *state else {
            *state = Some(State { began: now, last: now, told: now, failed: 1 });
            self.lasts.store(true, Ordering::Relaxed);
            return Told::Began;
        };
        state.last = now;
        state.failed += 1;
        if now.duration_since(state.told) < AGAIN {
            return Told::Nothing;
        }
        state.told = now;
        Told::Lasts { failed: state.failed, lasted: now.duration_since(state.began) }
    }

    fn answered(&self) -> Option<Ended> {
        if !self.lasts.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.as_ref()?.last.elapsed() < QUIET {
            return None;
        }
        self.lasts.store(false, Ordering::Relaxed);
        state.take().map(|State { began, last, failed, .. }| Ended { failed, lasted: last.duration_since(began) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn r34_an_outage_is_told_when_it_begins_and_when_it_ends_with_its_count() {
        let outage = Outage::default();
        assert_eq!(outage.answered(), None, "there is none");
        let mut told = Vec::new();
        // 26,000 requests fail in 46 seconds, and some succeed meanwhile, as in a failover.
        for request in 0..26_000 {
            told.push(outage.failed(Instant::now()));
            if request % 100 == 0 {
                assert_eq!(outage.answered(), None, "others still fail");
            }
            advance(SECOND * 46 / 26_000).await;
        }
        assert_eq!(told.iter().filter(|told| **told != Told::Nothing).collect::<Vec<_>>(), [&Told::Began]);
        advance(QUIET).await;
        let ended = outage.answered().expect("it has ended");
        assert_eq!((ended.failed, ended.lasted.as_secs()), (26_000, 45));
        assert_eq!(outage.answered(), None, "it is told once");
        assert_eq!(outage.failed(Instant::now()), Told::Began, "this is the next one");
    }

    #[tokio::test(start_paused = true)]
    async fn r34_an_outage_that_lasts_is_told_again_each_minute() {
        let outage = Outage::default();
        let mut lasted = Vec::new();
        for _ in 0..150 {
            if let Told::Lasts { failed, lasted: for_long } = outage.failed(Instant::now()) {
                lasted.push((failed, for_long.as_secs()));
            }
            advance(SECOND).await;
        }
        assert_eq!(lasted, [(61, 60), (121, 120)]);
    }
}
