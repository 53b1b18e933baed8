//! Rule 38 with Redis: a hint in front of SQL answers what is proven, and nothing else.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use idem_core::hint::Secret;
use idem_core::observer::{Event, Observer, Outcome, Source};
use idem_core::operate::Operate;
use idem_core::{Error, Fingerprint, Identity, Kind, Request, Start, Stored};
use idem_redis::RedisHint;
use idem_sqlx::SqliteStore;
use idem_testkit::redis::{Cluster, Redis};
use redis::aio::MultiplexedConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Who has answered, request by request.
#[derive(Clone, Default)]
struct Sources(Arc<Mutex<Vec<(Outcome, Source)>>>);

impl Observer for Sources {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Settled(settled) = event {
            self.0.lock().expect("no poison").push((settled.outcome, settled.source));
        }
    }
}

impl Sources {
    fn all(&self) -> Vec<(Outcome, Source)> {
        self.0.lock().expect("no poison").clone()
    }

    fn has(&self, outcome: Outcome, source: Source) -> bool {
        self.all().contains(&(outcome, source))
    }
}

/// A store as in a process of its own.
async fn process(folder: &TempDir, hint: RedisHint) -> (SqliteStore, Sources) {
    let sources = Sources::default();
    (store(folder.path(), |builder| builder.hint(hint).observer(sources.clone())).await, sources)
}

async fn store(
    folder: &Path,
    set: impl FnOnce(idem_sqlx::SqliteStoreBuilder) -> idem_sqlx::SqliteStoreBuilder,
) -> SqliteStore {
    let options = SqliteConnectOptions::new().filename(folder.join("test.db")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(1));
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("a file");
    let store = set(SqliteStore::builder(pool)).build();
    store.migrate().await.expect("tables");
    store
}

fn secret() -> Secret {
    Secret::new([7; 32]).expect("a secret")
}

fn request(key: &str, what: &str) -> Request {
    let identity = Identity::new("scope", "pay", key).expect("an identity");
    let fingerprint = Fingerprint::of_value(what).expect("a fingerprint");
    Request::new(identity, fingerprint, Duration::from_secs(3600)).expect("a request").with_retry(true)
}

