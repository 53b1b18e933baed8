//! Counts the records that the sweep reports as removed. Reading the table instead would clean its index meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

static RECORDS: AtomicU64 = AtomicU64::new(0);

/// Counts from now on.
pub(crate) fn count() {
    let subscriber = registry().with(Counter);
    tracing::subscriber::set_global_default(subscriber).expect("the first subscriber");
}

/// How many records have been removed since then.
pub(crate) fn records() -> u64 {
    RECORDS.load(Ordering::Relaxed)
}

struct Counter;

impl<S: Subscriber> Layer<S> for Counter {
    /// The databases' own events would cost time.
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "idem"
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Adding);
    }
}

struct Adding;

impl Visit for Adding {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "records" {
            RECORDS.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
