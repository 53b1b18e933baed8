//! What a consumer promises, against a queue server over HTTP.

use std::env;
use std::fs::{self, File};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{Message, MessageAttributeValue, QueueAttributeName as Attribute};
use aws_sdk_sqs::{Client, Config};
use idem_core::message::Action;
use idem_core::{Kind, idempotent, observe};
use idem_sqlx::{SqliteStore, SqliteTx};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqs_consumer::bookings::on_message;
use sqs_consumer::consumer::{Consumer, QueueError};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::subscriber::DefaultGuard;

fn server() -> String {
    env::var("IDEM_TEST_SQS").expect(
        "IDEM_TEST_SQS is the URL of a local SQS whose FIFO queues know a message again for a few seconds only: \
         `cargo xtask test` starts one",
    )
}

fn client(url: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "none"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

/// Two queues, and a box office of its own with ten seats for a concert.
struct Office {
    folder: TempDir,
    pool: SqlitePool,
    store: SqliteStore,
    sqs: Client,
    queue: String,
    dead_letters: String,
    /// A test runs on one thread, which logs to a file.
    _log: DefaultGuard,
}

impl Office {
    /// `kind` is the end of the queues' names.
    async fn open(kind: &str, visibility: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("sqs-").tempdir().expect("a folder");
        let log = Arc::new(File::create(folder.path().join("log")).expect("a file"));
        let log = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(log).finish());
        let (pool, store) = database(SqliteConnectOptions::new().filename(folder.path().join("office.db"))).await;

        let sqs = client(&server());
        let name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
        let create = async |name: String| {
            let mut request = sqs.create_queue().queue_name(name).attributes(Attribute::VisibilityTimeout, visibility);
            if kind == ".fifo" {
                request = request.attributes(Attribute::FifoQueue, "true");
            }
            request.send().await.expect("a queue").queue_url.expect("its URL")
        };
        let queue = create(format!("{name}{kind}")).await;
        let dead_letters = create(format!("{name}-dead{kind}")).await;
        Self { folder, pool, store, sqs, queue, dead_letters, _log: log }
    }

    fn consumer(&self) -> Consumer {
        self.consumer_by(&self.sqs)
    }

    fn consumer_by(&self, sqs: &Client) -> Consumer {
        let mut consumer = Consumer::new(sqs.clone(), &self.queue, &self.dead_letters).expect("two queues");
        (consumer.poll, consumer.pause) = (Duration::from_secs(1), Duration::from_millis(10));
        consumer
    }

    async fn send(&self, body: &str) {
        self.sqs.send_message().queue_url(&self.queue).message_body(body).send().await.expect("sent");
    }

    async fn send_in(&self, group: &str, deduplication: &str, body: &str) {
        let request = self.sqs.send_message().queue_url(&self.queue).message_body(body);
        let request = request.message_group_id(group).message_deduplication_id(deduplication);
        request.send().await.expect("sent");
    }

    /// The messages that the queue has, whether they can be received now or not.
    async fn waiting(&self) -> u32 {
        let (visible, hidden) =
            (Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible);
        let request = self.sqs.get_queue_attributes().queue_url(&self.queue);
        let answer = request.attribute_names(visible).attribute_names(hidden).send().await.expect("attributes");
        answer.attributes.expect("attributes").values().map(|count| count.parse::<u32>().expect("a number")).sum()
    }

    async fn is_done(&self) -> bool {
        // Twice: what becomes visible while the server counts is counted neither here nor there.
        self.waiting().await == 0 && self.waiting().await == 0
    }

    /// Each dead letter's body, code and reason.
    async fn put_aside(&self) -> Vec<(String, String, String)> {
        let request = self.sqs.receive_message().queue_url(&self.dead_letters).max_number_of_messages(10);
        let letters = request.message_attribute_names("All").send().await.expect("dead letters").messages;
        let read = |letter: Message| {
            let attributes = letter.message_attributes.expect("attributes");
            let text = |name| attributes[name].string_value.clone().expect("a text");
            (letter.body.expect("a body"), text("code"), text("reason"))
        };
        letters.unwrap_or_default().into_iter().map(read).collect()
    }

    async fn book(&self, message: &Message) -> Action {
        on_message(&self.store, message.body().expect("a body")).await
    }

    /// How often each booking took seats, in the order of the bookings' names.
    async fn booked(&self) -> Vec<(String, i64)> {
        bookings(&self.pool).await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }
}

