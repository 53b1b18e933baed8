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
/// One message at a time: where one has to wait, those behind it wait, too, and so keep their order.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// Where the brokers are, and whatever else librdkafka should know.
    pub config: ClientConfig,
    /// The consumer group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// The topic for messages that were refused for good: another one, which is there.
    pub dead_letters: String,
}

/// Why a consumer does not run at all.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// What is refused for good would come back, or could be put nowhere.
    #[error("a consumer needs a topic for dead letters, and one that it does not read itself")]
    NoDeadLetters,
    /// librdkafka takes no such settings.
    #[error(transparent)]
    Settings(#[from] KafkaError),
}

impl Consumer {
    /// Takes messages until `stop` is ready, then finishes the one in hand and leaves the group.
    ///
    /// A member that cannot go on leaves the group and joins it again. Whatever it had not finished is delivered again,
    /// to itself or to another one.
    ///
    /// # Errors
    /// [`ConsumerError`], at once.
    ///
    /// # Cancel safety
    /// Dropped, it loses nothing, but the thread waits for librdkafka to leave the group: better stop it.
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
            // To leave the group may take a while, in which this thread has others to serve.
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

/// The stop came.
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
        // Offsets are committed in the background, but none that we have not stored, and we store them when all is done.
        config.set("enable.auto.commit", "true");
        config.set("enable.auto.offset.store", "false");
        // A new group begins with the oldest order. librdkafka's own `latest` skips what was sent before it joined.
        config.set("auto.offset.reset", "earliest");
        let kafka: StreamConsumer = config.create()?;
        kafka.subscribe(&[&consumer.topic])?;

        let mut config = consumer.config.clone();
        config.set("acks", "all");
        // A message that cannot be put aside by then is delivered again.
        config.set("message.timeout.ms", "10000");
        // It came through a broker, which knows better what is too large.
        config.set("message.max.bytes", "100000000");
        Ok(Self { kafka, producer: config.create()?, dead_letters: consumer.dead_letters.clone() })
    }

    /// `leaves` counts how often the group was left in a row.
    async fn run(
        &self,
        handle: &impl AsyncFn(&[u8]) -> Action,
        mut stop: impl Future<Output = ()> + Unpin,
        leaves: &mut u32,
    ) -> KafkaResult<Stopped> {
        // For each partition, how often its next message has failed in a row.
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
                // A batch that cannot be read would be passed over, and the next message's offset would take it along.
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

    /// Handles one message. If it is to be delivered again, then after the time that is returned.
    async fn settle(
        &self,
        message: &BorrowedMessage<'_>,
        handle: &impl AsyncFn(&[u8]) -> Action,
    ) -> KafkaResult<Option<Duration>> {
        let (partition, offset) = (message.partition(), message.offset());
        // What panics now would panic again, with all messages of the partition behind it.
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
            // From here on we are given this message before any other of its partition. Were this left out, the next one
            // to be done would take this one's offset along, and it would be lost.
            self.kafka.seek(message.topic(), partition, Offset::Offset(offset), Timeout::Never)?;
        } else if let Err(error) = self.kafka.store_offset_from_message(message) {
            // The partition is another member's by now, who is given the message again and finds it done.
            info!(partition, offset, %error, "offset not stored");
        }
        Ok(pause)
    }

    /// Returns when the dead-letter topic has it.
    async fn put_aside(&self, message: &BorrowedMessage<'_>, code: &str, reason: &str) -> KafkaResult<()> {
        let whole = self.send_aside(message, message.payload(), code, reason).await;
        if whole.as_ref().is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge))
        {
            // Better a dead letter that says where it lies than a partition that stands still.
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

/// Whether nothing is wrong but that a broker cannot be reached, or that this member was too slow and is out.
fn is_away(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, PollExceeded};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure | PollExceeded))
}

/// An error if the stop came first.
async fn wait(pause: Duration, stop: impl Future<Output = ()> + Unpin) -> Result<(), Stopped> {
    match select(stop, pin!(tokio::time::sleep(pause))).await {
        Either::Left(_) => Err(Stopped),
        Either::Right(_) => Ok(()),
    }
}
