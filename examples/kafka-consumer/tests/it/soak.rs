//! Many orders, many of them delivered again, and consumers that are killed again and again.

use std::time::Duration;

use crate::broker::Broker;
use crate::program::{Program, replays};
use crate::shop::{Shop, order};
use crate::{on_both, until_within};

const ORDERS: i64 = 5_000;
const SENT_AGAIN: i64 = 1_500;
const KILLS: i64 = 10;
const LIMIT: Duration = Duration::from_secs(300);

on_both!(each_order_takes_effect_once_over_ten_kills);

async fn each_order_takes_effect_once_over_ten_kills(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london"], 1_000_000).await, broker.topic(3).await);
    let quantity = |id: i64| id % 7 + 1;
    // An order is sent again a little later, among others.
    let sent = (0..ORDERS + 100).flat_map(|id| {
        let again = id - 100;
        let is_again = (0..ORDERS).contains(&again) && again * SENT_AGAIN % ORDERS < SENT_AGAIN;
        let first = (id < ORDERS).then(|| order(id, quantity(id)));
        first.into_iter().chain(is_again.then(|| order(again, quantity(again))))
    });
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent.len() as i64, ORDERS + SENT_AGAIN);
    topic.send(&sent).await;

    let (london, log) = (topic.group("london"), shop.file().with_extension("log"));
    let mut consumer = topic.consumer("london");
    // Long enough for each kill to leave offsets behind that are not committed.
    consumer.config.set("auto.commit.interval.ms", "500");
    let start = || Program::start(&consumer, &shop, &log);
    let mut members = [start(), start()];
    for kill in 1..=KILLS {
        let enough = kill * ORDERS / (KILLS + 1);
        until_within(LIMIT, "orders are reserved", async || shop.reservations().await >= enough).await;
        // In the middle of whatever it does. The group finds out and gives its partitions to the other one.
        let [first, second] = members;
        first.kill();
        members = [second, start()];
    }
    until_within(LIMIT, "all is acknowledged", async || london.acknowledged() == ORDERS + SENT_AGAIN).await;

    let taken: i64 = (0..ORDERS).map(quantity).sum();
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (1_000_000 - taken, ORDERS));
    let replays = replays(&log);
    assert!(replays > SENT_AGAIN as usize, "{replays} deliveries did not run: not one kill led to a redelivery");
}
