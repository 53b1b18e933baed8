//! Reserves stock for the orders of a Kafka topic.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p kafka-consumer
//! ```
//!
//! It starts a broker of its own (librdkafka's mock cluster), sends itself a few orders, one of them twice and one that
//! is none, and goes on until Ctrl-C. With `KAFKA_BROKERS` it consumes from those.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

mod demo;

use std::env;
use std::error::Error;

use idem_sqlx::{SqliteStore, Sweep};
use kafka_consumer::consumer::Consumer;
use kafka_consumer::orders;
use rdkafka::ClientConfig;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let variable = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let warehouse = variable("WAREHOUSE", "london");
    let mut consumer = Consumer {
        config: config(&variable("KAFKA_CONFIG", ""))?,
        group: variable("KAFKA_GROUP", &format!("stock.{warehouse}")),
        topic: variable("KAFKA_TOPIC", "orders"),
        dead_letters: variable("KAFKA_DEAD_LETTERS", "orders.dead"),
    };
    let pool = kafka_consumer::open(variable("DATABASE_URL", "sqlite://stock.db").parse()?).await?;
    let store = SqliteStore::new(pool.clone());
    store.migrate().await?;
    let sweeper = store.sweeper(Sweep::default());

    let mut cluster = None;
    let brokers = match env::var("KAFKA_BROKERS") {
        Ok(brokers) => brokers,
        Err(_) => cluster.insert(demo::cluster(&consumer)?).bootstrap_servers(),
    };
    consumer.config.set("bootstrap.servers", &brokers);
    println!("warehouse {warehouse} takes orders from {} at {brokers}", consumer.topic);
    if cluster.is_some() {
        demo::send(&consumer, &pool, &warehouse).await?;
    }

    let handle = async |payload: &[u8]| orders::on_message(&store, &warehouse, payload).await;
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    consumer.run(handle, stop).await;
    store.drain().await;
    sweeper.stop().await;
    Ok(())
}

/// Whatever librdkafka knows: `session.timeout.ms=6000,security.protocol=ssl`.
fn config(settings: &str) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').ok_or_else(|| format!("`{setting}` is not `name=value`"))?;
        config.set(name.trim(), value.trim());
    }
    Ok(config)
}
