//! Renews a lease while its run is in progress, and reports its loss.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Kind};
use crate::observer::{Event, Teller};

/// A hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Renews the lease until this value is dropped or the lease is lost.
///
/// The local clock only gives up a right to run, and never claims one: the store decides whether another process may
/// run.
#[derive(Debug)]
pub(crate) struct Renewal {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    duration: Duration,
    /// As far as this process knows, it holds the lease at least until this time.
    held_until: Mutex<Instant>,
    /// The number of open transactions of the run's own steps.
    open_steps: AtomicUsize,
    /// True if the store takes no renewal while such a transaction is open, and gives the lease to no other process.
    is_exclusive: bool,
    lost: watch::Sender<bool>,
    teller: Teller,
    /// Whether the run is about to give the lease up itself.
    ends: AtomicBool,
    is_told: AtomicBool,
}

impl Renewal {
    /// `asked` is when the store was asked for the lease.
    pub(crate) fn start<F>(
        duration: Duration,
        asked: Instant,
        is_exclusive: bool,
        teller: Teller,
        try_renew: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        // The field of the terms can be set to any length. No clock counts to the end of some.
        let duration = duration.min(LONGEST);
        let shared = Arc::new(Shared {
            duration,
            held_until: Mutex::new(asked + duration),
            open_steps: AtomicUsize::new(0),
            is_exclusive,
            lost: watch::Sender::new(false),
            teller,
            ends: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        });
        let task = tokio::spawn(renew(try_renew, Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Is ready when the lease is lost.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut lost = self.shared.lost.subscribe();
        async move {
            if lost.wait_for(|lost| *lost).await.is_err() {
                // The run is over: there is no lease left to lose.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells that the lease is lost, once.
    pub(crate) fn tell_lost(&self) {
        self.shared.tell_lost();
    }

    /// Notes that the run is about to give the lease up. A renewal that waits for that has lost nothing.
    pub(crate) fn ends(&self) {
        self.shared.ends.store(true, Ordering::SeqCst);
    }

    /// Notes that the run has not given it up after all.
    pub(crate) fn goes_on(&self) {
        self.shared.ends.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_lost(&self) -> bool {
        *self.shared.lost.borrow()
    }

    /// Notes that the store was asked to renew at this time, and did.
    pub(crate) fn renewed(&self, asked: Instant) {
        self.shared.renewed(asked);
    }

    /// Notes that a step's transaction is open, until the returned value is dropped. The run does not give its lease up
    /// by its own clock meanwhile: the transaction's last statement asks the store (rule 25a).
    pub(crate) fn open_step(&self) -> OpenStep {
        self.shared.open_steps.fetch_add(1, Ordering::SeqCst);
        OpenStep(Arc::clone(&self.shared))
    }
}

/// An open transaction of a step.
#[derive(Debug)]
pub(crate) struct OpenStep(Arc<Shared>);

impl Drop for OpenStep {
    fn drop(&mut self) {
        self.0.open_steps.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn tell_lost(&self) {
        if !self.ends.load(Ordering::SeqCst) && !self.is_told.swap(true, Ordering::SeqCst) {
            self.teller.tell(|operation| Event::LeaseLost { operation });
        }
    }

    fn renewed(&self, asked: Instant) {
        let mut held_until = self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        *held_until = (*held_until).max(asked + self.duration);
    }

    /// The rest of the lease, as far as this process knows.
    fn left(&self) -> Duration {
        let held_until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        held_until.saturating_duration_since(Instant::now())
    }

    fn has_open_step(&self) -> bool {
        self.open_steps.load(Ordering::SeqCst) > 0
    }
}

async fn renew<F>(try_renew: impl Fn() -> F, shared: Arc<Shared>)
where
    F: Future<Output = Result<(), Error>>,
{
    let third = shared.duration / 3;
    let (mut pause, mut has_failed) = (third, false);
    loop {
        sleep(pause).await;
        pause = third / 4;
        if shared.is_exclusive && shared.has_open_step() {
            has_failed = false;
            continue;
        }
        // A try that does not answer must not cost the lease, and no try may keep the body running after the end of the
        // lease. But this process may have been suspended until after that end while the store still counts the lease
        // as held: then one more try is made.
        let (asked, left) = (Instant::now(), shared.left());
        let limit = if left.is_zero() && !has_failed { third } else { third.min(left) };
        match timeout(limit, try_renew()).await {
            Ok(Ok(())) => {
                shared.renewed(asked);
                (pause, has_failed) = (third, false);
                continue;
            }
            Ok(Err(error)) if error.kind() == Kind::LeaseLost => break,
            Ok(Err(error)) => {
                tracing::warn!(target: "idem", %error, "the lease was not renewed; trying again");
                shared.teller.tell(|operation| Event::RenewalFailed { operation, kind: Some(error.kind()) });
            }
            Err(_elapsed) => {
                tracing::warn!(target: "idem", "the lease was not renewed in time; trying again");
                shared.teller.tell(|operation| Event::RenewalFailed { operation, kind: None });
            }
        }
        has_failed = !shared.has_open_step();
        if has_failed {
            pause = pause.min(shared.left());
            if pause.is_zero() {
                break;
            }
        }
    }
    tracing::warn!(target: "idem", "the lease is lost; the run is given up");
    shared.tell_lost();
    shared.lost.send_replace(true);
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;

    const LEASE: Duration = Duration::from_secs(12);

    async fn lost_after<F>(try_renew: impl Fn() -> F + Send + 'static) -> Duration
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let asked = Instant::now();
        let renewal = Renewal::start(LEASE, asked, false, Teller::unobserved(), try_renew);
        timeout(LEASE * 100, renewal.lost()).await.expect("it is lost");
        asked.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn r25_a_store_that_does_not_answer_keeps_no_body_running_behind_its_lease() {
        assert_eq!(lost_after(std::future::pending).await, LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn r25_a_store_that_cannot_be_reached_and_then_does_not_answer_neither() {
        let begin = Instant::now();
        let try_renew = move || async move {
            if begin.elapsed() > LEASE * 9 / 10 {
                std::future::pending::<()>().await;
            }
            Err(Error::new(Kind::StoreUnavailable))
        };
        assert_eq!(lost_after(try_renew).await, LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn r25_a_store_that_fails_slowly_and_then_does_not_answer_neither() {
        for failing in 1..LEASE.as_millis() as u64 / 10 {
            let begin = Instant::now();
            let try_renew = move || async move {
                if begin.elapsed() >= LEASE {
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_millis(failing)).await;
                Err(Error::new(Kind::StoreUnavailable))
            };
            assert_eq!(lost_after(try_renew).await, LEASE, "{failing} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r26_a_lease_that_is_taken_is_lost_at_once() {
        assert_eq!(lost_after(async || Err(Error::new(Kind::LeaseLost))).await, LEASE / 3);
    }

    /// Answers this number of tries, and no more.
    fn answering(tries: usize) -> impl Fn() -> BoxFuture<'static, Result<(), Error>> {
        let left = AtomicUsize::new(tries);
        move || match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Box::pin(async { Ok(()) }),
            Err(_) => Box::pin(std::future::pending()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r25_a_lease_that_is_renewed_lives_until_a_lease_behind_the_last_time() {
        assert_eq!(lost_after(answering(30)).await, LEASE / 3 * 30 + LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn r25_whoever_was_stopped_asks_once_more() {
        for (answers, lost) in [(1, LEASE * 3), (0, LEASE * 2 + LEASE / 3)] {
            let begin = Instant::now();
            let renewal = Renewal::start(LEASE, begin, false, Teller::unobserved(), answering(answers));
            // The whole process is suspended after the task's first look at the clock.
            tokio::task::yield_now().await;
            tokio::time::advance(LEASE * 2).await;
            renewal.lost().await;
            assert_eq!(begin.elapsed(), lost);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r25a_a_run_inside_its_own_step_does_not_give_up_by_its_own_clock() {
        for is_exclusive in [true, false] {
            let begin = Instant::now();
            let renewal = Renewal::start(LEASE, begin, is_exclusive, Teller::unobserved(), answering(0));
            let open = renewal.open_step();
            sleep(LEASE * 3).await;
            assert!(!renewal.is_lost(), "exclusive: {is_exclusive}");
            drop(open);
            renewal.lost().await;
            // A pause, and one try. Another one may have been under way.
            assert!(begin.elapsed() <= LEASE * 3 + LEASE / 12 + LEASE / 3 * 2, "{:?}", begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r26_a_lease_that_is_taken_is_lost_inside_an_open_step_too() {
        let begin = Instant::now();
        let renewal =
            Renewal::start(LEASE, begin, false, Teller::unobserved(), async || Err(Error::new(Kind::LeaseLost)));
        let _open = renewal.open_step();
        renewal.lost().await;
        assert_eq!(begin.elapsed(), LEASE / 3);
    }

    #[tokio::test(start_paused = true)]
    async fn r25_a_lease_of_any_length_overflows_no_clock() {
        let renewal = Renewal::start(Duration::MAX, Instant::now(), false, Teller::unobserved(), || async { Ok(()) });
        renewal.renewed(Instant::now());
        assert!(!renewal.is_lost());
    }
}