async fn database(options: SqliteConnectOptions) -> (SqlitePool, SqliteStore) {
    let pool = sqs_consumer::open(options).await.expect("a database");
    let store = SqliteStore::new(pool.clone());
    store.migrate().await.expect("the store's tables");
    sqlx::query("INSERT INTO events VALUES ('concert', 10)").execute(&pool).await.expect("an event");
    (pool, store)
}

async fn bookings(pool: &SqlitePool) -> Vec<(String, i64)> {
    let select = "SELECT booking, count(*) FROM bookings GROUP BY booking ORDER BY booking";
    sqlx::query_as(select).fetch_all(pool).await.expect("bookings")
}

fn booking(id: &str, seats: u32) -> String {
    format!(r#"{{"id": "{id}", "event": "concert", "seats": {seats}}}"#)
}

fn once(ids: &[&str]) -> Vec<(String, i64)> {
    ids.iter().map(|id| ((*id).to_owned(), 1)).collect()
}

async fn until(condition: impl AsyncFn() -> bool) {
    while !condition().await {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), work).await.unwrap_or_else(|_| panic!("not in 30 s: {what}"))
}

/// What was handled, in its order: counts deliveries.
#[derive(Default)]
struct Deliveries(Mutex<Vec<String>>);

impl Deliveries {
    /// How often this one was delivered, with this time.
    fn note(&self, message: &Message) -> usize {
        let mut bodies = self.0.lock().expect("a list");
        bodies.push(message.body().expect("a body").to_owned());
        bodies.iter().filter(|body| Some(body.as_str()) == message.body()).count()
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("a list").clone()
    }
}

#[tokio::test]
async fn of_a_batch_only_what_failed_is_delivered_again() {
    let office = Office::open("", "300").await;
    let ids = ["b-1", "b-2", "b-3", "b-4", "b-5"];
    for id in ids {
        office.send(&booking(id, 1)).await;
    }
    let deliveries = Deliveries::default();
    let handle = async |message: &Message| match deliveries.note(message) {
        1 if message.body() == Some(&booking("b-2", 1)) => Action::redeliver(),
        1 if message.body() == Some(&booking("b-4", 1)) => panic!("the first delivery of b-4"),
        _ => office.book(message).await,
    };
    in_time("all are booked", office.consumer().run(handle, until(async || office.is_done().await))).await;
    let mut again = deliveries.all().split_off(ids.len());
    again.sort();
    assert_eq!(again, [booking("b-2", 1), booking("b-4", 1)]);
    assert_eq!(office.booked().await, once(&ids));
    assert!(office.put_aside().await.is_empty());
}

/// A booking that takes as long as the test says.
#[idempotent(key = id, scope = "bookings", fingerprint = none, operation = "test.slow")]
async fn book_slowly(
    tx: &mut SqliteTx,
    id: &str,
    runs: &AtomicUsize,
    gate: &Semaphore,
) -> Result<(), idem_core::Error> {
    runs.fetch_add(1, Ordering::SeqCst);
    let insert = "INSERT INTO bookings (booking, event, seats) VALUES ($1, 'concert', 1)";
    sqlx::query(insert).bind(id).execute(tx).await.map_err(idem_sqlx::into_idem_error)?;
    let _open = gate.acquire().await.expect("a gate");
    Ok(())
}

