//! How fast the sweep removes expired records, and how much it slows the requests beside it.
//!
//! `cargo bench -p idem-sqlx --bench sweep --features postgres,sqlite`, with `IDEM_TEST_POSTGRES` naming a server on
//! which a database may be created. A word after `--` selects the scenarios whose names contain it. By environment:
//!
//! | variable | | default |
//! |---|---|---|
//! | `IDEM_BENCH_EXPIRED` | expired records at the start | 300000 |
//! | `IDEM_BENCH_LIVE` | other records beside them | 300000 |
//! | `IDEM_BENCH_CLIENTS` | clients that send new requests, one after the other | 8 |
//! | `IDEM_BENCH_ROUNDS` | rounds, each with one window without a sweep and one with | 9 |
//! | `IDEM_BENCH_SECONDS` | length of a window | 1 |
//! | `IDEM_BENCH_BATCH` | records in a batch | the default of `Sweep` |
//! | `IDEM_BENCH_REST` | the rest after a batch, in parts of the batch | the default of `Sweep` |
#![allow(clippy::print_stdout, reason = "a bench is there to print its table")]

mod database;
mod swept;

use std::env;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use database::{Database, Postgres, Requester, Sqlite};
use idem_sqlx::Sweep;

/// One scenario: the database, the scopes, and whether an archive is written.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    database: Kind,
    scopes: Scopes,
    archive: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Sqlite,
}

/// The scopes of the records.
#[derive(Clone, Copy)]
enum Scopes {
    /// Each record has a scope of its own, as where users are scopes.
    OneEach,
    /// All records share ten scopes.
    Ten,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "Postgres, a scope each", database: Kind::Postgres, scopes: Scopes::OneEach, archive: false },
    Scenario { name: "Postgres, ten scopes", database: Kind::Postgres, scopes: Scopes::Ten, archive: false },
    Scenario { name: "Postgres, to an archive", database: Kind::Postgres, scopes: Scopes::OneEach, archive: true },
    Scenario { name: "SQLite, a scope each", database: Kind::Sqlite, scopes: Scopes::OneEach, archive: false },
    Scenario { name: "SQLite, to an archive", database: Kind::Sqlite, scopes: Scopes::OneEach, archive: true },
];

/// How many records, clients and rounds, and how long.
#[derive(Clone, Copy)]
struct Effort {
    expired: u64,
    live: u64,
    clients: u64,
    rounds: usize,
    window: Duration,
    batch: Option<u32>,
    rest: Option<f64>,
}

/// The results of one scenario: what was removed, and how long the requests beside it took.
struct Measured {
    /// Records a second of a sweep with nothing beside it.
    alone: f64,
    /// Beside clients that send as much as they can, and beside half of that.
    beside: [Beside; 2],
}

#[derive(Default)]
struct Beside {
    /// Round by round: records a second of the sweep.
    removed: Vec<f64>,
    /// Round by round, each without a sweep and with one: requests a second, and the time that 99 of 100 stay below.
    rounds: Vec<(Traffic, Traffic)>,
}

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
    let wanted = arguments.into_iter().find(|argument| !argument.starts_with('-'));
    let wanted = wanted.unwrap_or_default().to_lowercase();
    let effort = Effort {
        expired: variable("IDEM_BENCH_EXPIRED").unwrap_or(300_000),
        live: variable("IDEM_BENCH_LIVE").unwrap_or(300_000),
        clients: variable("IDEM_BENCH_CLIENTS").unwrap_or(8),
        rounds: variable("IDEM_BENCH_ROUNDS").unwrap_or(9),
        window: Duration::from_secs_f64(variable("IDEM_BENCH_SECONDS").unwrap_or(1.0)),
        batch: variable("IDEM_BENCH_BATCH"),
        rest: variable("IDEM_BENCH_REST"),
    };
    swept::count();

    let url = env::var("IDEM_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
    println!(
        "| sweep | removed a second, alone | requests beside it | removed a second | p50, ratio | p99, ratio | rate, ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.to_lowercase().contains(&wanted)) {
        let measured = match (scenario.database, &url) {
            (Kind::Sqlite, _) => {
                let database = Sqlite::create(scenario.scopes, effort.expired, effort.live).await;
                measure(&database, scenario, effort).await
            }
            (Kind::Postgres, Some(url)) => {
                let database = Postgres::create(url, scenario.scopes, effort.expired, effort.live).await;
                let measured = measure(&database, scenario, effort).await;
                database.drop().await;
                measured
            }
            (Kind::Postgres, None) => {
                println!("| {} | IDEM_TEST_POSTGRES names no server | | | |", scenario.name);
                continue;
            }
        };
        for (load, beside) in ["all they can", "half"].iter().zip(&measured.beside) {
            println!("{}", row(scenario.name, load, measured.alone, beside));
        }
    }
    let Effort { expired, live, clients, rounds, window, .. } = effort;
    println!("\n{expired} expired records among {}, {clients} clients.", expired + live);
    println!("{rounds} rounds of two windows of {} s: medians, and the middle half of them.", window.as_secs_f64());
}

