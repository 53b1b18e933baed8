//! Rule 30: pooled connections that are gone, and how many messages a request sends. Without the pool's ping the first
//! statement of a request meets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use idem_core::{Error, observe};
use idem_sqlx::{PgSteps, PgStore, PgTx};
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::app::Gauge;
use crate::client::eventually;
use crate::pay::postgres_steps;
use crate::plain::{Event, postgres_functions};
use crate::proxy::{Fault, Proxy};
use crate::support::{Database, Postgres};

const DEADLINE: Duration = Duration::from_millis(300);

/// How a pooled connection comes to be gone.
#[derive(Debug, Clone, Copy)]
enum Gone {
    /// The server has ended it, and has said so.
    Terminated,
    /// The server has ended it because it was idle.
    Idle,
    /// It was cut, and nobody has said anything.
    Cut,
    /// It is silent. Nobody knows that it is gone.
    Silent,
}

/// How the store's pool takes its connections.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// As sqlx does by default: with a ping.
    Tested,
    /// By `PgStoreBuilder::ping(false)`.
    Untested,
    /// From a pool with `test_before_acquire(false)`.
    UntestedByThePool,
}

fn pool_options(taken: Taken, connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).test_before_acquire(!matches!(taken, Taken::UntestedByThePool))
}

fn store(pool: PgPool, taken: Taken) -> PgStore {
    let builder = PgStore::builder(pool).statement_deadline(DEADLINE);
    builder.ping(!matches!(taken, Taken::Untested)).build()
}

