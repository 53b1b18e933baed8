//! Takes messages from a queue, and tells the queue what became of each.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use aws_sdk_sqs::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName,
};
use aws_sdk_sqs::{Client, Error};
use idem_core::message::{Action, backoff, each};
use tokio::time::sleep;
use tracing::{Instrument, info, info_span, warn};

const RECEIVE_COUNT: MessageSystemAttributeName = MessageSystemAttributeName::ApproximateReceiveCount;
const GROUP: MessageSystemAttributeName = MessageSystemAttributeName::MessageGroupId;

/// Takes messages from one queue, and puts aside into another what is refused for good.
///
/// # Rules
/// - A message is deleted after its effect is committed, never before.
/// - Of a batch, each message is settled by itself: one that fails is delivered again alone, later each time.
/// - One that is refused for good is deleted when the dead-letter queue has it, with `code` and `reason` as attributes.
/// - Messages of one group of a FIFO queue are handled in their order: none overtakes one that is to come again.
/// - Where the queue cannot be used, or nothing of a batch can be settled (as without a database), the consumer waits,
///   longer each time, up to half a minute. A lone message that fails again and again makes it wait, too.
///
/// # Limitations
/// A redrive policy counts every delivery, also those while the database was gone or the message's group was held back.
/// Give it a large `maxReceiveCount`; what panics each time is for it to end. A body of the largest size that SQS takes
/// leaves no room for attributes: then it is put aside without them, and its code is in the log.
#[derive(Debug, Clone)]
pub struct Consumer {
    sqs: Client,
    queue_url: String,
    dead_letter_url: String,
    /// How many messages are handled at once. Those of a FIFO queue are handled one after the other.
    pub at_once: usize,
    /// How long the queue is asked to wait for a first message, up to 20 s.
    pub poll: Duration,
    /// How long to wait after the first failure.
    pub pause: Duration,
}

/// Queues that a consumer cannot work with.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// What is refused for good would be delivered for ever, or lost.
    #[error("a consumer needs a dead-letter queue, and one that is not its own queue")]
    NoDeadLetterQueue,
    /// The order of a FIFO queue would end at its dead-letter queue.
    #[error("a FIFO queue and its dead-letter queue are both FIFO, or neither is")]
    OnlyOneIsFifo,
}