/// Runs the request, or reads the result of its run, which names its key and the number of the run.
async fn pay(store: &SqliteStore, key: &str, runs: &AtomicU32) -> Result<String, Error> {
    match store.begin(&request(key, "this")).await? {
        Start::Run(run) => run.complete(&format!("{key}, run {}", runs.fetch_add(1, Ordering::SeqCst))).await,
        Start::Stored(Stored::Completed(value) | Stored::Rejected(value)) => value.read(),
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Pays until Redis answers.
async fn known(store: &SqliteStore, sources: &Sources, key: &str, runs: &AtomicU32) {
    eventually("Redis answers", async || {
        pay(store, key, runs).await.expect("an answer");
        sources.all().last() == Some(&(Outcome::Replay, Source::Redis))
    })
    .await;
}

async fn connect(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn names(connection: &mut MultiplexedConnection) -> Vec<Vec<u8>> {
    redis::cmd("KEYS").arg("*").query_async(connection).await.expect("names")
}

async fn values(connection: &mut MultiplexedConnection) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for name in names(connection).await {
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(name).query_async(connection).await.expect("a value");
        values.extend(value);
    }
    values
}

async fn answers_from(hint: impl Fn() -> RedisHint) {
    let folder = tempfile::tempdir().expect("a folder");
    let runs = AtomicU32::new(0);
    let (one, told) = process(&folder, hint()).await;
    known(&one, &told, "first", &runs).await;
    let result = pay(&one, "k", &runs).await.expect("it runs");
    // What it has run, another process knows.
    let (other, sources) = process(&folder, hint()).await;
    known(&other, &sources, "first", &runs).await;
    eventually("the write has arrived", async || {
        assert_eq!(pay(&other, "k", &runs).await.expect("a replay"), result);
        sources.all().last() == Some(&(Outcome::Replay, Source::Redis))
    })
    .await;
    let reused = other.begin(&request("k", "that")).await.expect_err("another request");
    assert_eq!((reused.kind(), sources.has(Outcome::KeyReused, Source::Redis)), (Kind::KeyReused, false));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    one.new_epoch().await.expect("a new epoch");
    let began = Instant::now();
    eventually("the epoch has ended for both", async || {
        assert_eq!(pay(&other, "k", &runs).await.expect("a replay"), result);
        sources.all().last() == Some(&(Outcome::Replay, Source::Sql))
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_retry_at_another_process_is_answered_from_redis() {
    let server = Redis::start(&[]).await;
    answers_from(|| RedisHint::new(&server.url(), secret()).expect("a URL")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_retry_at_another_process_is_answered_from_a_cluster() {
    let cluster = Cluster::start(&[]).await;
    let urls = cluster.urls();
    answers_from(|| RedisHint::cluster(urls[..3].iter().map(String::as_str), secret()).expect("URLs")).await;
}

/// Two processes, 64 clients, and a Redis that is emptied, killed, silent and lying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_nothing_that_redis_does_runs_a_request_twice_or_answers_it_wrongly() {
    const KEYS: usize = 8;
    let mut server = Redis::start(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let runs = Arc::new(AtomicU32::new(0));
    let hint = || RedisHint::new(&server.url(), secret()).expect("a URL");
    let processes = [process(&folder, hint()).await, process(&folder, hint()).await];
    for (store, sources) in &processes {
        known(store, sources, "first", &runs).await;
    }
    let mut expected = Vec::new();
    for key in 0..KEYS {
        expected.push(pay(&processes[0].0, &format!("k{key}"), &runs).await.expect("it runs"));
    }
    let (expected, is_over) = (Arc::new(expected), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..64 {
        let (store, runs) = (processes[client % 2].0.clone(), runs.clone());
        let (expected, is_over) = (expected.clone(), is_over.clone());
        clients.spawn(async move {
            let key = client / 2 % KEYS;
            while !is_over.load(Ordering::SeqCst) {
                let answer = pay(&store, &format!("k{key}"), &runs).await.expect("an answer");
                assert_eq!(answer, expected[key]);
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    for round in 0..3 {
        let mut connection = connect(&server).await;
        server.ask("FLUSHALL").await;
        sleep(Duration::from_millis(100)).await;
        // Each entry gets the value of another one, and then one that was cut, or is somebody else's.
        let (names, values) = (names(&mut connection).await, values(&mut connection).await);
        for (at, name) in names.iter().enumerate() {
            let swapped = &values[(at + 1 + round) % values.len()];
            let set = redis::cmd("SET").arg(name).arg(swapped).query_async::<()>(&mut connection).await;
            set.expect("a value");
        }
        sleep(Duration::from_millis(100)).await;
        for (at, name) in names.iter().enumerate() {
            let forged = if at % 2 == 0 { &values[at % values.len()][..20] } else { b"theirs" };
            let set = redis::cmd("SET").arg(name).arg(forged).query_async::<()>(&mut connection).await;
            set.expect("a value");
        }
        sleep(Duration::from_millis(100)).await;
        server.signal("STOP");
        sleep(Duration::from_millis(200)).await;
        server.signal("CONT");
        server.kill();
        sleep(Duration::from_millis(100)).await;
        server.start_again().await;
        sleep(Duration::from_millis(100)).await;
    }
    is_over.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("right answers");
    }
    assert_eq!(runs.load(Ordering::SeqCst) as usize, KEYS + 1);
    for (_, sources) in &processes {
        let by: HashSet<_> = sources.all().into_iter().filter(|(outcome, _)| *outcome == Outcome::Replay).collect();
        assert_eq!(by.len(), 2, "from Redis and from the database: {by:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_run_is_marked_for_other_processes_until_it_ends() {
    let server = Redis::start(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let runs = AtomicU32::new(0);
    let hint = || RedisHint::new(&server.url(), secret()).expect("a URL");
    let ((one, told), (other, sources)) = (process(&folder, hint()).await, process(&folder, hint()).await);
    known(&one, &told, "first", &runs).await;
    known(&other, &sources, "first", &runs).await;
    let Start::Run(run) = one.begin(&request("k", "this")).await.expect("it runs") else { panic!("a free key") };
    // The run has the write lock, so a request would wait for it at the database.
    let connection = connect(&server).await;
    eventually("it is marked", async || names(&mut connection.clone()).await.len() == 2).await;
    let in_flight = async || {
        // On a busy machine Redis may be too slow once, and the database has no answer while it is locked.
        let refused = other.begin(&request("k", "this")).await.expect_err("it runs");
        assert!(matches!(refused.kind(), Kind::KeyInFlight | Kind::RetryLater), "{refused:?}");
        sources.all().last() == Some(&(Outcome::InFlight, Source::Redis))
    };
    eventually("Redis says so", in_flight).await;
    // Longer than a mark lives.
    sleep(Duration::from_millis(3500)).await;
    eventually("Redis still says so", in_flight).await;
    run.release().await.expect("released");
    eventually("the mark is gone", async || names(&mut connection.clone()).await.len() == 1).await;
    assert_eq!(pay(&other, "k", &runs).await.expect("it runs"), "k, run 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_redis_that_is_away_at_the_start_is_no_hindrance() {
    let mut server = Redis::start(&[]).await;
    let url = server.url();
    server.kill();
    let folder = tempfile::tempdir().expect("a folder");
    let runs = AtomicU32::new(0);
    let (store, sources) = process(&folder, RedisHint::new(&url, secret()).expect("a URL")).await;
    for _ in 0..10 {
        assert_eq!(pay(&store, "k", &runs).await.expect("an answer"), "k, run 0");
    }
    assert!(sources.all().iter().all(|(_, source)| *source == Source::Sql));
    server.start_again().await;
    known(&store, &sources, "k", &runs).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// Keys are often guessable: a reader of Redis should not be able to try guesses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_redis_learns_no_digest_that_somebody_could_guess() {
    let server = Redis::start(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let runs = AtomicU32::new(0);
    let (store, sources) = process(&folder, RedisHint::new(&server.url(), secret()).expect("a URL")).await;
    known(&store, &sources, "k", &runs).await;
    let mut connection = connect(&server).await;
    let known = [names(&mut connection).await, values(&mut connection).await].concat();
    assert_eq!(known.len(), 2);
    let request = request("k", "this");
    let (identity, key) = (request.identity.digest(), *request.identity.key.hash());
    for digest in [&identity[..], &key[..], &request.fingerprint.as_bytes()[1..]] {
        assert!(!known.iter().any(|bytes| bytes.windows(16).any(|window| window == &digest[..16])));
    }
}