#[tokio::test]
async fn a_second_delivery_in_mid_run_is_not_run_and_comes_again_until_the_first_is_committed() {
    let office = Office::open("", "1").await;
    office.send("b-1").await;
    let (runs, gate, replayed) = (AtomicUsize::new(0), Semaphore::new(0), Semaphore::new(0));
    let call = async |message: &Message| {
        observe(book_slowly(&office.store, message.body().expect("a body"), &runs, &gate)).await
    };
    let first = async |message: &Message| {
        let seen = call(message).await;
        assert!(seen.result.is_ok() && !seen.replayed);
        // Its word to the queue is late, too: by now the message has been deleted for the second consumer.
        let _late = replayed.acquire().await.expect("a gate");
        Action::of(&seen.result)
    };
    let seen_by_second = Mutex::new(Vec::new());
    let second = async |message: &Message| {
        let seen = call(message).await;
        let in_flight = seen.result.as_ref().is_err_and(|error| error.kind() == Kind::KeyInFlight);
        if in_flight {
            assert_eq!(office.waiting().await, 1, "the message is still there");
            gate.add_permits(1);
        } else {
            replayed.add_permits(1);
        }
        let action = Action::of(&seen.result);
        seen_by_second.lock().expect("a list").push((in_flight, seen.replayed, action.clone()));
        action
    };
    let (one, two) = (office.consumer(), office.consumer());
    let done = async || office.is_done().await;
    let second = async {
        until(async || runs.load(Ordering::SeqCst) == 1).await;
        two.run(second, until(done)).await;
    };
    in_time("it is booked", async { tokio::join!(one.run(first, until(done)), second) }).await;

    let seen = seen_by_second.into_inner().expect("a list");
    assert_eq!(seen.first(), Some(&(true, false, Action::redeliver())), "not run, and not acknowledged");
    assert_eq!(seen.last(), Some(&(false, true, Action::Acknowledge)), "acknowledged without a run");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(office.booked().await, once(&["b-1"]));
}

/// The window is five minutes at AWS. `cargo xtask test` starts its server with one of a few seconds, so that a test
/// sees the end of it; nothing else of the server is changed.
#[tokio::test]
async fn what_is_sent_again_after_a_fifo_queues_window_is_delivered_again_and_booked_once() {
    let office = Office::open(".fifo", "300").await;
    let body = booking("b-1", 2);
    office.send_in("concert", "b-1", &body).await;
    office.send_in("concert", "b-1", &body).await;
    assert_eq!(office.waiting().await, 1, "inside of the window the queue keeps one");

    let what = "the queue takes the same MessageDeduplicationId once more (is its window five minutes?)";
    let after_the_window = async || {
        office.send_in("concert", "b-1", &body).await;
        office.waiting().await == 2
    };
    in_time(what, until(after_the_window)).await;

    let by_hand = "INSERT INTO bookings (booking, event, seats) VALUES ('by hand', 'concert', 2)";
    let handle = async |message: &Message| {
        sqlx::query(by_hand).execute(&office.pool).await.expect("inserted");
        office.book(message).await
    };
    in_time("both are done", office.consumer().run(handle, until(async || office.is_done().await))).await;
    assert_eq!(office.booked().await, [("b-1".to_owned(), 1), ("by hand".to_owned(), 2)]);
    assert!(office.log().contains("replayed: "), "{}", office.log());
}

