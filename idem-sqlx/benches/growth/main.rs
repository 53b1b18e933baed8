//! What a record takes on disk, and how fast new requests are on a small table, on a big one, and on other layouts.
//!
//! `cargo bench -p idem-sqlx --bench growth --features postgres,sqlite`, with `IDEM_TEST_POSTGRES` naming a server on
//! which a database may be created. A word after `--` selects the layouts whose names contain it, beside the first one.
//! By environment:
//!
//! | variable | | default |
//! |---|---|---|
//! | `IDEM_BENCH_RECORDS` | records in the big tables at the start | 3000000 |
//! | `IDEM_BENCH_ROUNDS` | rounds, each with one window for each layout | 9 |
//! | `IDEM_BENCH_SECONDS` | length of a window | 1 |
#![allow(clippy::print_stdout, reason = "a bench is there to print its table")]

mod layout;

use std::env;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use idem_core::{Fingerprint, Identity, Request, Start};
use idem_sqlx::PgStore;
use layout::{LAYOUTS, Scratch, Table};

/// New requests in one window.
#[derive(Clone, Copy)]
struct Traffic {
    rate: f64,
    p50: f64,
    p99: f64,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    // `cargo test --all-targets` also starts the bench, only to check that it starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let wanted = arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let records: u64 = variable("IDEM_BENCH_RECORDS").unwrap_or(3_000_000);
    let rounds: usize = variable("IDEM_BENCH_ROUNDS").unwrap_or(9);
    let window = Duration::from_secs_f64(variable("IDEM_BENCH_SECONDS").unwrap_or(1.0));
    let Some(url) = env::var("IDEM_TEST_POSTGRES").ok().filter(|url| !url.is_empty()) else {
        println!("IDEM_TEST_POSTGRES names no server");
        return;
    };

    let scratch = Scratch::create(&url).await;
    let mut tables = Vec::new();
    for (place, layout) in LAYOUTS.iter().enumerate() {
        if place == 0 || layout.name.contains(&wanted) {
            tables.push(scratch.table(place, layout, records).await);
        }
    }
    println!(
        "| table | clients | new requests a second | p50 | p99 | bytes: heap | primary key | expiry | heap-only |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for clients in [1, 32] {
        for table in &tables {
            table.reset().await;
            // Statements are prepared, and pages are touched, before the clock starts.
            requests(&table.store, clients, window / 5).await;
        }
        let mut measured = vec![Vec::new(); tables.len()];
        for round in 0..rounds {
            // Each goes first in its turn.
            for turn in 0..tables.len() {
                let place = (round + turn) % tables.len();
                measured[place].push(requests(&tables[place].store, clients, window).await);
            }
        }
        for (table, traffic) in tables.iter().zip(&measured) {
            println!("{}", row(table, clients, traffic, &measured[0]).await);
        }
    }
    println!(
        "\nRatios to the first table, in the same round: medians of {rounds} rounds, and the middle half of them."
    );
    println!("A window is {} s. Big tables have {records} records at the start.", window.as_secs_f64());
    drop(tables);
    scratch.drop().await;
}

/// Lets all clients send one new request after the other. Each writes a payment, and has a reply of 300 bytes.
async fn requests(store: &PgStore, clients: u64, window: Duration) -> Traffic {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let begin = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let reply = "r".repeat(298);
                let mut times = Vec::new();
                while begin.elapsed() < window {
                    let at = Instant::now();
                    let request = request(NEXT.fetch_add(1, Ordering::Relaxed));
                    let Start::Run(mut run) = store.begin(&request).await.expect("a claim") else {
                        panic!("a new key")
                    };
                    let insert = sqlx::query("INSERT INTO public.payments (amount) VALUES (1)");
                    insert.execute(&mut *run).await.expect("a payment");
                    run.complete(&reply).await.expect("a commit");
                    times.push(at.elapsed().as_secs_f64());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("a client that gets what it expects"));
    }
    let elapsed = begin.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let below = |share: usize| times[(times.len() - 1) * share / 100];
    Traffic { rate: times.len() as f64 / elapsed, p50: below(50), p99: below(99) }
}

/// A scope for each record, spread over the whole index as users are.
fn request(key: u64) -> Request {
    let scope = format!("user-{:012x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
    Request::new(
        Identity::new(scope, "payments.create", &key.to_string()).expect("an identity"),
        Fingerprint::of_value(&key).expect("a fingerprint"),
        Duration::from_secs(24 * 60 * 60),
    )
    .expect("a request")
}

async fn row(table: &Table, clients: u64, traffic: &[Traffic], first: &[Traffic]) -> String {
    let ratio = |of: fn(&Traffic) -> f64| {
        let ratios = traffic.iter().zip(first).map(|(one, first)| of(one) / of(first)).collect();
        let [lower, median, upper] = spread(ratios);
        format!("{median:.2} ({lower:.2}–{upper:.2})")
    };
    let median = |of: fn(&Traffic) -> f64| spread(traffic.iter().map(of).collect())[1];
    let [heap, primary, expiry, heap_only] = table.sizes().await;
    format!(
        "| {} | {clients} | {} = {:.0} | {} = {:.2} ms | {} = {:.2} ms | {heap:.0} | {primary:.0} | {expiry:.0} | {:.0} % |",
        table.name,
        ratio(|traffic| traffic.rate),
        median(|traffic| traffic.rate),
        ratio(|traffic| traffic.p50),
        median(|traffic| traffic.p50) * 1000.0,
        ratio(|traffic| traffic.p99),
        median(|traffic| traffic.p99) * 1000.0,
        heap_only * 100.0,
    )
}

/// The quartiles, the median in the middle.
fn spread(mut numbers: Vec<f64>) -> [f64; 3] {
    numbers.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| numbers[((numbers.len() - 1) as f64 * share).round() as usize])
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name} is no number: {value}"),
    }
}
