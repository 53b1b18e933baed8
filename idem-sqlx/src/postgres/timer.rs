//! One timer for all statements of a session.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Ends what is not answered in time.
///
/// Almost every statement is answered long before its end. So the runtime is told of the first statement's end only. If
/// that passes while a later statement runs, the timer is set again. A timer for each statement would be entered into
/// and taken out of the runtime's list each time, under a lock, and each may wake the thread that waits for the next
/// timer.
#[derive(Debug, Default)]
pub(super) struct Timer {
    end: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Begins to count. [`poll`](Self::poll) is ready when the limit is over.
    pub(super) fn start(&mut self, limit: Duration) {
        // An end that no clock can count never comes.
        self.end = Instant::now().checked_add(limit);
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(end) = self.end else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() > end {
            sleep.as_mut().reset(end);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() == end {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(end);
        }
    }

    /// The answer, or `None` if it does not come in time.
    pub(super) async fn within<T>(&mut self, limit: Duration, ask: impl Future<Output = T>) -> Option<T> {
        self.start(limit);
        let mut ask = pin!(ask);
        poll_fn(|context| match ask.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => self.poll(context).map(|()| None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{sleep, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_millis(60);

    /// How long nothing was waited for, if it has ended by itself.
    async fn silence(timer: &mut Timer, limit: Duration) -> Duration {
        let began = Instant::now();
        assert_eq!(timer.within(limit, pending::<()>()).await, None);
        began.elapsed()
    }

    #[tokio::test]
    async fn r30_each_statement_has_the_whole_limit() {
        let mut timer = Timer::default();
        for limit in [LONG, SHORT, LONG, LONG] {
            assert!(silence(&mut timer, limit).await >= limit);
        }
    }

    #[tokio::test]
    async fn r30_a_timer_that_was_set_for_an_earlier_statement_does_not_end_a_later_one() {
        let mut timer = Timer::default();
        // It is set for this statement, which is answered before.
        assert_eq!(timer.within(LONG, async { sleep(SHORT).await }).await, Some(()));
        assert!(silence(&mut timer, LONG).await >= LONG);
    }

    #[tokio::test]
    async fn r30_a_shorter_limit_does_not_wait_for_the_longer_one_before_it() {
        let mut timer = Timer::default();
        let hour = Duration::from_secs(60 * 60);
        assert_eq!(timer.within(hour, async { sleep(SHORT).await }).await, Some(()));
        timeout(Duration::from_secs(10), silence(&mut timer, SHORT)).await.expect("it ends long before");
        assert_eq!(timer.within(Duration::MAX, async { sleep(SHORT).await }).await, Some(()));
    }
}
