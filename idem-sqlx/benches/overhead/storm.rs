//! A retry storm: how much longer requests with other keys take while one key is sent two thousand times a second and
//! runs.
//!
//! `-- storm`, with `IDEM_BENCH_ROUNDS` and `IDEM_BENCH_SECONDS`. Quiet and storm take turns, on a pool of four.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use idem_core::hint::Memory;
use idem_core::{Fingerprint, Identity, Kind, Request, Start};
use idem_sqlx::PgStore;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::measure::{Effort, spread};

const CONNECTIONS: u32 = 4;
/// Two short of the pool: a client that waited for a connection would measure the other clients.
const CLIENTS: u64 = 2;
const DUPLICATES_A_SECOND: u32 = 2000;
/// Duplicates are sent in batches of this size: a timer has a millisecond.
const BATCH: u32 = 10;

pub(crate) async fn storm(pool: &PgPool, effort: Effort) {
    for (name, is_hinted) in [("without a hint", false), ("with a hint", true)] {
        let options = PgPoolOptions::new().max_connections(CONNECTIONS);
        let own = options.connect_with((*pool.connect_options()).clone()).await.expect("a pool");
        let builder = PgStore::builder(own.clone());
        let store = if is_hinted { builder.hint(Memory::new(16 * 1024 * 1024)) } else { builder }.build();
        let (mut quiet, mut stormy, mut ratios, mut sent) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..effort.rounds {
            let calm = p99(&store, effort.slice).await;
            let (wild, duplicates) = in_a_storm(&store, effort.slice).await;
            sent += duplicates;
            ratios.push(wild / calm);
            quiet.push(calm * 1000.0);
            stormy.push(wild * 1000.0);
        }
        let rate = sent as f64 / (effort.rounds as f64 * effort.slice.as_secs_f64());
        let [quiet, stormy, ratio] = [quiet, stormy, ratios].map(spread);
        println!(
            "{name}: p99 {:.2} ms quiet, {:.2} ms in a storm of {rate:.0} duplicates a second: {:.2} × ({:.2} to {:.2})",
            quiet.median, stormy.median, ratio.median, ratio.lower, ratio.upper,
        );
        own.close().await;
    }
}

fn request(key: &str) -> Request {
    let identity = Identity::new("storm", "payments.create", key).expect("an identity");
    Request::new(identity, Fingerprint::none(), Duration::from_secs(3600)).expect("a request")
}

/// While one request runs and is sent again and again. Returns the number of duplicates, too.
async fn in_a_storm(store: &PgStore, time: Duration) -> (f64, u64) {
    let key = fresh();
    let Ok(Start::Run(run)) = store.begin(&request(&key)).await else { panic!("a free key") };
    let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let duplicates = {
        let (store, is_over, sent, duplicate) = (store.clone(), is_over.clone(), sent.clone(), request(&key));
        tokio::spawn(async move {
            let mut batches = interval(Duration::from_secs(1) * BATCH / DUPLICATES_A_SECOND);
            batches.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !is_over.load(Ordering::Relaxed) {
                batches.tick().await;
                for _ in 0..BATCH {
                    let (store, duplicate, sent) = (store.clone(), duplicate.clone(), sent.clone());
                    tokio::spawn(async move {
                        let refused = store.begin(&duplicate).await.err().map(|error| error.kind());
                        assert_eq!(refused, Some(Kind::KeyInFlight));
                        sent.fetch_add(1, Ordering::Relaxed);
                    });
                }
            }
        })
    };
    let p99 = p99(store, time).await;
    is_over.store(true, Ordering::Relaxed);
    duplicates.await.expect("no panic");
    run.complete(&()).await.expect("completed");
    (p99, sent.load(Ordering::Relaxed))
}

/// Requests with new keys, each client one after the other with a pause. Their 99th percentile, in seconds.
async fn p99(store: &PgStore, time: Duration) -> f64 {
    let (began, times) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (store, times) = (store.clone(), times.clone());
        clients.spawn(async move {
            while began.elapsed() < time {
                let sent = Instant::now();
                let Ok(Start::Run(run)) = store.begin(&request(&fresh())).await else { panic!("a free key") };
                run.complete(&()).await.expect("completed");
                times.lock().expect("no poison").push(sent.elapsed().as_secs_f64());
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    let mut times = std::mem::take(&mut *times.lock().expect("no poison"));
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * 99 / 100]
}

fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
