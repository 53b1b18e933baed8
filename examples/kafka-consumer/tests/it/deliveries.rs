//! One message, more than once.

use std::future::pending;
use std::sync::Mutex;
use std::time::Duration;

use idem_core::message::Action;
use idem_core::{Error, idempotent, observe};
use idem_sqlx::SqliteTx;
use kafka_consumer::consumer::ConsumerError;
use kafka_consumer::orders::on_message;
use tokio::select;
use tokio::sync::Semaphore;

use crate::broker::Broker;
use crate::program::Program;
use crate::shop::{Shop, order};
use crate::{on_both, until};

on_both!(
    an_order_sent_twice_reserves_once,
    killed_between_the_two_commits,
    each_of_two_groups_runs_it_once,
    in_flight_elsewhere_is_not_acknowledged,
    a_message_that_fails_is_not_overtaken,
    what_is_refused_for_good_goes_to_the_dead_letters,
);

async fn an_order_sent_twice_reserves_once(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(3).await);
    topic.send([order("a", 2), order("b", 3), order("a", 2)]).await;
    let (consumer, london) = (topic.consumer("london"), topic.group("london"));
    let handle = async |payload: &[u8]| on_message(&shop.store, "london", payload).await;
    select! {
        ended = consumer.run(handle, pending()) => panic!("{ended:?}"),
        () = until("all is acknowledged", async || london.acknowledged() == 3) => {}
    }
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (95, 2));
}

/// The database has the reservations, the broker knows nothing of it.
async fn killed_between_the_two_commits(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(3).await);
    topic.send([order("a", 2), order("b", 3), order("c", 5)]).await;
    let (london, log) = (topic.group("london"), shop.file().with_extension("log"));

    let mut consumer = topic.consumer("london");
    consumer.config.set("auto.commit.interval.ms", "3600000");
    let program = Program::start(&consumer, &shop, &log);
    until("three orders are reserved", async || shop.reservations().await == 3).await;
    program.kill();
    assert_eq!(london.acknowledged(), 0, "an offset was committed; this test shows nothing");

    let program = Program::start(&topic.consumer("london"), &shop, &log);
    until("all is acknowledged", async || london.acknowledged() == 3).await;
    assert_eq!(program.replays(), 3);
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (90, 3));
}

async fn each_of_two_groups_runs_it_once(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london", "paris"], 100).await, broker.topic(3).await);
    topic.send([order("a", 2), order("a", 2)]).await;
    let (first, second) = (topic.consumer("london"), topic.consumer("paris"));
    let (london, paris) = (topic.group("london"), topic.group("paris"));
    let in_london = async |payload: &[u8]| on_message(&shop.store, "london", payload).await;
    let in_paris = async |payload: &[u8]| on_message(&shop.store, "paris", payload).await;
    select! {
        ended = first.run(in_london, pending()) => panic!("{ended:?}"),
        ended = second.run(in_paris, pending()) => panic!("{ended:?}"),
        () = until("all is acknowledged", async || london.acknowledged() == 2 && paris.acknowledged() == 2) => {}
    }
    assert_eq!((shop.on_hand("london").await, shop.on_hand("paris").await), (98, 98));
}

/// A run that a test holds open.
struct Gate {
    entered: Semaphore,
    open: Semaphore,
}

impl Gate {
    fn shut() -> Self {
        Self { entered: Semaphore::new(0), open: Semaphore::new(0) }
    }
}

#[idempotent(key = id, scope = "london", fingerprint = id)]
async fn reserve_slowly(tx: &mut SqliteTx, id: &str, gate: &Gate) -> Result<(), Error> {
    gate.entered.add_permits(1);
    _ = gate.open.acquire().await;
    sqlx::query("UPDATE stock SET on_hand = on_hand - 1").execute(tx).await.map_err(idem_sqlx::into_idem_error)?;
    Ok(())
}

/// What became of each delivery of one message, and to whom it went.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(&'static str, Action, bool)>>);

impl Deliveries {
    async fn one(&self, to: &'static str, shop: &Shop, gate: &Gate) -> Action {
        let seen = observe(reserve_slowly(&shop.store, "a", gate)).await;
        let action = Action::of(&seen.result);
        self.0.lock().expect("a list").push((to, action.clone(), seen.replayed));
        action
    }

