//! What a consumer does with a message, for any broker.
//!
//! ```
//! use idem_core::message::Action;
//! use idem_core::{Error, Kind};
//!
//! let stored: Result<(), Error> = Ok(());
//! assert_eq!(Action::of(&stored), Action::Acknowledge);
//!
//! let elsewhere: Result<(), Error> = Err(Error::new(Kind::KeyInFlight));
//! assert!(matches!(Action::of(&elsewhere), Action::Redeliver { .. }));
//! ```
//!
//! A broker that delivers at least once sometimes delivers twice. An idempotent function makes the second delivery
//! harmless. The consumer still has to tell the broker what became of a message, and only after the commit.
//!
//! # Rules
//! - Done or replayed: acknowledge.
//! - Running elsewhere, or the store cannot be reached: have the message redelivered. It is not acknowledged, since the
//!   other run may fail.
//! - Refused for good: dead-letter it, with the reason. A redelivery would be refused again.
//! - The deployment is at fault, such as a consumer that runs before its migration: have the message redelivered. It
//!   is handled when the deployment is corrected.
//!
//! # Limitations
//! - A message is compared with its first delivery by serde's data model, in which a set is a list. A `HashSet` in a
//!   message iterates in another order each time the message is read, so the redelivery is refused as `key_reused` and
//!   dead-lettered. Use a `BTreeSet`, mark the field with `#[serde(serialize_with = "idem_core::unordered")]`, or name
//!   the parts to compare: `fingerprint = (order.id, Unordered(&order.tags))`. See [`Unordered`](crate::Unordered).
//! - The broker's settings say how often a message is delivered before the broker gives it up. Kafka has no such
//!   setting, so a message that fails each time holds up its partition. There the consumer has to dead-letter such
//!   messages by a [`Failure`] of its own: for a panic, for `undo_failed` if an undo fails for good, and for
//!   `store_failed` if a trigger of yours refuses messages by an SQLSTATE outside of the classes 22 and 23. When such a
//!   message is sent again from the dead-letter queue, it resumes with the steps or undos that are left.
//! - A message that comes again after its record has expired runs again. The `ttl` must be longer than the broker keeps
//!   messages, and longer than they stay in a dead-letter queue before an operator sends them again.

use std::borrow::Cow;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};

use crate::error::{Error, Kind};

/// What a consumer does with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the broker waits to be told"]
pub enum Action {
    /// Acknowledge the message: its effect is committed, now or by an earlier delivery.
    Acknowledge,
    /// Do not acknowledge the message, so that the broker delivers it again, after this time if the broker can wait.
    Redeliver {
        /// How long to wait, if the broker supports a delay.
        after: Duration,
    },
    /// Dead-letter the message with the reason, and acknowledge it.
    DeadLetter {
        /// A stable code.
        code: Cow<'static, str>,
        /// The reason, for people.
        reason: String,
    },
}

impl Action {
    /// The pause before a redelivery if the failure names none.
    pub const PAUSE: Duration = Duration::from_secs(1);

    /// The action for the result of a call.
    pub fn of<T, E: Failure>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Acknowledge,
            Err(failure) => failure.action(),
        }
    }

    /// A redelivery after [`PAUSE`](Self::PAUSE).
    pub const fn redeliver() -> Self {
        Self::Redeliver { after: Self::PAUSE }
    }

    /// Has the broker wait longer if earlier deliveries failed: see [`backoff`].
    ///
    /// `earlier` is the number of deliveries before this one. An action that is no redelivery stays as it is.
    pub fn backed_off(self, earlier: u32) -> Self {
        match self {
            Self::Redeliver { after } => Self::Redeliver { after: backoff(after, earlier) },
            settled => settled,
        }
    }

    /// Dead-letters the message: `code` is stable, `reason` is for people.
    pub fn dead_letter(code: impl Into<Cow<'static, str>>, reason: impl ToString) -> Self {
        Self::DeadLetter { code: code.into(), reason: reason.to_string() }
    }
}

/// An error that decides what becomes of its message.
///
/// ```
/// use idem_core::message::{Action, Failure};
///
/// enum ReserveError {
///     NoSuchItem,
///     Store(idem_core::Error),
/// }
///
/// impl Failure for ReserveError {
///     fn action(&self) -> Action {
///         match self {
///             Self::NoSuchItem => Action::dead_letter("no_such_item", "the order names an item that is not there"),
///             Self::Store(error) => error.action(),
///         }
///     }
/// }
/// ```
pub trait Failure {
    /// The action for the message.
    fn action(&self) -> Action;
}

