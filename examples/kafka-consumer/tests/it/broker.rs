//! A broker, and topics on it that no other test has.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_consumer::consumer::Consumer;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Broker {
    pub(crate) servers: String,
    mock: Option<Mock>,
}

struct Mock(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    pub(crate) fn mock() -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        Self { servers: cluster.bootstrap_servers(), mock: Some(Mock(cluster)) }
    }

    pub(crate) fn process() -> Self {
        let servers = env::var("IDEM_TEST_KAFKA").unwrap_or_else(|_| {
            panic!("run `cargo xtask test`, or set IDEM_TEST_KAFKA to the address of a Kafka-compatible broker")
        });
        Self { servers, mock: None }
    }

    /// Connections break, and new ones are refused.
    pub(crate) fn down(&self) {
        self.mock.as_ref().expect("a mock cluster").0.broker_down(1).expect("down");
    }

    pub(crate) fn up(&self) {
        self.mock.as_ref().expect("a mock cluster").0.broker_up(1).expect("up");
    }

    /// A topic of this many partitions, and one for dead letters.
    pub(crate) async fn topic(&self, partitions: i32) -> Topic {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A broker may have those of an earlier run.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos();
        let name = format!("orders-{now}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let session = if self.mock.is_some() { "4000" } else { "6000" };
        let topic = Topic { session, servers: self.servers.clone(), dead_letters: format!("{name}.dead"), name };
        if let Some(Mock(cluster)) = &self.mock {
            cluster.create_topic(&topic.name, partitions, 1).expect("a topic");
            cluster.create_topic(&topic.dead_letters, 1, 1).expect("a topic");
        } else {
            let admin: AdminClient<DefaultClientContext> = topic.config().create().expect("an admin client");
            let new = |name, partitions| NewTopic::new(name, partitions, TopicReplication::Fixed(1));
            let topics = [new(&topic.name, partitions), new(&topic.dead_letters, 1)];
            for created in admin.create_topics(&topics, &AdminOptions::new()).await.expect("an answer") {
                created.expect("a topic");
            }
        }
        topic
    }
}

pub(crate) struct Topic {
    servers: String,
    /// After how many milliseconds a member is missed. Kafka takes six seconds at least by default; the mock cluster
    /// needs more than three, which it gives a new group to assemble.
    session: &'static str,
    pub(crate) name: String,
    pub(crate) dead_letters: String,
}

/// What is in the dead-letter topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) payload: String,
    pub(crate) code: String,
    pub(crate) from: String,
}

impl Topic {
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    /// A member that is missed soon.
    pub(crate) fn consumer(&self, warehouse: &str) -> Consumer {
        let mut config = self.config();
        config.set("session.timeout.ms", self.session).set("heartbeat.interval.ms", "100");
        config.set("auto.commit.interval.ms", "100");
        Consumer {
            config,
            group: self.group_name(warehouse),
            topic: self.name.clone(),
            dead_letters: self.dead_letters.clone(),
        }
    }

    pub(crate) async fn send(&self, payloads: impl IntoIterator<Item = impl AsRef<str>>) {
        let producer: FutureProducer = self.config().create().expect("a producer");
        let mut reports = Vec::new();
        for payload in payloads {
            // Spread over the partitions, except what is for the same order.
            let payload = payload.as_ref();
            let key = serde_json::from_str::<serde_json::Value>(payload).map_or_else(|_| String::new(), key);
            let record = FutureRecord::to(&self.name).key(&key).payload(payload);
            reports.push(producer.send_result(record).map_err(|(error, _)| error).expect("room in the queue"));
        }
        for report in reports {
            report.await.expect("a report").map_err(|(error, _)| error).expect("a delivery");
        }
    }

    pub(crate) async fn send_to(&self, partition: i32, payload: &str) {
        let producer: FutureProducer = self.config().create().expect("a producer");
        let record = FutureRecord::<[u8], str>::to(&self.name).partition(partition).payload(payload);
        producer.send(record, PATIENCE).await.map_err(|(error, _)| error).expect("a delivery");
    }

    /// Whether somebody new gets an answer.
    pub(crate) fn is_reached(&self) -> bool {
        let client: BaseConsumer = self.config().create().expect("a client");
        tokio::task::block_in_place(|| client.fetch_metadata(Some(&self.name), Duration::from_secs(1)).is_ok())
    }

    /// A group is one on the whole broker, whatever it reads.
    fn group_name(&self, warehouse: &str) -> String {
        format!("{warehouse}.{}", self.name)
    }

    pub(crate) fn group(&self, warehouse: &str) -> Group {
        let client: BaseConsumer =
            self.config().set("group.id", self.group_name(warehouse)).create().expect("a client");
        let metadata = client.fetch_metadata(Some(&self.name), PATIENCE).expect("metadata");
        let partitions = metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
        Group { client, topic: self.name.clone(), partitions }
    }

    /// The first `count` of them.
    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut config = self.config();
        config.set("group.id", "coroner").set("auto.offset.reset", "earliest").set("session.timeout.ms", "1000");
        let client: rdkafka::consumer::StreamConsumer = config.create().expect("a client");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.dead_letters, 0, Offset::Beginning).expect("a partition");
        client.assign(&list).expect("assigned");
        let mut letters = Vec::new();
        while letters.len() < count {
            let message = tokio::time::timeout(PATIENCE, client.recv()).await.expect("a dead letter in time");
            let message = message.expect("a dead letter");
            let header = |name: &str| {
                let headers = message.headers().expect("headers");
                let header = headers.iter().find(|header| header.key == name).expect(name);
                String::from_utf8(header.value.expect("a value").to_vec()).expect("text")
            };
            letters.push(DeadLetter {
                payload: String::from_utf8(message.payload().expect("a payload").to_vec()).expect("text"),
                code: header("dead-letter-code"),
                from: header("dead-letter-from"),
            });
        }
        letters
    }
}

/// A group as the broker sees it.
pub(crate) struct Group {
    client: BaseConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl Group {
    /// How many messages it has acknowledged, over all partitions.
    pub(crate) fn acknowledged(&self) -> i64 {
        let ask = || {
            let mut list = TopicPartitionList::new();
            for partition in &self.partitions {
                list.add_partition(&self.topic, *partition);
            }
            let committed = self.client.committed_offsets(list, PATIENCE).expect("offsets");
            // Where nothing is committed, there is no offset.
            committed.elements().iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0)).sum()
        };
        // The client waits for its answer on this thread.
        tokio::task::block_in_place(ask)
    }
}

fn key(order: serde_json::Value) -> String {
    order["id"].as_str().unwrap_or_default().to_owned()
}
