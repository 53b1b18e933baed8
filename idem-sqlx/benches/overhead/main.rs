//! What an idempotent handler costs, compared with the same handler without idempotency, with the least that any such
//! handler must do, and with what people write by hand.
//!
//! `cargo bench -p idem-sqlx --bench overhead --features postgres,sqlite`, with `IDEM_TEST_POSTGRES` naming a server on
//! which a database may be created. `IDEM_BENCH_ROUNDS` and `IDEM_BENCH_SECONDS` make it longer or shorter, and a word
//! after `--` selects the settings whose names contain it: `-- postgres`, `-- "1 client"`. The word `count` asks for
//! something else: see [`count`].
#![allow(clippy::print_stdout, reason = "a bench is there to print its table")]

mod count;
mod database;
mod handlers;
mod machine;
mod measure;
mod table;

use std::env;
use std::str::FromStr;
use std::time::Duration;

use database::{Database, Postgres, Sqlite};
use measure::{Effort, Measured};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    // `cargo test --all-targets` also starts the bench, only to check that it starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let mut words = arguments.into_iter().filter(|argument| !argument.starts_with('-'));
    let wanted = words.next().unwrap_or_default().to_lowercase();
    if wanted == "count" {
        let url = env::var("IDEM_TEST_POSTGRES").expect("IDEM_TEST_POSTGRES names a server");
        count::count(&url, &words.next().unwrap_or_default(), variable("IDEM_BENCH_REQUESTS").unwrap_or(10_000));
        return;
    }
    compare(&wanted);
}

#[tokio::main]
async fn compare(wanted: &str) {
    let effort = Effort {
        rounds: variable("IDEM_BENCH_ROUNDS").unwrap_or(21),
        slice: Duration::from_secs_f64(variable("IDEM_BENCH_SECONDS").unwrap_or(0.5)),
    };

    let mut measured = Vec::new();
    let mut facts = machine::facts();
    match env::var("IDEM_TEST_POSTGRES") {
        Ok(url) if !url.is_empty() => {
            let postgres = Postgres::create(&url).await;
            facts.push(postgres.facts().await);
            measure_both(&postgres, [1, 32], wanted, effort, &mut measured).await;
            postgres.drop().await;
        }
        _ => println!("Postgres is left out: IDEM_TEST_POSTGRES names no server."),
    }
    let sqlite = Sqlite::create().await;
    facts.push(sqlite.facts().await);
    measure_both(&sqlite, [1, 8], wanted, effort, &mut measured).await;

    println!("\n{}", table::ratios(&measured, "bare"));
    let attribute = &["attribute", "attribute, idle limit"][..];
    let leased = &["leased, no step", "leased, one step"][..];
    for (baseline, names) in [("bound", attribute), ("by hand", attribute), ("leased by hand", leased)] {
        println!("{}", table::against(&measured, baseline, names));
    }
    println!("{effort}. A cell is the median of the rounds, and the middle half of them.\n");
    for fact in facts {
        println!("- {fact}");
    }
}

async fn measure_both(
    database: &impl Database,
    clients: [u64; 2],
    wanted: &str,
    effort: Effort,
    measured: &mut Vec<Measured>,
) {
    for clients in clients {
        let plural = if clients == 1 { "" } else { "s" };
        let setting = format!("{}, {clients} client{plural}", database.name());
        if setting.to_lowercase().contains(wanted) {
            measured.push(measure::measure(database, setting, clients, effort).await);
        }
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name} is no number: {value}"),
    }
}
