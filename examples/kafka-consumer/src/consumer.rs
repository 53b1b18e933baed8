//! The loop: a message is done when its effect is committed, and only then.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use idem_core::message::{Action, backoff};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
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
    /// The topic for messages that were refused for good.
    pub dead_letters: String,
}

impl Consumer {
    /// Takes messages until `stop` is ready, then finishes the one in hand and leaves the group.
    ///
    /// A member that cannot go on leaves the group and joins it again. Whatever it had not finished is delivered again,
    /// to itself or to another one.
    pub async fn run(&self, handle: impl AsyncFn(&[u8]) -> Action, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut failures = 0;
        loop {
            let error = match Member::join(self) {
                Ok(member) => match member.run(&handle, stop.as_mut(), &mut failures).await {
                    Ok(Stopped) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let pause = backoff(Action::PAUSE, failures);
            failures += 1;
            warn!(%error, ?pause, "left the group, will join it again");
            if wait(pause, stop.as_mut()).await.is_err() {
                return;
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
        config.set("enable.auto.offset.store", "false");
        // A new group begins with the oldest order. librdkafka's own `latest` skips what was sent before it joined.
        config.set("auto.offset.reset", "earliest");
        let kafka: StreamConsumer = config.create()?;
        kafka.subscribe(&[&consumer.topic])?;

        let mut config = consumer.config.clone();
        // A message that cannot be put aside by then is delivered again.
        config.set("message.timeout.ms", "10000");
        Ok(Self { kafka, producer: config.create()?, dead_letters: consumer.dead_letters.clone() })
    }

    /// `failures` counts those since a message was last done with.
    async fn run(
        &self,
        handle: &impl AsyncFn(&[u8]) -> Action,
        mut stop: impl Future<Output = ()> + Unpin,
        failures: &mut u32,
    ) -> KafkaResult<Stopped> {
        loop {
            let received = match select(&mut stop, pin!(self.kafka.recv())).await {
                Either::Left(((), _)) => return Ok(Stopped),
                Either::Right((received, _)) => received,
            };
            let message = match received {
                Ok(message) => message,
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error),
                Err(error) => {
                    // librdkafka connects again by itself, and waits longer each time, up to ten seconds.
                    warn!(%error, "no message for now");
                    continue;
                }
            };
            let Some(after) = self.settle(&message, handle).await? else {
                *failures = 0;
                continue;
            };
            let pause = backoff(after, *failures);
            *failures = failures.saturating_add(1);
            warn!(partition = message.partition(), offset = message.offset(), ?pause, "will be delivered again");
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
                    warn!(partition, offset, %code, reason, "dead-lettered");
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
        let from = format!("{}-{}@{}", message.topic(), message.partition(), message.offset());
        let headers = message.headers().map_or_else(OwnedHeaders::new, BorrowedHeaders::detach);
        let headers = [("dead-letter-code", code), ("dead-letter-reason", reason), ("dead-letter-from", &from)]
            .into_iter()
            .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.dead_letters).headers(headers);
        record.key = message.key();
        record.payload = message.payload();
        self.producer.send(record, Timeout::Never).await.map(drop).map_err(|(error, _)| error)
    }
}

/// An error if the stop came first.
async fn wait(pause: Duration, stop: impl Future<Output = ()> + Unpin) -> Result<(), Stopped> {
    match select(stop, pin!(tokio::time::sleep(pause))).await {
        Either::Left(_) => Err(Stopped),
        Either::Right(_) => Ok(()),
    }
}
