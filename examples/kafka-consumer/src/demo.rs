//! A broker in this process, and orders for trying it out.

use kafka_consumer::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use sqlx::sqlite::SqlitePool;

const ORDERS: [(&str, &str); 5] = [
    ("o-1", r#"{"id": "o-1", "item": "lamp", "quantity": 2}"#),
    ("o-2", r#"{"id": "o-2", "item": "lamp", "quantity": 1}"#),
    // Sent twice, as by a producer that lost the answer.
    ("o-1", r#"{"id": "o-1", "item": "lamp", "quantity": 2}"#),
    ("o-3", "two lamps, please"),
    ("o-4", r#"{"id": "o-4", "item": "lamp", "quantity": 1000}"#),
];

/// A broker that lives as long as the returned value.
pub(crate) fn cluster(consumer: &Consumer) -> KafkaResult<MockCluster<'static, DefaultProducerContext>> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(&consumer.topic, 3, 1)?;
    cluster.create_topic(&consumer.dead_letters, 1, 1)?;
    Ok(cluster)
}

/// Puts lamps on the shelf if there never were any, and sends the orders.
pub(crate) async fn send(
    consumer: &Consumer,
    pool: &SqlitePool,
    warehouse: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let stock = "INSERT INTO stock (warehouse, item, on_hand) VALUES ($1, 'lamp', 100) ON CONFLICT DO NOTHING";
    sqlx::query(stock).bind(warehouse).execute(pool).await?;
    let producer: FutureProducer = consumer.config.create()?;
    for (key, payload) in ORDERS {
        let record = FutureRecord::to(&consumer.topic).key(key).payload(payload);
        producer.send(record, Timeout::Never).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}