impl Consumer {
    /// A consumer of the first queue that puts aside into the second.
    ///
    /// The client needs a timeout for an attempt that is longer than [`poll`](Self::poll): without one, a connection that
    /// died without a word is waited for without an end.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn new(sqs: Client, queue_url: &str, dead_letter_url: &str) -> Result<Self, QueueError> {
        if dead_letter_url.is_empty() || dead_letter_url == queue_url {
            return Err(QueueError::NoDeadLetterQueue);
        }
        if is_fifo(queue_url) != is_fifo(dead_letter_url) {
            return Err(QueueError::OnlyOneIsFifo);
        }
        Ok(Self {
            sqs,
            queue_url: queue_url.to_owned(),
            dead_letter_url: dead_letter_url.to_owned(),
            at_once: 4,
            poll: Duration::from_secs(20),
            pause: Duration::from_secs(1),
        })
    }

    /// Handles messages until `stop`, and after it what is in hand. It is to be awaited, and cannot be spawned.
    ///
    /// # Cancel safety
    /// Dropped, it leaves messages unsettled: they come again after their visibility timeout, and what was done is
    /// replayed. The same goes for messages that the queue sends in the instant of `stop`.
    pub async fn run(&self, handle: impl AsyncFn(&Message) -> Action, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut failures = 0_u32;
        loop {
            let received = tokio::select! {
                biased;
                () = &mut stop => return,
                received = self.receive() => received,
            };
            let settled = match received {
                Ok(messages) => self.batch(&messages, &handle).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => warn!("nothing of the batch could be done"),
                Err(error) => warn!(error = %DisplayErrorContext(error), "the queue cannot be used"),
            }
            let pause = backoff(self.pause, failures);
            failures = failures.saturating_add(1);
            warn!(?pause, failures, "waiting");
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn receive(&self) -> Result<Vec<Message>, Error> {
        let request = self.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
        let request = request.wait_time_seconds(whole_seconds(self.poll));
        let request = request.set_message_system_attribute_names(Some(vec![RECEIVE_COUNT, GROUP]));
        let request = request.message_attribute_names("All");
        Ok(request.send().await?.messages.unwrap_or_default())
    }

    /// Whether anything could be settled, if there was anything.
    async fn batch(&self, messages: &[Message], handle: &impl AsyncFn(&Message) -> Action) -> Result<bool, Error> {
        let fifo = is_fifo(&self.queue_url);
        // The group of the message in hand, and of each message that was not settled, also because it panicked.
        let held = RefCell::new(HashSet::new());

        // At once, the second message of a group would find its group held by the first, and would have to come again.
        let at_once = if fifo { 1 } else { self.at_once };
        let actions = each(messages, at_once, async |message: &Message| {
            let group = attribute(message, &GROUP).filter(|_| fifo).map(str::to_owned);
            if group.as_ref().is_some_and(|group| !held.borrow_mut().insert(group.clone())) {
                // The queue itself holds the group back until its first message comes again.
                return Action::Redeliver { after: Duration::ZERO };
            }
            let span = info_span!("message", id = message.message_id());
            let action = self.handled(message, handle).instrument(span).await;
            if let (Some(group), Action::Acknowledge) = (group, &action) {
                held.borrow_mut().remove(&group);
            }
            action
        })
        .await;
        self.settle(messages, &actions).await?;
        Ok(messages.is_empty() || actions.contains(&Action::Acknowledge))
    }

    /// What was put aside is done with; what could not be is to be delivered again.
    async fn handled(&self, message: &Message, handle: &impl AsyncFn(&Message) -> Action) -> Action {
        let (code, reason) = match handle(message).await {
            Action::DeadLetter { code, reason } => (code, reason),
            action => return action,
        };
        if let Err(error) = self.put_aside(message, &code, &reason).await {
            warn!(%code, error = %DisplayErrorContext(error), "not put aside: it stays in the queue");
            return Action::redeliver();
        }
        warn!(%code, "put aside");
        Action::Acknowledge
    }

    async fn put_aside(&self, message: &Message, code: &str, reason: &str) -> Result<(), Error> {
        let mut attributes = message.message_attributes.clone().unwrap_or_default();
        attributes.extend([("code".to_owned(), text(code)?), ("reason".to_owned(), text(reason)?)]);
        match self.send_aside(message, Some(attributes)).await {
            Err(error) if error.code().is_some() => {
                // Refused, perhaps for its size or the number of its attributes. The body alone was taken once.
                warn!(%code, error = %DisplayErrorContext(error), "put aside without its attributes");
                self.send_aside(message, None).await
            }
            sent => sent,
        }
    }

    async fn send_aside(
        &self,
        message: &Message,
        attributes: Option<HashMap<String, MessageAttributeValue>>,
    ) -> Result<(), Error> {
        let request = self.sqs.send_message().queue_url(&self.dead_letter_url);
        let mut request = request.message_body(message.body().unwrap_or_default()).set_message_attributes(attributes);
        if is_fifo(&self.dead_letter_url) {
            // By its id it is there once, also where the delete that follows fails, and it is put aside again.
            request = request.set_message_deduplication_id(message.message_id.clone());
            request = request.set_message_group_id(attribute(message, &GROUP).map(str::to_owned));
        }
        request.send().await?;
        Ok(())
    }

    /// Whatever is not settled here comes again in its own time, and is replayed if it was done.
    async fn settle(&self, messages: &[Message], actions: &[Action]) -> Result<(), Error> {
        let (mut done, mut later) = (Vec::new(), Vec::new());
        for ((at, message), action) in messages.iter().enumerate().zip(actions) {
            let (id, receipt) = (at.to_string(), message.receipt_handle.clone());
            let count = attribute(message, &RECEIVE_COUNT).and_then(|count| count.parse::<u32>().ok());
            let earlier = count.unwrap_or_default().saturating_sub(1);
            match action.clone().backed_off(earlier) {
                Action::Acknowledge => {
                    done.push(DeleteMessageBatchRequestEntry::builder().id(id).set_receipt_handle(receipt).build()?);
                }
                Action::Redeliver { after } => {
                    let after = whole_seconds(after);
                    info!(id = message.message_id(), earlier, after, "to be delivered again");
                    let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).visibility_timeout(after);
                    later.push(entry.set_receipt_handle(receipt).build()?);
                }
                // Put aside before, or left to come again.
                Action::DeadLetter { .. } => {}
            }
        }
        if !done.is_empty() {
            let request = self.sqs.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(done));
            report(messages, request.send().await?.failed());
        }
        if !later.is_empty() {
            let request = self.sqs.change_message_visibility_batch().queue_url(&self.queue_url);
            report(messages, request.set_entries(Some(later)).send().await?.failed());
        }
        Ok(())
    }
}

/// An attribute as SQS takes it: not empty, no control characters, and short. A parser's reason may quote a whole body,
/// and a message of twice the size would not be taken.
fn text(value: &str) -> Result<MessageAttributeValue, BuildError> {
    let short: String = value
        .chars()
        .filter(|letter| !letter.is_control() && !matches!(letter, '\u{fffe}' | '\u{ffff}'))
        .take(1000)
        .collect();
    let short = if short.is_empty() { "none".to_owned() } else { short };
    MessageAttributeValue::builder().data_type("String").string_value(short).build()
}

/// Some receipts are refused once the message's visibility timeout is over.
fn report(messages: &[Message], failed: &[BatchResultErrorEntry]) {
    for entry in failed {
        let id = entry.id().parse().ok().and_then(|at: usize| messages.get(at)?.message_id());
        warn!(id, code = entry.code(), "not settled: it comes again");
    }
}

fn is_fifo(queue_url: &str) -> bool {
    queue_url.ends_with(".fifo")
}

fn attribute<'m>(message: &'m Message, name: &MessageSystemAttributeName) -> Option<&'m str> {
    message.attributes()?.get(name).map(String::as_str)
}

/// Rounded up, and no more than the twelve hours that SQS takes.
fn whole_seconds(time: Duration) -> i32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i32::try_from(seconds).unwrap_or(i32::MAX).min(43_200)
}
