//! Two hundred kills, each second one at a line of the log, and sixteen clients that send each order until it is
//! answered.

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

/// There are more where a line of the log was not come to.
const KILLS: usize = 200;
const LIMIT: Duration = Duration::from_secs(60);
/// For a kill at each line.
const LIMIT_OF_KILLS: Duration = Duration::from_secs(300);

/// What the shop is killed at: a line of its log. Each is within a step or an undo, or between two.
const LINES: [&str; 12] = [
    "reserving",
    "reserved",
    "charging",
    "/charges answered status=201",
    "/charges answered status=402",
    "paid",
    "confirming",
    "answering status=201",
    "refunding",
    "/refunds answered status=201",
    "giving back",
    "answering status=4",
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
    let mut reached = BTreeMap::from(LINES.map(|line| (line, 0)));
    let began = Instant::now();
    let mut kills = 0;
    loop {
        let left = LINES.into_iter().find(|line| reached[line] == 0);
        let line = match left {
            _ if kills < KILLS => (kills % 2 == 0).then(|| LINES[kills / 2 % LINES.len()]),
            None => break,
            Some(line) => Some(line),
        };
        assert!(began.elapsed() < LIMIT_OF_KILLS, "no kill at {left:?} after {kills}: {reached:?}");
        if let Some(line) = line {
            town.provider_is(Mood::Well).await;
            let server = town.shop().open_until(line).await;
            let mut server = server.expect("a shop");
            clients.turn_to(server.address);
            // It may not come to that: nothing is refunded at the time, or nothing runs.
            let patience = Duration::from_secs(if kills < KILLS { 1 } else { 10 });
            let came = timeout(patience, server.wait_for(line)).await;
            *reached.entry(line).or_insert(0) += u32::from(matches!(came, Ok(Ok(_))));
            sleep(Duration::from_millis(random(20))).await;
            server.kill().await.expect("an end");
        } else {
            town.provider_is(any_mood()).await;
            let server = town.open().await;
            clients.turn_to(server.address);
            sleep(Duration::from_millis(random(250))).await;
            server.kill().await.expect("an end");
        }
        kills += 1;
    }
    let killed = began.elapsed();

    town.provider_is(Mood::Well).await;
    // Not aborted: what it has sent to the database may be done later than what comes next.
    close.send(()).expect("a fair");
    fair.await.expect("no panic");
    books.sell_relics(true).await;
    books.end_pauses().await;
    let server = town.open().await;
    clients.turn_to(server.address);
    let finished = timeout(LIMIT, clients.finish()).await;
    let answered = finished.unwrap_or_else(|_| panic!("not all orders were answered in {LIMIT:?}"));
    let figures = books.check(&town, &answered).await;
    eprintln!("{kills} kills in {killed:.1?}, {:.1?} in all: {figures:?}, {reached:?}", began.elapsed());
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