    fn count(&self, is: impl Fn(&'static str, &Action, bool) -> bool) -> usize {
        let deliveries = self.0.lock().expect("a list");
        deliveries.iter().filter(|(to, action, replayed)| is(to, action, *replayed)).count()
    }

    fn runs(&self) -> usize {
        self.count(|_, action, replayed| !replayed && *action == Action::Acknowledge)
    }

    fn replays(&self) -> usize {
        self.count(|_, action, replayed| replayed && *action == Action::Acknowledge)
    }

    fn left_alone_by(&self, member: &str) -> usize {
        self.count(|to, action, _| to == member && matches!(action, Action::Redeliver { .. }))
    }
}

/// The producer sent it twice, and it is in two partitions of two members.
async fn in_flight_elsewhere_is_not_acknowledged(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(2).await);
    topic.send_to(0, &order("a", 1)).await;
    topic.send_to(1, &order("a", 1)).await;
    let (gate, deliveries, london) = (Gate::shut(), Deliveries::default(), topic.group("london"));
    let (first, second) = (topic.consumer("london"), topic.consumer("london"));
    let script = async {
        until("one is told that it runs elsewhere", async || {
            deliveries.left_alone_by("first") + deliveries.left_alone_by("second") > 0
        })
        .await;
        assert_eq!(london.acknowledged(), 0, "acknowledged before it was done");
        assert_eq!(shop.on_hand("london").await, 100);
        gate.open.add_permits(1);
        until("both are acknowledged", async || london.acknowledged() == 2).await;
    };
    select! {
        ended = first.run(async |_: &[u8]| deliveries.one("first", &shop, &gate).await, pending()) => panic!("{ended:?}"),
        ended = second.run(async |_: &[u8]| deliveries.one("second", &shop, &gate).await, pending()) => panic!("{ended:?}"),
        () = script => {}
    }
    assert_eq!(deliveries.runs(), 1, "{:?}", deliveries.0);
    assert!(deliveries.replays() > 0, "{:?}", deliveries.0);
    assert_eq!(shop.on_hand("london").await, 99);
}

/// One member runs a message for so long that the group gives its partition to another one, in mid-run.
///
/// On the mock cluster only: the broker process goes on waiting for the member that left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_in_mid_run() {
    let broker = Broker::mock();
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(1).await);
    topic.send([order("a", 1)]).await;
    let (gate, deliveries, london) = (Gate::shut(), Deliveries::default(), topic.group("london"));
    let (mut first, second) = (topic.consumer("london"), topic.consumer("london"));
    first.config.set("max.poll.interval.ms", "6000");
    let script = async {
        until("the second is told that it runs elsewhere", async || deliveries.left_alone_by("second") > 0).await;
        assert_eq!(london.acknowledged(), 0, "acknowledged before it was done");
        gate.open.add_permits(1);
        until("it is acknowledged without a run", async || deliveries.replays() > 0 && london.acknowledged() == 1)
            .await;
    };
    let enter_second = async {
        _ = gate.entered.acquire().await;
        _ = second.run(async |_: &[u8]| deliveries.one("second", &shop, &gate).await, pending()).await;
    };
    select! {
        ended = first.run(async |_: &[u8]| deliveries.one("first", &shop, &gate).await, pending()) => panic!("{ended:?}"),
        () = enter_second => {}
        () = script => {}
    }
    assert_eq!(deliveries.runs(), 1, "{:?}", deliveries.0);
    assert_eq!(shop.on_hand("london").await, 99);
}

/// The messages behind it are in this member's hands already, when the first one is to be delivered again.
async fn a_message_that_fails_is_not_overtaken(broker: &Broker) {
    let topic = broker.topic(1).await;
    let payloads: Vec<_> = (0..20).map(|id| order(id, 1)).collect();
    topic.send(&payloads).await;
    let (consumer, london) = (topic.consumer("london"), topic.group("london"));
    let (seen, fails) = (Mutex::new(Vec::new()), [0, 7, 7, 19]);
    let handle = async |payload: &[u8]| {
        let mut seen = seen.lock().expect("a list");
        let id = payloads.iter().position(|it| it.as_bytes() == payload).expect("a payload of ours");
        seen.push(id);
        let deliveries = seen.iter().filter(|it| **it == id).count();
        if deliveries <= fails.iter().filter(|it| **it == id).count() {
            return Action::Redeliver { after: Duration::from_millis(10) };
        }
        Action::Acknowledge
    };
    select! {
        ended = consumer.run(handle, pending()) => panic!("{ended:?}"),
        () = until("all is acknowledged", async || london.acknowledged() == 20) => {}
    }
    let mut expected: Vec<usize> = (0..20).chain(fails).collect();
    expected.sort_unstable();
    assert_eq!(*seen.lock().expect("a list"), expected);
}

