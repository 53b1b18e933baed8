//! Two hundred kills at random, and sixteen clients that send each order until it is answered.

mod books;
mod clients;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::shop::{Town, random};
use crate::standin::Mood;
use books::Books;
use clients::Clients;

const KILLS: usize = 200;
const LIMIT: Duration = Duration::from_secs(60);

/// What the shop is killed at: a line of its log. Each is within a step or an undo, or between two.
const LINES: [&str; 12] = [
    "reserving",
    "reserved",
    "charging",
    "charge answered 201",
    "charge answered 402",
    "paid",
    "confirming",
    "answering 201",
    "refunding",
    "refund answered 201",
    "giving back",
    "answering 4",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_order_is_charged_once_over_two_hundred_kills() {
    let town = Town::build().await;
    let first = town.open().await;
    let books = Books::open(&town).await;
    let mut clients = Clients::start(16, first.address);
    first.kill().await.expect("an end");

    let (close, is_open) = oneshot::channel();
    let fair = tokio::spawn(books.clone().withdraw_now_and_then(is_open));
    let mut reached = BTreeMap::new();
    let began = Instant::now();
    for kill in 0..KILLS {
        if kill % 2 == 0 {
            town.provider_is(Mood::Well).await;
            let line = LINES[kill / 2 % LINES.len()];
            let server = town.shop().open_until(line).await;
            let mut server = server.expect("a shop");
            clients.turn_to(server.address);
            // It may not come to that: nothing is refunded at the time, or nothing runs.
            let came = timeout(Duration::from_secs(1), server.wait_for(line)).await;
            *reached.entry(line).or_insert(0) += u32::from(came.is_ok());
            sleep(Duration::from_millis(random(20))).await;
            server.kill().await.expect("an end");
        } else {
            town.provider_is(any_mood()).await;
            let server = town.open().await;
            clients.turn_to(server.address);
            sleep(Duration::from_millis(random(250))).await;
            server.kill().await.expect("an end");
        }
    }
    let killed = began.elapsed();

    town.provider_is(Mood::Well).await;
    // Not aborted: what it has sent to the database may be done later than what comes next.
    close.send(()).expect("a fair");
    fair.await.expect("no panic");
    books.sell_relics(true).await;
    let server = town.open().await;
    clients.turn_to(server.address);
    let finished = timeout(LIMIT, clients.finish()).await;
    let answered = finished.unwrap_or_else(|_| panic!("not all orders were answered in {LIMIT:?}"));
    let figures = books.check(&town, &answered).await;
    eprintln!("{KILLS} kills in {killed:.1?}, {:.1?} in all: {figures:?}, {reached:?}", began.elapsed());

    for line in LINES {
        assert!(reached[line] > 0, "no kill at {line:?}: {reached:?}");
    }
    clients::assert_replayed(&server, &answered).await;
}

fn any_mood() -> Mood {
    match random(10) {
        0 => Mood::Down,
        1 => Mood::Cut,
        2 => Mood::Slow,
        _ => Mood::Well,
    }
}
