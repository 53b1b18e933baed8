//! How many messages a request sends to the threads of SQLite's connections before it is answered.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use idem_core::{Error, Fingerprint, Identity, Request, Start, Stored, idempotent};
use idem_sqlx::{SqliteSteps, SqliteStore, SqliteTx};
use sqlx::Executor;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Metadata, Subscriber};
use tracing_core::span::Current;

use sqlx::sqlite::SqlitePoolOptions;

use crate::client::eventually;
use crate::support::{Database, Sqlite};

/// More than a run uses one after the other.
const CONNECTIONS: u32 = 6;

/// Counts the messages of a future. sqlx's threads enter the span in which a message was sent, once for each message.
/// What is done in a task behind the answer has another span, or none.
///
/// A registry of tracing-subscriber would do if it was the process's only one: a thread that leaves a span of another
/// registry asks its own for it.
struct Messages {
    count: Arc<AtomicUsize>,
    /// Their places are their ids, from one on.
    spans: Mutex<Vec<&'static Metadata<'static>>>,
}

thread_local! {
    static ENTERED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

impl Subscriber for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut spans = self.spans.lock().expect("no panic");
        spans.push(span.metadata());
        Id::from_u64(spans.len() as u64)
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.clone()));
        if thread::current().name().is_some_and(|name| name.starts_with("sqlx-sqlite-worker")) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| _ = entered.pop());
    }

    fn current_span(&self) -> Current {
        let Some(id) = ENTERED.with_borrow(|entered| entered.last().cloned()) else { return Current::none() };
        let metadata = self.spans.lock().expect("no panic")[id.into_u64() as usize - 1];
        Current::new(id, metadata)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}
}

async fn messages<T>(store: &SqliteStore, of: impl Future<Output = T>) -> (usize, T) {
    // The connections of the last run come back behind its answer.
    eventually("all connections are idle", async || store.pool().num_idle() == CONNECTIONS as usize).await;
    let count = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(Messages { count: Arc::clone(&count), spans: Mutex::default() });
    let answer = of.instrument(tracing::error_span!("counted")).await;
    (count.load(Ordering::SeqCst), answer)
}

fn request(key: &str) -> Request {
    let identity = Identity::new("messages", "messages", key).expect("an identity");
    Request::new(identity, Fingerprint::of_value("same").expect("a digest"), Duration::from_secs(3600))
        .expect("a request")
}

/// A run with one statement of its own. Returns whether it was replayed.
async fn insert(store: &SqliteStore, key: &str) -> bool {
    match store.begin(&request(key)).await.expect("begun") {
        Start::Run(mut run) => {
            run.execute("INSERT INTO effects VALUES ('insert', 'one')").await.expect("inserted");
            run.complete(&7).await.expect("completed");
            false
        }
        Start::Stored(Stored::Completed(value) | Stored::Rejected(value)) => {
            assert_eq!(value.read::<i32>().expect("read"), 7);
            true
        }
    }
}

#[idempotent(key = key, scope = "messages", operation = "messages.steps", fingerprint = none)]
async fn insert_in_steps(steps: &mut SqliteSteps, key: &str, step: bool) -> Result<i32, Error> {
    let insert = async |tx: &mut SqliteTx| {
        let inserted = tx.execute("INSERT INTO effects VALUES ('insert', 'one')").await;
        inserted.map(|_| 7).map_err(idem_sqlx::into_idem_error)
    };
    if step { steps.transaction("insert", insert).await } else { steps.finish(insert).await }
}

