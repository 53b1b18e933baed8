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

/// Takes messages from one queue, and dead-letters to another queue the messages that are refused for good.
///
/// # Rules
/// - A message is deleted after its effect is committed, never before.
/// - Each message of a batch is settled by itself. A failed message is delivered again alone, after a longer time at
///   each failure.
/// - A message that is refused for good is deleted when the dead-letter queue has it, with `code` and `reason` as
///   attributes.
/// - Messages of one group of a FIFO queue are handled in their order: no message overtakes one that is to be delivered
///   again.
/// - If the queue cannot be used, or no message of a batch can be settled (as without a database), the consumer waits,
///   longer each time, up to half a minute. A single message that fails again and again also makes it wait.
///
/// # Limitations
/// A redrive policy counts every delivery, including those while the database was down or the message's group was held
/// back. Give it a large `maxReceiveCount`: its purpose is to end messages that panic each time. A body of the largest
/// size that SQS takes leaves no room for attributes. Such a message is dead-lettered without them, and its code is in
/// the log.
#[derive(Debug, Clone)]
pub struct Consumer {
    sqs: Client,
    queue_url: String,
    dead_letter_url: String,
    /// How many messages are handled at once. Those of a FIFO queue are handled one after the other.
    pub at_once: usize,
    /// How long a request to the queue waits for a first message, up to 20 s.
    pub poll: Duration,
    /// How long to wait after the first failure.
    pub pause: Duration,
}

/// Queues that a consumer cannot work with.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A message that is refused for good would be delivered for ever, or lost.
    #[error("a consumer needs a dead-letter queue, and one that is not its own queue")]
    NoDeadLetterQueue,
    /// The order of a FIFO queue would end at its dead-letter queue.
    #[error("a FIFO queue and its dead-letter queue are both FIFO, or neither is")]
    OnlyOneIsFifo,
}

impl Consumer {
    /// A consumer of the first queue, which dead-letters to the second.
    ///
    /// The client needs a timeout for an attempt that is longer than [`poll`](Self::poll): without a timeout, it waits
    /// for ever on a connection that died silently.
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

    /// Handles messages until `stop`, and then finishes the current messages. Await the future: it cannot be spawned.
    ///
    /// # Cancel safety
    /// Dropped, it leaves messages unsettled. They are delivered again after their visibility timeout, and finished
    /// work is replayed. The same holds for messages that the queue sends at the instant of `stop`.
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

    /// Whether any message could be settled, or there was none.
    async fn batch(&self, messages: &[Message], handle: &impl AsyncFn(&Message) -> Action) -> Result<bool, Error> {
        let fifo = is_fifo(&self.queue_url);
        // The groups of the current message and of each message that was not settled, for example because it panicked.
        let held = RefCell::new(HashSet::new());

        // FIFO messages are handled one by one. Otherwise the second message of a group would find its group held by
        // the first, and would have to be delivered again.
        let at_once = if fifo { 1 } else { self.at_once };
        let actions = each(messages, at_once, async |message: &Message| {
            let group = attribute(message, &GROUP).filter(|_| fifo).map(str::to_owned);
            if group.as_ref().is_some_and(|group| !held.borrow_mut().insert(group.clone())) {
                // The queue itself holds the group back until the group's first message is delivered again.
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

    /// A dead-lettered message is done. A message that could not be dead-lettered is to be delivered again.
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
                // Refused, perhaps for its size or the number of its attributes. The body alone was accepted before.
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
            // Deduplicated by its id, in case the delete that follows fails and the message is dead-lettered again.
            request = request.set_message_deduplication_id(message.message_id.clone());
            request = request.set_message_group_id(attribute(message, &GROUP).map(str::to_owned));
        }
        request.send().await?;
        Ok(())
    }

    /// A message that is not settled here is delivered again after its visibility timeout, and is replayed if it was
    /// done.
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
                // Dead-lettered before, or left for another delivery.
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

/// An attribute as SQS accepts it: not empty, no control characters, and short. A parser's reason may quote a whole
/// body, and SQS would not accept a message of twice the size.
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
