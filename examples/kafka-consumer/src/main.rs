//! Reserves stock for the orders of a Kafka topic.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p kafka-consumer
//! ```
//!
//! It starts a broker of its own (librdkafka's mock cluster), sends itself a few orders, one of them twice and one that
//! is not an order, and runs until Ctrl-C. With `KAFKA_BROKERS` it consumes from those brokers.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

mod demo;

use std::env;
use std::error::Error;
use std::time::Duration;

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
    consumer.run(handle, stop_signal()).await?;
    store.drain(Duration::from_secs(30)).await;
    sweeper.stop().await;
    Ok(())
}

/// Waits for Ctrl-C, or for the SIGTERM of a supervisor. An impatient supervisor may send SIGKILL: an interrupted
/// message leaves nothing, and is delivered again.
async fn stop_signal() {
    let interrupt = async {
        tokio::signal::ctrl_c().await.expect("a handler for Ctrl-C");
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler for SIGTERM").recv().await;
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();

    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

/// Any setting of librdkafka: `session.timeout.ms=6000 client.id=london-1`.
fn config(settings: &str) -> Result<ClientConfig, &'static str> {
    let mut config = ClientConfig::new();
    for setting in settings.split_whitespace() {
        // The value is not shown: it may be a password.
        let (name, value) = setting.split_once('=').ok_or("KAFKA_CONFIG is `name=value name=value …`")?;
        config.set(name, value);
    }
    Ok(config)
}
