//! Searches everything that is logged for words that must not be logged (rule 34).
//!
//! ```
//! // Once, before the first event: every level of every crate is searched from now on.
//! idem_testkit::logs::watch();
//! // A key, a scope, a body, a reply, a row:
//! let key = format!("order-1-{}", idem_testkit::logs::CANARY);
//! tracing::info!(length = key.len(), "a request came"); // and not the key itself
//! ```
//!
//! # Limitations
//! - An event that goes to a subscriber of one thread ([`set_default`](tracing::subscriber::set_default)) is searched if
//!   a [`Watch`] is among its layers.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Put this into keys, scopes, bodies, replies and rows: nothing that is logged may have it in it.
pub const CANARY: &str = "qcanaryq";

/// The exit code of a process that has logged the word.
pub const EXIT_CODE: i32 = 34;

/// Searches everything that this process logs, and ends it where the word is found.
///
/// A failed assertion would go unseen in a task that nobody waits for, and a test's output is kept back while it runs.
///
/// # Panics
/// If another subscriber is the process's own already.
pub fn watch() {
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(|| {
        let watch = tracing_subscriber::registry().with(Watch::new(|leak| {
            // Not by a macro: tests capture those.
            _ = writeln!(std::io::stderr(), "\nrule 34: {leak}");
            std::process::exit(EXIT_CODE);
        }));
        tracing::subscriber::set_global_default(watch).expect("the only subscriber of the process");
    });
}

/// A layer that searches the fields of all events and spans.
#[derive(Debug)]
pub struct Watch<F> {
    report: F,
    /// The word as text, as bytes in decimal and in hexadecimal digits.
    forms: [String; 3],
}

impl<F: Fn(String)> Watch<F> {
    /// A layer that reports what it finds, and where.
    pub fn new(report: F) -> Self {
        let decimal = CANARY.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        let hexadecimal = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        Self { report, forms: [CANARY.to_owned(), decimal, hexadecimal] }
    }

    fn search(&self, metadata: &Metadata<'_>, fields: &Fields) {
        let shown = &fields.0;
        // `{:#?}` puts each byte of a list on a line of its own.
        let in_one_line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_in =
            |form: &String| shown.contains(form) || in_one_line.contains(form) || shown.to_lowercase().contains(form);
        if self.forms.iter().any(is_in) {
            let (target, level, name) = (metadata.target(), metadata.level(), metadata.name());
            (self.report)(format!(
                "{level} {target} ({name}) logs a word of a request, a reply, a key or a row:{shown}"
            ));
        }
    }
}

impl<F, S> Layer<S> for Watch<F>
where
    F: Fn(String) + 'static,
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.search(attributes.metadata(), &fields);
    }

    fn on_record(&self, span: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(span) {
            self.search(span.metadata(), &fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.search(event.metadata(), &fields);
    }
}

/// All fields, in every form in which a subscriber may show them.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        _ = write!(self.0, "\n  {field} = {value:?}");
        _ = write!(self.0, "\n  {field} = {value:#?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        _ = write!(self.0, "\n  {field} = {value}");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        for error in std::iter::successors(Some(value), |error| error.source()) {
            _ = write!(self.0, "\n  {field} = {error}\n  {field} = {error:?}");
        }
    }
}