impl Failure for Error {
    fn action(&self) -> Action {
        match self.kind() {
            Kind::KeyInFlight
            | Kind::RetryLater
            | Kind::StoreUnavailable
            // A consumer may be deployed before its migration: its messages have to be there when the migration has run.
            | Kind::DeploymentBroken
            | Kind::StoreFailed
            | Kind::OutcomeUnknown
            | Kind::DeadlineExceeded
            | Kind::Panicked
            | Kind::LeaseLost
            | Kind::RunRejected
            | Kind::UndoFailed
            | Kind::AttemptTooSoon
            | Kind::NothingToResume
            // An instance of the release that began the run can still end it.
            | Kind::StepMismatch
            | Kind::BodyUnreadable => Action::Redeliver { after: self.retry_after().unwrap_or(Action::PAUSE) },
            // A tombstone may stand for a result or for a final error. Acknowledging it would lose a final error.
            Kind::ReplyTooLarge
            | Kind::RetryTooLate
            | Kind::FirstSentTooOld
            | Kind::FirstSentInvalid
            | Kind::KeyMissing
            | Kind::KeyInvalid
            | Kind::KeyReused
            | Kind::ScopeInvalid
            | Kind::TtlInvalid
            | Kind::FingerprintFailed
            | Kind::BodyTooLarge
            | Kind::RecordUnreadable
            | Kind::DataRefused
            | Kind::TransactionEnded
            | Kind::AttemptsExhausted
            | Kind::GivenUp
            // A retry of these two can help, but each delivery repeats a mistake of the handler.
            | Kind::TransactionAborted
            | Kind::ReplyFailed => Action::dead_letter(self.code(), self),
        }
    }
}

/// How long to wait after a failure with `earlier` failures before it: `first`, doubled for each earlier one, up to 30
/// s.
///
/// ```
/// use std::time::Duration;
/// use idem_core::message::backoff;
///
/// let waits = [0, 1, 2, 9].map(|earlier| backoff(Duration::from_secs(1), earlier).as_secs());
/// assert_eq!(waits, [1, 2, 4, 30]);
/// ```
///
/// A broker or a database that is down for an hour is asked twice a minute, and its consumer resumes at most half a
/// minute after it is back. `first` itself is never cut: a store that asks for a minute gets a minute.
pub fn backoff(first: Duration, earlier: u32) -> Duration {
    const MOST: Duration = Duration::from_secs(30);
    let doubled = first.saturating_mul(2_u32.saturating_pow(earlier));
    doubled.min(MOST).max(first)
}

