//! What a request takes of this process, in numbers that a busy machine does not change much: allocations, the
//! processor's time, and under callgrind its instructions.
//!
//! ```console
//! $ export CARGO_PROFILE_BENCH_DEBUG=line-tables-only
//! $ cargo xtask postgres -- cargo bench -p idem-sqlx --bench overhead --features postgres,sqlite -- count
//! ```
//!
//! For the instructions, the program that Cargo has named above runs by itself, with one variant. Only [`counted`] is
//! collected, so neither the start nor the warm-up counts:
//!
//! ```console
//! $ export IDEM_BENCH_REQUESTS=1000
//! $ cargo xtask postgres -- valgrind --tool=callgrind --toggle-collect='*count::counted*' \
//!       target/release/deps/overhead-… --bench count attribute
//! $ callgrind_annotate --inclusive=yes callgrind.out.…
//! ```
//!
//! Valgrind has no instructions for SHA-256, so a digest counts some 3,000 instructions for each 64 bytes there, and a
//! tenth of that on a processor that has them.

use std::fs;

use allocation_counter::AllocationInfo;
use tokio::runtime::{self, Runtime};
use tracing::instrument::WithSubscriber;

use crate::database::{Database, Postgres};
use crate::measure::{Keys, Variant, call_fresh};

/// The variants, unless the command names one.
const VARIANTS: [&str; 5] = ["bare", "by hand", "attribute", "leased by hand", "leased, no step"];

/// Prints a row for each variant. `wanted` names one of them, or is empty, or is `observed` for those of [`observed`].
///
/// [`observed`]: crate::observed
pub(crate) fn count(url: &str, wanted: &str, requests: u64) {
    let one_thread = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = one_thread.block_on(Postgres::create(url));
    one_thread.block_on(database.reset());
    println!("| {requests} requests | allocations | their bytes | user, µs | system, µs |\n|---|---|---|---|---|");
    let named = |name: &str| {
        let (usual, observed) = (database.variants(), database.observed());
        let variant = usual.into_iter().chain(observed).find(|variant| variant.name == name);
        vec![variant.unwrap_or_else(|| panic!("no variant has the name {name}"))]
    };
    let variants = match wanted {
        "" => VARIANTS.map(named).concat(),
        // One that replays would have no record to replay.
        "observed" => database.observed().into_iter().filter(|variant| variant.keys == Keys::Fresh).collect(),
        name => named(name),
    };
    for variant in variants {
        println!("{}", row(&one_thread, &variant, requests));
    }
    one_thread.block_on(database.drop());
}

fn row(one_thread: &Runtime, variant: &Variant, requests: u64) -> String {
    // Warm-up: statements are prepared, and vectors have their sizes.
    counted(one_thread, variant, 200);
    let before = processor_time();
    let AllocationInfo { count_total, bytes_total, .. } =
        allocation_counter::measure(|| counted(one_thread, variant, requests));
    let after = processor_time();
    let each = |total: u64| total as f64 / requests as f64;
    let times = before.zip(after).map(|(before, after)| [0, 1].map(|at| each(after[at] - before[at])));
    let times = times.map_or("– | –".to_owned(), |[user, system]| format!("{user:.0} | {system:.0}"));
    format!("| {} | {:.0} | {:.0} | {times} |", variant.name, each(count_total), each(bytes_total))
}

/// Sends the requests one after the other, all on this thread.
#[inline(never)]
fn counted(one_thread: &Runtime, variant: &Variant, requests: u64) {
    let calls = async {
        for _ in 0..requests {
            call_fresh(variant).await;
        }
    };
    match variant.subscriber() {
        Some(subscriber) => one_thread.block_on(calls.with_subscriber(subscriber)),
        None => one_thread.block_on(calls),
    }
}

/// The time that this process has spent so far by itself and in the kernel, in microseconds. Only Linux tells.
fn processor_time() -> Option<[u64; 2]> {
    /// The kernel counts in hundredths of a second, whatever its own clock.
    const TICK: u64 = 10_000;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The fields that follow the name of the program, which may have any character but is in parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some([ticks()? * TICK, ticks()? * TICK])
}
