//! The loop: a message is done when its effect is committed, and only then.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use idem_core::message::{Action, backoff};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset};
use tracing::{info, warn};

/// A member of a consumer group.
///
/// It handles one message at a time. If a message has to wait, the messages after it wait too, and so keep their order.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// The addresses of the brokers, and any other setting of librdkafka.
    pub config: ClientConfig,
    /// The consumer group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// The topic for messages that were refused for good. It must exist, and be another topic than the one that is
    /// read.
    pub dead_letters: String,
}

/// Why a consumer does not run at all.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// A message that is refused for good would come back, or could not be dead-lettered.
    #[error("a consumer needs a topic for dead letters, and one that it does not read itself")]
    NoDeadLetters,
    /// librdkafka does not accept the settings.
    #[error(transparent)]
    Settings(#[from] KafkaError),
}

impl Consumer {
    /// Takes messages until `stop` is ready, then finishes the current message and leaves the group.
    ///
    /// A member that cannot continue leaves the group and joins it again. Messages that it had not finished are
    /// delivered again, to itself or to another member.
    ///
    /// # Errors
    /// [`ConsumerError`], at once.
    ///
    /// # Cancel safety
    /// Dropped, it loses no message, but its thread waits for librdkafka to leave the group. It is better to stop it.
    pub async fn run(
        &self,
        handle: impl AsyncFn(&[u8]) -> Action,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ConsumerError> {
        if self.dead_letters.is_empty() || self.dead_letters == self.topic {
            return Err(ConsumerError::NoDeadLetters);
        }
        let mut stop = pin!(stop);
        let mut failures = 0;
        loop {
            let member = Member::join(self)?;
            let ended = member.run(&handle, stop.as_mut(), &mut failures).await;
            // Leaving the group may take a while, and must not block this thread.
            _ = tokio::task::spawn_blocking(move || drop(member)).await;
            let Err(error) = ended else { return Ok(()) };
            let pause = backoff(Action::PAUSE, failures);
            failures += 1;
            warn!(%error, ?pause, "left the group, will join it again");
            if wait(pause, stop.as_mut()).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// `stop` was ready.
struct Stopped;

struct Member {
    kafka: StreamConsumer,
    producer: FutureProducer,
    dead_letters: String,
}

impl Member {
    fn join(consumer: &Consumer) -> KafkaResult<Self> {
        let mut config = consumer.config.clone();
        config.set("group.id", &consumer.group);
        // Offsets are committed in the background, but only after we have stored them, and we store an offset when its
        // message is done.
        config.set("enable.auto.commit", "true");
        config.set("enable.auto.offset.store", "false");
        // A new group begins with the oldest order. librdkafka's own `latest` skips what was sent before it joined.
        config.set("auto.offset.reset", "earliest");
        let kafka: StreamConsumer = config.create()?;
        kafka.subscribe(&[&consumer.topic])?;

        let mut config = consumer.config.clone();
        config.set("acks", "all");
        // A message that cannot be dead-lettered by then is delivered again.
        config.set("message.timeout.ms", "10000");
        // The message came through a broker, so the broker decides what is too large.
        config.set("message.max.bytes", "100000000");
        Ok(Self { kafka, producer: config.create()?, dead_letters: consumer.dead_letters.clone() })
    }

    /// `leaves` counts how often in a row the group was left.
    async fn run(
        &self,
        handle: &impl AsyncFn(&[u8]) -> Action,
        mut stop: impl Future<Output = ()> + Unpin,
        leaves: &mut u32,
    ) -> KafkaResult<Stopped> {
        // For each partition, how often in a row its next message has failed.
        let mut failures: HashMap<i32, u32> = HashMap::new();
        loop {
            let received = match select(&mut stop, pin!(self.kafka.recv())).await {
                Either::Left(((), _)) => return Ok(Stopped),
                Either::Right((received, _)) => received,
            };
            let message = match received {
                Ok(message) => message,
                Err(error) if is_away(&error) => {
                    // librdkafka connects again by itself, and waits longer each time, up to ten seconds.
                    warn!(%error, "no message for now");
                    continue;
                }
                // A batch that cannot be read would be skipped, and the offset of the next message would commit the
                // batch as well.
                Err(error) => return Err(error),
            };
            let partition = message.partition();
            let Some(after) = self.settle(&message, handle).await? else {
                failures.remove(&partition);
                *leaves = 0;
                continue;
            };
            let earlier = failures.entry(partition).or_default();
            let pause = backoff(after, *earlier);
            *earlier = earlier.saturating_add(1);
            warn!(partition, offset = message.offset(), ?pause, "will be delivered again");
            if wait(pause, &mut stop).await.is_err() {
                return Ok(Stopped);
            }
        }
    }

    /// Handles one message. If the message is to be delivered again, returns the time to wait before that.
    async fn settle(
        &self,
        message: &BorrowedMessage<'_>,
        handle: &impl AsyncFn(&[u8]) -> Action,
    ) -> KafkaResult<Option<Duration>> {
        let (partition, offset) = (message.partition(), message.offset());
        // A message that panics would panic again, and block all later messages of the partition.
        let handled = AssertUnwindSafe(handle(message.payload().unwrap_or_default())).catch_unwind().await;
        let action = handled.unwrap_or_else(|_| Action::dead_letter("panicked", "its handler panicked"));
        let pause = match action {
            Action::Acknowledge => None,
            Action::DeadLetter { code, reason } => match self.put_aside(message, &code, &reason).await {
                Ok(()) => {
                    warn!(partition, offset, %code, "dead-lettered");
                    None
                }
                Err(error) => {
                    warn!(partition, offset, %error, "not dead-lettered");
                    Some(Action::PAUSE)
                }
            },
            Action::Redeliver { after } => Some(after),
        };
        if pause.is_some() {
            // After this, we get this message before any other of its partition. Without the seek, the offset of the
            // next finished message would also commit this message, which would be lost.
            self.kafka.seek(message.topic(), partition, Offset::Offset(offset), Timeout::Never)?;
        } else if let Err(error) = self.kafka.store_offset_from_message(message) {
            // The partition now belongs to another member, which gets the message again and finds it done.
            info!(partition, offset, %error, "offset not stored");
        }
        Ok(pause)
    }

    /// Returns when the dead-letter topic has the message.
    async fn put_aside(&self, message: &BorrowedMessage<'_>, code: &str, reason: &str) -> KafkaResult<()> {
        let whole = self.send_aside(message, message.payload(), code, reason).await;
        if whole.as_ref().is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge))
        {
            // A dead letter that only says where the message is, is better than a blocked partition.
            return self.send_aside(message, None, code, "too large; see dead-letter-from").await;
        }
        whole
    }

    async fn send_aside(
        &self,
        message: &BorrowedMessage<'_>,
        payload: Option<&[u8]>,
        code: &str,
        reason: &str,
    ) -> KafkaResult<()> {
        // A parser's reason may quote the whole payload.
        let reason: String = reason.chars().take(1000).collect();
        let from = format!("{}-{}@{}", message.topic(), message.partition(), message.offset());
        let headers = message.headers().map_or_else(OwnedHeaders::new, BorrowedHeaders::detach);
        let headers = [("dead-letter-code", code), ("dead-letter-reason", &reason), ("dead-letter-from", &from)]
            .into_iter()
            .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.dead_letters).headers(headers);
        record.key = message.key();
        record.payload = payload;
        self.producer.send(record, Timeout::Never).await.map(drop).map_err(|(error, _)| error)
    }
}

/// Whether the only problem is that a broker cannot be reached, or that this member was too slow and was excluded.
fn is_away(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, PollExceeded};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure | PollExceeded))
}

/// Returns an error if `stop` was ready first.
async fn wait(pause: Duration, stop: impl Future<Output = ()> + Unpin) -> Result<(), Stopped> {
    match select(stop, pin!(tokio::time::sleep(pause))).await {
        Either::Left(_) => Err(Stopped),
        Either::Right(_) => Ok(()),
    }
}