async fn what_is_refused_for_good_goes_to_the_dead_letters(broker: &Broker) {
    let (shop, topic) = (Shop::open(&["london"], 100).await, broker.topic(1).await);
    let chair = r#"{"id": "c", "item": "chair", "quantity": 1}"#;
    let other = order("a", 4);
    // Its reason would quote it, and the dead letter be larger than a broker takes.
    let long = format!(r#"{{"id": "e", "item": "lamp", "quantity": "{}"}}"#, "x".repeat(600_000));
    let payloads = [
        order("a", 2),
        "two lamps, please".to_owned(),
        order("b", 1000),
        chair.to_owned(),
        other.clone(),
        order("panic", 1),
        order("d", 3),
        long.clone(),
    ];
    topic.send(&payloads).await;
    let (consumer, london) = (topic.consumer("london"), topic.group("london"));
    let handle = async |payload: &[u8]| {
        assert!(!payload.windows(5).any(|word| word == b"panic"), "as asked");
        on_message(&shop.store, "london", payload).await
    };
    let mut letters = Vec::new();
    select! {
        ended = consumer.run(handle, pending()) => panic!("{ended:?}"),
        () = async {
            until("all is acknowledged", async || london.acknowledged() == 8).await;
            letters = topic.dead_letters(6).await;
        } => {}
    }
    let codes: Vec<_> = letters.iter().map(|letter| (letter.payload.as_str(), letter.code.as_str())).collect();
    let expected = [
        ("two lamps, please", "malformed"),
        (&payloads[2], "sold_out"),
        (chair, "no_such_item"),
        (&other, "key_reused"),
        (&payloads[5], "panicked"),
        (&long, "malformed"),
    ];
    assert_eq!(codes, expected);
    assert_eq!(letters[0].from, format!("{}-0@1", topic.name));
    assert_eq!((shop.on_hand("london").await, shop.reservations().await), (95, 2));
}

/// Kafka would deliver for ever what violates a constraint. What comes before its migration waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_what_the_database_refuses_is_dead_lettered_and_what_comes_before_its_migration_is_not() {
    let shop = Shop::open(&["london"], 100).await;
    let execute = async |sql| sqlx::raw_sql(sql).execute(&shop.pool).await.expect(sql);
    execute("ALTER TABLE reservations RENAME TO later").await;
    let early = on_message(&shop.store, "london", order("a", 1).as_bytes()).await;
    assert!(matches!(early, Action::Redeliver { .. }), "{early:?}");
    assert_eq!(shop.on_hand("london").await, 100);
    execute("ALTER TABLE later RENAME TO reservations").await;
    assert_eq!(on_message(&shop.store, "london", order("a", 1).as_bytes()).await, Action::Acknowledge);

    execute("CREATE UNIQUE INDEX one ON reservations (quantity)").await;
    let refused = on_message(&shop.store, "london", order("b", 1).as_bytes()).await;
    assert!(matches!(&refused, Action::DeadLetter { code, .. } if code == "data_refused"), "{refused:?}");
    assert_eq!(shop.on_hand("london").await, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_needs_another_topic_for_its_dead_letters() {
    let broker = Broker::mock();
    let topic = broker.topic(1).await;
    for dead_letters in ["", &topic.name] {
        let mut consumer = topic.consumer("london");
        consumer.dead_letters = dead_letters.to_owned();
        let ended = consumer.run(async |_: &[u8]| Action::Acknowledge, pending()).await;
        assert!(matches!(ended, Err(ConsumerError::NoDeadLetters)));
    }
    let mut consumer = topic.consumer("london");
    consumer.config.set("no.such.setting", "1");
    let ended = consumer.run(async |_: &[u8]| Action::Acknowledge, pending()).await;
    assert!(matches!(ended, Err(ConsumerError::Settings(_))));
}