#[tokio::test]
async fn a_malformed_message_is_put_aside_with_its_reason_and_the_next_one_is_booked() {
    let office = Office::open("", "300").await;
    // Its reason would quote it whole, and the dead letter be larger than a queue takes.
    let long = format!(r#"{{"id": "b-2", "event": "concert", "seats": "{}"}}"#, "x".repeat(700_000));
    let malformed = ["{", r#"{"id": "b-1", "event": "concert"}"#, &booking("b-3", 0), &long];
    for body in malformed {
        office.send(body).await;
    }
    office.send(&booking("b-4", 1)).await;
    let mut consumer = office.consumer();
    consumer.at_once = 1;
    let handle = async |message: &Message| office.book(message).await;
    in_time("all are settled", consumer.run(handle, until(async || office.is_done().await))).await;
    assert_eq!(office.booked().await, once(&["b-4"]));
    let letters = office.put_aside().await;
    assert_eq!(letters.iter().map(|letter| letter.0.as_str()).collect::<Vec<_>>(), malformed);
    assert!(letters.iter().all(|letter| letter.1 == "malformed"), "{letters:?}");
    assert!(letters.iter().all(|letter| letter.2.len() <= 1000));
    assert!(letters[1].2.contains("missing field `seats`"), "{}", letters[1].2);
}

#[tokio::test]
async fn a_dead_letter_keeps_the_attributes_of_its_message() {
    let office = Office::open("", "300").await;
    let tenant = MessageAttributeValue::builder().data_type("String").string_value("t-1").build();
    let request = office.sqs.send_message().queue_url(&office.queue).message_body("{");
    request.message_attributes("tenant", tenant.expect("an attribute")).send().await.expect("sent");
    let handle = async |message: &Message| office.book(message).await;
    in_time("it is settled", office.consumer().run(handle, until(async || office.is_done().await))).await;
    let request = office.sqs.receive_message().queue_url(&office.dead_letters).message_attribute_names("All");
    let letters = request.send().await.expect("dead letters");
    let attributes = letters.messages()[0].message_attributes().expect("attributes");
    assert_eq!(attributes["tenant"].string_value(), Some("t-1"));
    assert_eq!(attributes["code"].string_value(), Some("malformed"));
}

#[tokio::test]
async fn what_is_refused_for_good_is_put_aside_each_time_with_its_code() {
    let office = Office::open("", "300").await;
    let unknown = r#"{"id": "order-3", "event": "circus", "seats": 1}"#.to_owned();
    let bodies = [booking("order-1", 2), booking("order-1", 3), booking("order-2", 100), unknown, booking(" ", 1)];
    let mut consumer = office.consumer();
    consumer.at_once = 1;
    let handle = async |message: &Message| office.book(message).await;
    let done = async {
        for body in &bodies {
            office.send(body).await;
        }
        until(async || office.is_done().await).await;
        // Now there are seats, and it stays refused.
        sqlx::query("UPDATE events SET seats_left = 1000").execute(&office.pool).await.expect("seats");
        office.send(&bodies[2]).await;
        until(async || office.is_done().await).await;
    };
    in_time("all are settled", consumer.run(handle, done)).await;
    let letters: Vec<_> = office.put_aside().await.into_iter().map(|(body, code, _)| (body, code)).collect();
    let expected = [(1, "key_reused"), (2, "sold_out"), (3, "no_such_event"), (4, "key_missing"), (2, "sold_out")];
    assert_eq!(letters, expected.map(|(at, code)| (bodies[at].clone(), code.to_owned())));
    assert_eq!(office.booked().await, once(&["order-1"]));
    assert!(!office.log().contains("order-1") && !office.log().contains("concert"), "a key or a body is in the log");
}

#[tokio::test]
async fn what_cannot_be_put_aside_stays_in_the_queue() {
    let mut office = Office::open("", "300").await;
    office.dead_letters.push_str("-later");
    office.send("{").await;
    let deliveries = Deliveries::default();
    let handle = async |message: &Message| {
        deliveries.note(message);
        office.book(message).await
    };
    let done = async {
        until(async || deliveries.all().len() == 2).await;
        assert_eq!(office.waiting().await, 1);
        let name = office.dead_letters.rsplit('/').next().expect("a name");
        office.sqs.create_queue().queue_name(name).send().await.expect("a queue");
        until(async || office.is_done().await).await;
    };
    in_time("it is put aside", office.consumer().run(handle, done)).await;
    assert_eq!(office.put_aside().await.len(), 1);
}

/// A way to the server that can be closed: what comes by it then, or is under way, is cut off.
async fn way(listener: TcpListener, open: watch::Receiver<bool>) {
    let target = server().trim_start_matches("http://").trim_end_matches('/').to_owned();
    loop {
        let (mut near, _) = listener.accept().await.expect("a connection");
        if !*open.borrow() {
            continue;
        }
        let (mut open, target) = (open.clone(), target.clone());
        tokio::spawn(async move {
            let mut far = TcpStream::connect(target).await.expect("the server");
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}

#[tokio::test]
async fn a_queue_that_is_gone_is_waited_for_and_nothing_is_lost() {
    let office = Office::open("", "1").await;
    let (switch, open) = watch::channel(true);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (deliveries, first) = (Deliveries::default(), booking("b-1", 1));
    let test = async {
        let consumer = office.consumer_by(&client(&format!("http://{address}")));
        let handle = async |message: &Message| {
            if deliveries.note(message) == 1 && message.body() == Some(&first) {
                // It goes while the first is in hand, so that its delete is lost, too.
                switch.send_replace(false);
            }
            office.book(message).await
        };
        office.send(&first).await;
        let done = async {
            until(async || !*switch.borrow() && office.log().matches("waiting").count() >= 2).await;
            office.send(&booking("b-2", 1)).await;
            switch.send_replace(true);
            until(async || office.booked().await.len() == 2 && office.is_done().await).await;
        };
        in_time("both are booked", consumer.run(handle, done)).await;
    };
    tokio::select! {
        () = way(listener, open) => {}
        () = test => {}
    }
    assert_eq!(office.booked().await, once(&["b-1", "b-2"]));
    assert!(deliveries.all().iter().filter(|body| **body == first).count() > 1, "its delete was lost");
    for words in ["the queue cannot be used", "waiting pause=10ms", "waiting pause=20ms"] {
        assert!(office.log().contains(words), "{words}: {}", office.log());
    }
}

#[tokio::test]
async fn a_database_that_is_gone_is_waited_for_and_nothing_is_lost() {
    let office = Office::open("", "300").await;
    // A folder that is moved to its place when all is in it.
    let (aside, folder) = (office.folder.path().join("aside"), office.folder.path().join("not yet"));
    fs::create_dir(&aside).expect("a folder");
    let (elsewhere, _) = database(SqliteConnectOptions::new().filename(aside.join("office.db"))).await;
    elsewhere.close().await;
    let file = SqliteConnectOptions::new().filename(folder.join("office.db"));
    let pool = SqlitePoolOptions::new().connect_lazy_with(file);
    let store = SqliteStore::new(pool.clone());
    office.send(&booking("b-1", 1)).await;
    office.send(&booking("b-2", 1)).await;
    let handle = async |message: &Message| on_message(&store, message.body().expect("a body")).await;
    let done = async {
        until(async || office.log().matches("waiting").count() >= 2).await;
        assert_eq!(office.waiting().await, 2);
        fs::rename(aside, folder).expect("moved");
        until(async || office.is_done().await).await;
        assert_eq!(bookings(&pool).await, once(&["b-1", "b-2"]));
    };
    in_time("both are booked", office.consumer().run(handle, done)).await;
    assert!(office.log().contains("store_unavailable"), "{}", office.log());
    assert!(office.put_aside().await.is_empty());
}

#[tokio::test]
async fn in_a_fifo_queue_nothing_overtakes_what_is_to_come_again() {
    let office = Office::open(".fifo", "300").await;
    let (one, two, other) = (booking("b-1", 1), booking("b-2", 1), booking("b-3", 1));
    for (group, body) in [("concert", one.as_str()), ("concert", "{"), ("concert", two.as_str()), ("other", &other)] {
        office.send_in(group, &format!("{group} {body}").replace(|c: char| !c.is_alphanumeric(), "-"), body).await;
    }
    let deliveries = Deliveries::default();
    let handle = async |message: &Message| match deliveries.note(message) {
        1 if message.body() == Some(&one) => Action::redeliver(),
        2 if message.body() == Some(&one) => panic!("the second delivery of b-1"),
        _ => office.book(message).await,
    };
    in_time("all are settled", office.consumer().run(handle, until(async || office.is_done().await))).await;
    let deliveries = deliveries.all();
    let (others, group): (Vec<_>, Vec<_>) = deliveries.iter().partition(|body| **body == other);
    assert_eq!(group, [&one, &one, &one, "{", &two]);
    assert_eq!((others.len(), deliveries.iter().position(|body| *body == other)), (1, Some(1)), "{deliveries:?}");
    assert_eq!(office.put_aside().await.len(), 1);
    assert_eq!(office.booked().await, once(&["b-1", "b-2", "b-3"]));
}

#[test]
fn a_consumer_has_a_dead_letter_queue_of_its_queues_kind() {
    let new = |queue, dead_letters| Consumer::new(client("http://127.0.0.1:1"), queue, dead_letters);
    assert!(matches!(new("a", ""), Err(QueueError::NoDeadLetterQueue)));
    assert!(matches!(new("a", "a"), Err(QueueError::NoDeadLetterQueue)));
    assert!(matches!(new("a.fifo", "b"), Err(QueueError::OnlyOneIsFifo)));
    assert!(new("a.fifo", "b.fifo").is_ok());
}
