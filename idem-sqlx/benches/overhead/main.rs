//! What an idempotent handler costs, compared with the same handler without idempotency, with the least that any such
//! handler must do, and with what people write by hand.
//!
//! `cargo bench -p idem-sqlx --bench overhead --features postgres,sqlite`, with `IDEM_TEST_POSTGRES` naming a server on
//! which a database may be created. `IDEM_BENCH_ROUNDS` and `IDEM_BENCH_SECONDS` make it longer or shorter. A word
//! after `--` selects the column of that name, or else those whose names contain it: `-- postgres`, `-- "0.75 ms"`. The
//! word `observed` in front of it measures what metrics, encryption, logs and hints cost: see [`observed`]. The words
//! `count` and `storm` ask for something else: see [`count`] and [`mod@storm`].
#![allow(clippy::print_stdout, reason = "a bench is there to print its table")]

mod count;
mod database;
mod handlers;
mod machine;
mod measure;
mod network;
mod observed;
mod storm;
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
    match wanted.as_str() {
        "storm" => storm(),
        "observed" => compare(&words.next().unwrap_or_default(), Rows::Observed),
        _ => compare(&wanted, Rows::Usual),
    }
}

fn effort() -> Effort {
    Effort {
        rounds: variable("IDEM_BENCH_ROUNDS").unwrap_or(21),
        slice: Duration::from_secs_f64(variable("IDEM_BENCH_SECONDS").unwrap_or(0.5)),
    }
}

#[tokio::main]
async fn storm() {
    let url = env::var("IDEM_TEST_POSTGRES").expect("IDEM_TEST_POSTGRES names a server");
    let postgres = Postgres::create(&url).await;
    storm::storm(postgres.pool(), effort()).await;
    postgres.drop().await;
}

#[tokio::main]
async fn compare(wanted: &str, rows: Rows) {
    let effort = effort();
    let wanted = Wanted::by(wanted);
    let mut measured = Vec::new();
    let mut facts = machine::facts();
    let url = env::var("IDEM_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        println!("Postgres is left out: IDEM_TEST_POSTGRES names no server.");
    }
    for place in [Place::Near, Place::Far] {
        let Some(url) = url.as_deref().filter(|_| wanted.concerns(place)) else { continue };
        let postgres = match place {
            Place::Far => Postgres::create_far(url).await,
            _ => Postgres::create(url).await,
        };
        wanted.measure(place, rows, &postgres, effort, &mut measured).await;
        facts.push(postgres.facts().await);
        postgres.drop().await;
    }
    if wanted.concerns(Place::Embedded) {
        let sqlite = Sqlite::create().await;
        wanted.measure(Place::Embedded, rows, &sqlite, effort, &mut measured).await;
        facts.push(sqlite.facts().await);
    }

    let others: &[_] = match rows {
        Rows::Usual => &[("bound", "attribute"), ("by hand", "attribute"), ("leased by hand", "leased, ")],
        Rows::Observed => &[("attribute", "attribute, "), ("its replay", "its replay, ")],
    };
    println!("\n{}", table::ratios(&measured, "bare"));
    for (baseline, names) in others {
        println!("{}", table::against(&measured, baseline, names));
    }
    println!("{effort}. A cell is the median of the rounds, and the middle half of them.\n");
    for fact in facts {
        println!("- {fact}");
    }
}

/// Which rows the table has.
#[derive(Clone, Copy)]
enum Rows {
    Usual,
    Observed,
}

/// Where the database is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Near,
    Far,
    Embedded,
}

/// The columns of the table, each with its place and how many clients it has.
const COLUMNS: [(&str, Place, u64); 5] = [
    ("Postgres, 1 client", Place::Near, 1),
    ("Postgres, 32 clients", Place::Near, 32),
    ("Postgres, 1 client, 0.75 ms", Place::Far, 1),
    ("SQLite, 1 client", Place::Embedded, 1),
    ("SQLite, 8 clients", Place::Embedded, 8),
];

/// The columns that are asked for.
struct Wanted(Vec<(&'static str, Place, u64)>);

impl Wanted {
    fn by(word: &str) -> Self {
        let word = word.to_lowercase();
        let named: Vec<_> = COLUMNS.into_iter().filter(|(name, ..)| name.to_lowercase() == word).collect();
        let containing = || COLUMNS.into_iter().filter(|(name, ..)| name.to_lowercase().contains(&word)).collect();
        Self(if named.is_empty() { containing() } else { named })
    }

    fn concerns(&self, place: Place) -> bool {
        self.0.iter().any(|(_, of, _)| *of == place)
    }

    async fn measure(
        &self,
        place: Place,
        rows: Rows,
        database: &impl Database,
        effort: Effort,
        measured: &mut Vec<Measured>,
    ) {
        for (name, _, clients) in self.0.iter().filter(|(_, of, _)| *of == place) {
            let variants = match rows {
                Rows::Usual => database.variants(),
                Rows::Observed => database.observed(),
            };
            measured.push(measure::measure(database, variants, name, *clients, effort).await);
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