#[tokio::test]
async fn sqlite_a_request_sends_no_more_messages_than_it_must() {
    let db = Sqlite::create().await;
    for ping in [false, true] {
        let options = SqlitePoolOptions::new().min_connections(CONNECTIONS).max_connections(CONNECTIONS);
        let pool = options.connect_with(db.options()).await.expect("a pool");
        let store = SqliteStore::builder(pool).ping(ping).build();
        let pings = usize::from(ping);
        let key = |name: &str| format!("{name} {ping}");

        let new = "BEGIN, the claim, the handler's statement, the completion with its COMMIT";
        assert_eq!(messages(&store, insert(&store, &key("new"))).await, (4 + pings, false), "{new}");
        assert_eq!(messages(&store, insert(&store, &key("new"))).await, (1 + pings, true), "a look-up");

        let other = SqliteStore::builder(store.pool().clone()).ping(ping).build();
        assert_eq!(messages(&store, insert(&other, &key("new"))).await, (2 + pings, true), "BEGIN, the look-up");

        let claim = "a look-up, BEGIN, the claim, its COMMIT";
        let finish = "BEGIN, the handler's statement, the completion with its COMMIT";
        let (sent, result) = messages(&store, insert_in_steps(&store, &key("finish"), false)).await;
        assert_eq!((sent, result.expect("finished")), (4 + 3 + 2 * pings, 7), "{claim}, {finish}");
        let (sent, result) = messages(&store, insert_in_steps(&store, &key("step"), true)).await;
        let step = "BEGIN, the handler's statement, the entry with its COMMIT";
        let complete = "BEGIN, the completion with its COMMIT";
        assert_eq!((sent, result.expect("finished")), (4 + 3 + 2 + 3 * pings, 7), "{claim}, {step}, {complete}");
    }
    assert_eq!(db.effects().await, 2 * 3);
}

/// The empty transaction that follows the COMMIT of a run is gone when the next user has the connection.
#[tokio::test]
async fn r13_sqlite_a_finished_run_leaves_no_transaction_to_the_next_user_of_its_connection() {
    let db = Sqlite::create().await;
    let store = db.store(1).await;
    for key in ["one", "two", "three"] {
        assert!(!insert(&store, key).await);
        insert_in_steps(&store, key, true).await.expect("finished");
        // sqlx would make a savepoint of it, and its COMMIT would keep nothing.
        let mut own = store.pool().begin().await.expect("a transaction");
        own.execute("INSERT INTO effects VALUES ('own', 'one')").await.expect("inserted");
        own.commit().await.expect("committed");
    }
    assert_eq!(db.number("SELECT count(*) FROM effects WHERE who = 'own'").await, 3);
}

/// A record is read although a stranger holds the write lock, also by a process that does not know of it. A new request
/// waits for the stranger.
#[tokio::test]
async fn r10_sqlite_a_reply_needs_no_write_lock_and_a_new_request_waits_for_it() {
    let db = Sqlite::create().await;
    assert!(!insert(&db.store(1).await, "finished").await);
    let store = db.store(1).await;
    let mut writer = db.pool.begin_with("BEGIN IMMEDIATE").await.expect("the write lock");
    writer.execute("INSERT INTO effects VALUES ('stranger', 'one')").await.expect("inserted");

    // A half of SQLite's patience with a writer.
    let replayed = tokio::time::timeout(Duration::from_millis(2500), insert(&store, "finished")).await;
    assert!(replayed.expect("no wait for the writer"));

    let waits = Cell::new(true);
    let new = async {
        assert!(!insert(&store, "new").await);
        waits.set(false);
    };
    let stranger = async {
        eventually("it has the connection, and waits", async || store.pool().num_idle() == 0).await;
        assert!(waits.get());
        writer.commit().await.expect("committed");
    };
    tokio::join!(new, stranger);
    assert_eq!(db.effects().await, 3);
}

/// Duplicates of a finished request that come together replay it, whichever of them is first.
#[tokio::test]
async fn r10_sqlite_duplicates_of_a_finished_request_replay_it_together() {
    let db = Sqlite::create().await;
    assert!(!insert(&db.store(1).await, "finished").await);
    let store = db.store(8).await;
    let all = futures_util::future::join_all((0..32).map(|_| insert(&store, "finished"))).await;
    assert_eq!(all, [true; 32]);
}
