//! Rule 34: each request is one span, which says at its end what became of the request.
#![cfg(all(feature = "axum", feature = "memory"))]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use idem_core::memory::{MemoryStore, MemoryTx};
use idem_core::observer::{self, Observer};
use idem_core::{Error, Kind, idempotent};
use tower::ServiceExt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What is logged: spans in their order, with the fields that they have at their end.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Logged>>>);

#[derive(Debug, Clone, Default)]
struct Logged {
    id: Option<Id>,
    fields: BTreeMap<String, String>,
    /// The words of the events in it.
    events: Vec<String>,
    is_closed: bool,
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Log {
    fn change(&self, id: &Id, change: impl FnOnce(&mut Logged)) {
        let mut spans = self.0.lock().expect("no panic");
        if let Some(logged) = spans.iter_mut().rev().find(|logged| logged.id.as_ref() == Some(id)) {
            change(logged);
        }
    }

    /// The fields of each span, which are closed, and the events in it.
    fn take(&self) -> Vec<(String, Vec<String>)> {
        let spans = std::mem::take(&mut *self.0.lock().expect("no panic"));
        let shown = spans.into_iter().map(|logged| {
            assert!(logged.is_closed, "{logged:?}");
            let fields: Vec<_> = logged.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (fields.join(" "), logged.events)
        });
        shown.collect()
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target() == "idem" {
            assert_eq!((metadata.name(), *metadata.level()), ("idem.request", Level::INFO));
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            let logged = Logged { id: Some(id.clone()), fields: fields.0, ..Logged::default() };
            self.0.lock().expect("no panic").push(logged);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.change(id, |logged| logged.fields.extend(fields.0));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let words = fields.0.remove("message").unwrap_or_default();
        if let Some(span) = context.event_span(event) {
            self.change(&span.id(), |logged| logged.events.push(words));
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |logged| {
            logged.is_closed = true;
            // The number may be given again.
            logged.id = None;
        });
    }
}

#[idempotent(scope = "test", operation = "orders.create", ttl = "1h")]
async fn create(tx: &mut MemoryTx<()>, body: String) -> (StatusCode, String) {
    _ = tx;
    tracing::info!("the body runs");
    (if body == "later" { StatusCode::BAD_GATEWAY } else { StatusCode::CREATED }, body)
}

#[idempotent(key = id, scope = "test", operation = "orders.ship", fingerprint = id, ttl = "1h")]
async fn ship(tx: &mut MemoryTx<()>, id: u64) -> Result<u64, Error> {
    _ = tx;
    tracing::info!("the body runs");
    Ok(id)
}

struct Talks;

impl Observer for Talks {
    fn observe(&self, event: &observer::Event<'_>) {
        if matches!(event, observer::Event::Settled(_)) {
            tracing::info!("told");
        }
    }
}

fn log() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let here = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    (log, here)
}

/// One span with these fields, in which this happened.
#[track_caller]
fn expect_one(log: &Log, fields: &str, events: &[&str]) {
    let events: Vec<_> = events.iter().map(|event| (*event).to_owned()).collect();
    assert_eq!(log.take(), [(fields.to_owned(), events)]);
}

const SETTLED: &str = "a request is settled";

#[tokio::test]
async fn r34_a_request_is_one_span_and_a_replay_names_the_trace_of_the_first() {
    let (log, _here) = log();
    let app = Router::new().route("/orders", post(create)).with_state(MemoryStore::new(()));
    let send = async |key: &str, body: &str, traceparent: Option<&str>| {
        let mut request = Request::post("/orders").header("idempotency-key", key);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        app.clone().oneshot(request).await.expect("an answer").status().as_u16()
    };
    assert_eq!(send("a", "1", Some(TRACEPARENT)).await, 201);
    let run = "idem.attempt=1 idem.operation=orders.create idem.outcome=run idem.source=memory";
    expect_one(&log, run, &["the body runs", SETTLED]);

    assert_eq!(send("a", "1", None).await, 201);
    let replay = "idem.operation=orders.create idem.outcome=replay idem.source=memory";
    let first = format!("idem.first.traceparent={TRACEPARENT} {replay}");
    expect_one(&log, &first, &[SETTLED]);

    assert_eq!(send("a", "2", None).await, 422);
    let reused = "error.type=key_reused idem.operation=orders.create idem.outcome=key_reused idem.source=memory";
    let refusal = Error::new(Kind::KeyReused).to_string();
    expect_one(&log, reused, &["a key was reused", &refusal]);

    assert_eq!(send("b", "later", None).await, 502);
    let released = "idem.attempt=1 idem.operation=orders.create idem.outcome=released idem.source=memory";
    expect_one(&log, released, &["the body runs", SETTLED]);

    // Of two, nobody knows which is right.
    let twice = Request::post("/orders").header("idempotency-key", "d");
    let twice = twice.header("traceparent", TRACEPARENT).header("traceparent", TRACEPARENT);
    let twice = twice.body(Body::from("1")).expect("a request");
    assert_eq!(app.clone().oneshot(twice).await.expect("an answer").status().as_u16(), 201);
    expect_one(&log, run, &["the body runs", SETTLED]);
    assert_eq!(send("d", "1", None).await, 201);
    expect_one(&log, replay, &[SETTLED]);

    // What is not well formed counts as if it was not there.
    assert_eq!(send("c", "1", Some("order-17")).await, 201);
    expect_one(&log, run, &["the body runs", SETTLED]);
    assert_eq!(send("c", "1", Some(TRACEPARENT)).await, 201);
    expect_one(&log, replay, &[SETTLED]);
}

#[tokio::test]
async fn r34_a_call_of_a_plain_function_is_one_span() {
    let (log, _here) = log();
    // An observer is told in the span, so that it can add a link to it.
    let store = MemoryStore::new(()).observed_by(Arc::new(Talks));
    assert_eq!(ship(&store, 7).await.expect("run"), 7);
    let run = "idem.attempt=1 idem.operation=orders.ship idem.outcome=run idem.source=memory";
    expect_one(&log, run, &["the body runs", SETTLED, "told"]);
    assert_eq!(ship(&store, 7).await.expect("replayed"), 7);
    expect_one(&log, "idem.operation=orders.ship idem.outcome=replay idem.source=memory", &[SETTLED, "told"]);
}