/// Handles the messages of a batch, `at_once` at a time, and returns the action for each, in the order of the messages.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use idem_core::message::{Action, each};
///
/// let actions = each(&["1", "two", "3"], 2, async |text: &&str| match text.parse::<u32>() {
///     Ok(_) => Action::Acknowledge,
///     Err(error) => Action::dead_letter("malformed", error),
/// })
/// .await;
/// assert!(matches!(actions[1], Action::DeadLetter { .. }));
/// assert_eq!(actions[2], Action::Acknowledge);
/// # }
/// ```
///
/// It can be spawned, where the task owns what it handles:
///
/// ```
/// # use idem_core::message::{Action, each};
/// # async fn handled(order: &String) -> Action { if order.is_empty() { Action::redeliver() } else { Action::Acknowledge } }
/// # fn consume(orders: Vec<String>) {
/// tokio::spawn(async move { each(&orders, 4, async |order: &String| handled(order).await).await });
/// # }
/// ```
///
/// # Rules
/// - The failure of one message does not affect the others. A message whose handling panics is redelivered.
/// - Messages that must be handled one after the other, such as those of one Kafka partition, need `at_once` to be 1.
///
/// # Cancel safety
/// Dropped, it returns no action for any message, so all are delivered again. Messages that were done are replayed.
// `Fn(&'m M) -> A` and not `AsyncFn(&M)`, nor a closure inside: rustc cannot show for every lifetime that the future is
// `Send`, and a consumer that spawns a task for a batch would not compile.
pub async fn each<'m, M, A>(messages: &'m [M], at_once: usize, handle: impl Fn(&'m M) -> A) -> Vec<Action>
where
    A: Future<Output = Action>,
{
    let mut running = FuturesOrdered::new();
    let mut actions = Vec::with_capacity(messages.len());
    for message in messages {
        if running.len() >= at_once.max(1) {
            actions.extend(running.next().await);
        }
        // The call may panic before it gives a future.
        let called = catch_unwind(AssertUnwindSafe(|| handle(message)));
        running.push_back(async { AssertUnwindSafe(called.ok()?).catch_unwind().await.ok() });
    }
    while let Some(action) = running.next().await {
        actions.push(action);
    }
    actions.into_iter().map(|action| action.unwrap_or_else(Action::redeliver)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn action(kind: Kind) -> Action {
        Error::new(kind).action()
    }

    #[test]
    fn what_may_still_happen_is_redelivered() {
        for kind in [Kind::KeyInFlight, Kind::StoreUnavailable, Kind::RetryLater, Kind::OutcomeUnknown] {
            assert!(matches!(action(kind), Action::Redeliver { .. }), "{kind:?}");
        }
    }

    #[test]
    fn r18a_what_is_not_the_messages_fault_is_delivered_again() {
        for kind in [Kind::DeploymentBroken, Kind::StoreFailed, Kind::StoreUnavailable, Kind::RetryLater] {
            assert!(matches!(action(kind), Action::Redeliver { .. }), "{kind:?}");
            assert!(!kind.is_final(), "{kind:?}");
        }
        assert!(matches!(action(Kind::DataRefused), Action::DeadLetter { .. }) && Kind::DataRefused.is_final());
    }

    #[test]
    fn what_would_be_refused_again_is_put_aside_with_its_code() {
        // A body that ended its transaction is among them: redelivered again and again, it would run once its record
        // expires.
        for kind in
            [Kind::KeyReused, Kind::KeyMissing, Kind::ReplyTooLarge, Kind::RecordUnreadable, Kind::TransactionEnded]
        {
            let Action::DeadLetter { code, reason } = action(kind) else { panic!("{kind:?}") };
            assert_eq!(code, kind.code());
            assert!(!reason.is_empty());
        }
    }

    #[test]
    fn a_redelivery_waits_longer_each_time_and_nothing_else_changes() {
        let redeliver = |seconds| Action::Redeliver { after: Duration::from_secs(seconds) };
        assert_eq!(redeliver(2).backed_off(0), redeliver(2));
        assert_eq!(redeliver(2).backed_off(2), redeliver(8));
        assert_eq!(redeliver(2).backed_off(u32::MAX), redeliver(30));
        assert_eq!(redeliver(60).backed_off(3), redeliver(60));
        assert_eq!(Action::Acknowledge.backed_off(3), Action::Acknowledge);
        assert_eq!(Action::dead_letter("a", "b").backed_off(3), Action::dead_letter("a", "b"));
    }

    #[test]
    fn what_has_run_is_acknowledged() {
        assert_eq!(Action::of(&Ok::<_, Error>(())), Action::Acknowledge);
    }

    #[tokio::test]
    async fn one_message_of_a_batch_fails_alone_and_the_order_stays() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let handle = async |message: &u32| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            match message {
                2 => panic!("message 2"),
                3 => Action::dead_letter("three", "is not for us"),
                _ => Action::Acknowledge,
            }
        };
        let actions = each(&[1, 2, 3, 4], 2, handle).await;
        let expected = [
            Action::Acknowledge,
            Action::redeliver(),
            Action::dead_letter("three", "is not for us"),
            Action::Acknowledge,
        ];
        assert_eq!(actions, expected);
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    struct Message {
        number: u32,
    }

    struct Handler(Vec<u32>);

    impl Handler {
        async fn handle(&self, message: &Message) -> Action {
            tokio::task::yield_now().await;
            if self.0.contains(&message.number) { Action::Acknowledge } else { Action::redeliver() }
        }
    }

    /// As consumers write it: the batch, the store and the handler are the task's own.
    #[tokio::test]
    async fn a_batch_is_handled_in_a_task_of_its_own() {
        let known = std::sync::Arc::new(Handler(vec![1, 3]));
        let batch = || [1, 2, 3].map(|number| Message { number });
        let expected = [Action::Acknowledge, Action::redeliver(), Action::Acknowledge];

        let (handler, messages) = (known.clone(), batch());
        let borrowing =
            tokio::spawn(
                async move { each(&messages, 2, async |message: &Message| handler.handle(message).await).await },
            );
        assert_eq!(borrowing.await.expect("no panic"), expected);

        let (handler, messages) = (known.clone(), batch());
        let untyped =
            tokio::spawn(async move { each(&messages, 2, async |message| handler.handle(message).await).await });
        assert_eq!(untyped.await.expect("no panic"), expected);

        let (handler, messages) = (known.clone(), batch());
        let blocks = tokio::spawn(async move {
            let handler = &handler;
            each(&messages, 2, |message| async move { handler.handle(message).await }).await
        });
        assert_eq!(blocks.await.expect("no panic"), expected);

        async fn by_name(message: &Message) -> Action {
            Handler(vec![1, 3]).handle(message).await
        }
        let messages = batch();
        let named = tokio::spawn(async move { each(&messages, 1, by_name).await });
        assert_eq!(named.await.expect("no panic"), expected);
    }

    #[tokio::test]
    async fn r15_a_panic_before_the_first_await_is_a_redelivery() {
        fn handle(number: &u32) -> std::future::Ready<Action> {
            assert!(*number != 1, "message 1");
            std::future::ready(Action::Acknowledge)
        }
        assert_eq!(each(&[1, 2], 1, handle).await, [Action::redeliver(), Action::Acknowledge]);
    }
}