/// Opens all connections of the pool, with the statements prepared on each.
async fn fill(store: &PgStore, gauge: &Gauge, round: &str) {
    let connections = store.pool().options().get_max_connections();
    let mut held = Vec::new();
    for connection in 0..connections {
        let event = Event::of(&format!("{round} {connection}"), "insert");
        postgres_functions::handle(store, gauge, &event).await.expect("it runs");
        postgres_functions::handle(store, gauge, &event).await.expect("a replay");
        eventually("idle", async || store.pool().num_idle() > 0).await;
        held.push(store.pool().acquire().await.expect("a connection"));
    }
    drop(held);
    eventually("idle", async || store.pool().num_idle() == connections as usize).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_connection_that_is_gone_costs_no_request() {
    let db = Postgres::create().await;
    let gauge = Gauge::new();
    for taken in [Taken::Tested, Taken::Untested, Taken::UntestedByThePool] {
        for gone in [Gone::Terminated, Gone::Idle, Gone::Cut, Gone::Silent] {
            if matches!((taken, gone), (Taken::Tested, Gone::Silent)) {
                // The pool's ping has no deadline but that of `acquire`.
                continue;
            }
            let proxy = Proxy::before(&db.options()).await;
            let options = db.options().host("127.0.0.1").port(proxy.port());
            let connections = if matches!(gone, Gone::Silent) { 1 } else { 3 };
            let pool = pool_options(taken, connections).connect_with(options).await.expect("a pool");
            let store = store(pool, taken);
            let name = format!("{taken:?} {gone:?}");
            // A new request, a replay that this process expects, a leased run.
            for work in ["new", "replay", "leased"] {
                let event = Event::of(&format!("{name} {work}"), "insert");
                if work == "replay" {
                    postgres_functions::handle(&store, &gauge, &event).await.expect("it runs");
                }
                fill(&store, &gauge, &format!("{name} {work}")).await;
                match gone {
                    Gone::Terminated => {
                        db.execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                            WHERE datname = current_database() AND client_port IS NOT NULL AND pid <> pg_backend_pid()",
                        )
                        .await;
                    }
                    Gone::Idle => {
                        let mut held = Vec::new();
                        for _ in 0..connections {
                            let mut connection = store.pool().acquire().await.expect("a connection");
                            let doom = "SET idle_session_timeout = 100; SET application_name = 'doomed'";
                            connection.execute(doom).await.expect("settings");
                            held.push(connection);
                        }
                        drop(held);
                        let left = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name = 'doomed'";
                        eventually("they are ended", async || db.number(left).await == 0).await;
                    }
                    Gone::Cut => proxy.cut_all(),
                    Gone::Silent => proxy.at_message(0, Fault::Hang),
                }
                let entered = gauge.entered();
                let began = Instant::now();
                match work {
                    "leased" => {
                        let script = Default::default();
                        let paid = postgres_steps::pay(&store, "u1", &name, "order", &script).await;
                        paid.unwrap_or_else(|failed| panic!("{name} {work}: {failed:?}"));
                    }
                    _ => {
                        let handled = observe(postgres_functions::handle(&store, &gauge, &event)).await;
                        handled.result.unwrap_or_else(|failed| panic!("{name} {work}: {failed:?}"));
                        assert_eq!(handled.replayed, work == "replay", "{name}");
                        assert_eq!(gauge.entered() - entered, usize::from(work == "new"), "{name}");
                    }
                }
                assert!(began.elapsed() < Duration::from_secs(3), "{name} {work}: {:?}", began.elapsed());
            }
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM effects WHERE who <> 'step'").await as usize, gauge.entered());
}

/// Silent connections are tried one after the other, but not for longer than the pool's own patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_silent_connections_cost_no_more_than_the_pools_patience() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool =
        pool_options(Taken::Untested, 8).acquire_timeout(2 * DEADLINE).connect_with(options).await.expect("a pool");
    let (store, gauge) = (store(pool, Taken::Untested), Gauge::new());
    fill(&store, &gauge, "before").await;
    proxy.silence_all();
    let began = Instant::now();
    let refused = postgres_functions::handle(&store, &gauge, &Event::of("k", "insert")).await;
    assert!(began.elapsed() < 4 * DEADLINE, "{:?}", began.elapsed());
    assert!(format!("{refused:?}").contains("StoreUnavailable"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_the_pools_hook_is_skipped_only_where_told() {
    let db = Postgres::create().await;
    for (taken, is_called) in [(Taken::Tested, true), (Taken::Untested, false), (Taken::UntestedByThePool, true)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let hooked = pool_options(taken, 1).before_acquire(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(true) })
        });
        let (store, gauge) = (store(hooked.connect_with(db.options()).await.expect("a pool"), taken), Gauge::new());
        // It finds the tables in a transaction before its own. Whoever waits for a connection gets it from the pool.
        fill(&store, &gauge, &format!("{taken:?}")).await;
        let before = calls.load(Ordering::SeqCst);
        for run in 0..3 {
            eventually("idle", async || store.pool().num_idle() == 1).await;
            let event = Event::of(&format!("{taken:?} {run}"), "insert");
            postgres_functions::handle(&store, &gauge, &event).await.expect("it runs");
        }
        let called = calls.load(Ordering::SeqCst) - before;
        assert_eq!(called, if is_called { 3 } else { 0 }, "{taken:?}");
    }
}

#[idem_core::idempotent(key = id, scope = "test", operation = "ping.step")]
async fn in_one_step(steps: &mut PgSteps, id: &str) -> Result<u32, Error> {
    steps.transaction("step", async |tx: &mut PgTx| effect(tx).await).await
}

#[idem_core::idempotent(key = id, scope = "test", operation = "ping.finish")]
async fn in_no_step(steps: &mut PgSteps, id: &str) -> Result<u32, Error> {
    steps.finish(async |tx: &mut PgTx| effect(tx).await).await
}

async fn effect(tx: &mut PgTx) -> Result<u32, Error> {
    Postgres::effect(tx, "effect").await;
    Ok(1)
}

/// Which messages a request sends to the database, until its connection is back in the pool. The last of each
/// transaction is the pool's, which asks each connection that comes back for a sign of life, after the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_request_sends_these_messages() {
    let db = Postgres::create().await;
    let gauge = Gauge::new();
    let direct = db.store(2).await;
    // With a ping, and without.
    let expected = [
        // BEGIN with locks and savepoint; the claim; the effect; the completion; COMMIT
        ("new", 6 + 1, 5 + 1),
        // the look-up
        ("replay", 2 + 1, 1 + 1),
        // BEGIN; the claim; the look-up; ROLLBACK after the answer
        ("replay elsewhere", 4 + 2, 3 + 2),
        ("replay elsewhere, again", 2 + 1, 1 + 1),
        // BEGIN, the claim, COMMIT; BEGIN, the effect, the completion, COMMIT
        ("leased, no step", 9 + 2, 7 + 2),
        // the same with a step's COMMIT: BEGIN, the effect, the entry, COMMIT; BEGIN, the completion, COMMIT
        ("leased, one step", 13 + 3, 10 + 3),
        ("leased replay", 2 + 1, 1 + 1),
    ];
    for taken in [Taken::Tested, Taken::Untested] {
        let proxy = Proxy::before(&db.options()).await;
        let options = db.options().host("127.0.0.1").port(proxy.port());
        let store = store(pool_options(taken, 2).connect_with(options).await.expect("a pool"), taken);
        fill(&store, &gauge, &format!("{taken:?} before")).await;
        let mut sent = Vec::new();
        for (work, ..) in expected {
            let mut counted = usize::MAX;
            // The first times on each connection statements are prepared.
            for time in 0..6 {
                let key = format!("{taken:?} {} {time}", work.strip_suffix(", again").unwrap_or(work));
                let event = Event::of(&key, "insert");
                match work {
                    "replay" => drop(postgres_functions::handle(&store, &gauge, &event).await.expect("it runs")),
                    "replay elsewhere" => {
                        _ = postgres_functions::handle(&direct, &gauge, &event).await.expect("it runs");
                    }
                    "leased replay" => drop(in_no_step(&store, &key).await.expect("it runs")),
                    _ => {}
                }
                eventually("idle", async || store.pool().num_idle() == 2).await;
                let before = proxy.messages();
                match work {
                    "leased, no step" | "leased replay" => drop(in_no_step(&store, &key).await.expect("it runs")),
                    "leased, one step" => drop(in_one_step(&store, &key).await.expect("it runs")),
                    _ => drop(postgres_functions::handle(&store, &gauge, &event).await.expect("it runs")),
                }
                eventually("idle", async || store.pool().num_idle() == 2).await;
                counted = counted.min(proxy.messages() - before);
            }
            sent.push((work, counted));
        }
        let expected = expected.map(|(work, tested, untested)| match taken {
            Taken::Tested => (work, tested),
            _ => (work, untested),
        });
        assert_eq!(sent, expected, "{taken:?}");
    }
}
