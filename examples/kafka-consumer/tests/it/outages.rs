//! The broker or the database is gone for a while.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem_core::message::Action;
use kafka_consumer::orders::on_message;
use tokio::select;

use crate::broker::Broker;
use crate::shop::{Shop, order};
use crate::{on_both, until};

on_both!(an_order_waits_for_the_database);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_wait_for_the_broker() {
    let broker = Broker::mock();
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(1).await);
    topic.send([order("a", 1)]).await;
    let (consumer, london) = (topic.consumer("london"), topic.group("london"));
    let handle = async |payload: &[u8]| on_message(&shop.store, "london", payload).await;
    let script = async {
        until("the first is acknowledged", async || london.acknowledged() == 1).await;
        broker.down();
        until("nobody reaches it", async || !topic.is_reached()).await;
        broker.up();
        topic.send([order("b", 1), order("c", 1)]).await;
        until("all is acknowledged", async || london.acknowledged() == 3).await;
    };
    select! {
        ended = consumer.run(handle, pending()) => panic!("{ended:?}"),
        () = script => {}
    }
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (97, 3));
}

async fn an_order_waits_for_the_database(broker: &Broker) {
    let shop = Shop::open_with(&["london"], 100, Duration::from_millis(50)).await;
    let topic = broker.topic(1).await;
    topic.send([order("a", 1), order("b", 1)]).await;
    let (consumer, london) = (topic.consumer("london"), topic.group("london"));
    let refused = AtomicU32::new(0);
    let handle = async |payload: &[u8]| {
        let action = on_message(&shop.store, "london", payload).await;
        if matches!(action, Action::Redeliver { .. }) {
            refused.fetch_add(1, Ordering::Relaxed);
        }
        action
    };

    // Somebody else has the file.
    let mut elsewhere = shop.pool.acquire().await.expect("a connection");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *elsewhere).await.expect("the lock");
    let script = async {
        until("it was refused twice", async || refused.load(Ordering::Relaxed) >= 2).await;
        assert_eq!(london.acknowledged(), 0, "acknowledged without an effect");
        sqlx::query("ROLLBACK").execute(&mut *elsewhere).await.expect("the lock is gone");
        until("all is acknowledged", async || london.acknowledged() == 2).await;
    };
    select! {
        ended = consumer.run(handle, pending()) => panic!("{ended:?}"),
        () = script => {}
    }
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (98, 2));
}