async fn measure(database: &impl Database, scenario: &Scenario, effort: Effort) -> Measured {
    let mut sweep = Sweep::default();
    if let Some(batch) = effort.batch {
        sweep = sweep.batch(batch);
    }
    if let Some(rest) = effort.rest {
        sweep = sweep.rest(rest);
    }
    if scenario.archive {
        sweep = sweep.archive("old_records");
    }
    // Statements are prepared, and pages are touched, before the clock starts.
    requests(database, effort, None).await;
    let most = requests(database, effort, None).await.rate;
    let mut beside = [Beside::default(), Beside::default()];
    for round in 0..effort.rounds {
        for (load, rate) in [None, Some(most / 2.0)].into_iter().enumerate() {
            let mut without = None;
            let mut with = None;
            for turn in 0..2 {
                // Each goes first in every other round.
                if (round + turn) % 2 == 0 {
                    without = Some(requests(database, effort, rate).await);
                    continue;
                }
                let (before, begin) = (swept::records(), Instant::now());
                let sweeper = database.sweeper(sweep.clone());
                with = Some(requests(database, effort, rate).await);
                sweeper.stop().await;
                beside[load].removed.push((swept::records() - before) as f64 / begin.elapsed().as_secs_f64());
            }
            beside[load].rounds.extend(without.zip(with));
        }
        assert!(database.has_expired().await, "too few expired records for {} rounds", effort.rounds);
    }
    // The remaining records are removed as fast as possible.
    let (before, begin) = (swept::records(), Instant::now());
    let sweeper = database.sweeper(sweep);
    while begin.elapsed() < effort.window * 5 && database.has_expired().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sweeper.stop().await;
    let alone = (swept::records() - before) as f64 / begin.elapsed().as_secs_f64();
    Measured { alone, beside }
}

/// Lets all clients send new requests for the length of a window: one after the other, or so many a second together.
async fn requests(database: &impl Database, effort: Effort, rate: Option<f64>) -> Traffic {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Effort { clients, window, .. } = effort;
    let begin = Instant::now();
    let pause = rate.map(|rate| Duration::from_secs_f64(clients as f64 / rate));
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let requester = database.requester();
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut due = begin + pause.unwrap_or_default().mul_f64(client as f64 / clients as f64);
                while begin.elapsed() < window {
                    let mut at = Instant::now();
                    if let Some(pause) = pause {
                        if at < due {
                            tokio::time::sleep_until(due.into()).await;
                            at = Instant::now();
                        } else {
                            // It had to wait for the request before it.
                            at = due;
                        }
                        due += pause;
                    }
                    requester.request(NEXT.fetch_add(1, Ordering::Relaxed)).await;
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

fn row(name: &str, load: &str, alone: f64, beside: &Beside) -> String {
    let Beside { removed, rounds } = beside;
    let ratios =
        |of: fn(&Traffic) -> f64| spread(rounds.iter().map(|(without, with)| of(with) / of(without)).collect());
    let without = |of: fn(&Traffic) -> f64| spread(rounds.iter().map(|(without, _)| of(without)).collect())[1];
    let removed = spread(removed.clone());
    let (p50, p99, rate) =
        (ratios(|traffic| traffic.p50), ratios(|traffic| traffic.p99), ratios(|traffic| traffic.rate));
    format!(
        "| {name} | {alone:.0} | {load} of {:.0}/s | {:.0} ({:.0}–{:.0}) | {:.2} of {:.2} ms | {:.2} ({:.2}–{:.2}) of {:.1} ms | {:.2} |",
        without(|traffic| traffic.rate),
        removed[1],
        removed[0],
        removed[2],
        p50[1],
        without(|traffic| traffic.p50) * 1000.0,
        p99[1],
        p99[0],
        p99[2],
        without(|traffic| traffic.p99) * 1000.0,
        rate[1],
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
