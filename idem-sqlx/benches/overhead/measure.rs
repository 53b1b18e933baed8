//! Rounds of slices: each round gives every variant the same time, in an order that turns from round to round, so that
//! any drift of the machine affects all variants alike. Ratios are taken inside a round, never across rounds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, Level, callsite};

use crate::database::{Database, FINISHED, OWNERS};
use crate::observed;

/// What every request asks for.
pub(crate) const ORDER: &str = r#"{"customer_id": "c1", "amount": 4200, "currency": "USD"}"#;

/// One row of the table: a handler, and the keys it is called with.
#[derive(Clone)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) app: Router,
    pub(crate) path: &'static str,
    pub(crate) keys: Keys,
    /// Up to which level the library's log is written, if there is a subscriber.
    log: Option<Level>,
}

impl Variant {
    pub(crate) fn new(name: &'static str, app: &Router, path: &'static str, keys: Keys) -> Self {
        Self { name, app: app.clone(), path, keys, log: None }
    }

    pub(crate) fn subscriber(&self) -> Option<Dispatch> {
        self.log.map(observed::subscriber)
    }

    pub(crate) fn logged(self, level: Level) -> Self {
        Self { log: Some(level), ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// A new key each time.
    Fresh,
    /// A few keys for each client, which it uses again and again.
    Again,
    /// The keys of records that existed before the process started.
    Finished,
}

/// How much time to spend.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, slice } = self;
        write!(f, "{rounds} rounds, {} s for each variant in each of them", slice.as_secs_f64())
    }
}

/// One setting: for each variant its requests a second, round by round.
pub(crate) struct Measured {
    pub(crate) setting: &'static str,
    pub(crate) variants: Vec<(&'static str, Vec<f64>)>,
}

/// The median and the quartiles.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lower: f64,
    pub(crate) upper: f64,
}

impl Measured {
    /// The variant's rate over the baseline's rate in the same round.
    pub(crate) fn ratio(&self, variant: &str, baseline: &str) -> Option<Spread> {
        let (variant, baseline) = (self.rates(variant)?, self.rates(baseline)?);
        Some(spread(variant.iter().zip(baseline).map(|(one, other)| one / other).collect()))
    }

    pub(crate) fn rates(&self, variant: &str) -> Option<&[f64]> {
        let (_, rates) = self.variants.iter().find(|(name, _)| *name == variant)?;
        Some(rates)
    }
}

pub(crate) fn spread(mut numbers: Vec<f64>) -> Spread {
    numbers.sort_by(f64::total_cmp);
    let at = |share: f64| numbers[((numbers.len() - 1) as f64 * share).round() as usize];
    Spread { median: at(0.5), lower: at(0.25), upper: at(0.75) }
}

pub(crate) async fn measure(
    database: &impl Database,
    variants: Vec<Variant>,
    setting: &'static str,
    clients: u64,
    effort: Effort,
) -> Measured {
    let mut rates = vec![Vec::new(); variants.len()];
    for round in 0..effort.rounds {
        database.reset().await;
        for turn in 0..variants.len() {
            let at = (round + turn) % variants.len();
            let callers = callers(&variants[at], clients).await;
            // Warm-up: statements are prepared and planned, and pages are touched, before the clock starts.
            run(&callers, effort.slice / 5).await;
            rates[at].push(run(&callers, effort.slice).await);
        }
        let names = variants.iter().map(|variant| variant.name);
        let line: Vec<_> = names.zip(&rates).map(|(name, rates)| format!("{name} {:.0}/s", rates[round])).collect();
        println!("{setting}, round {}: {}", round + 1, line.join(", "));
    }
    Measured { setting, variants: variants.iter().map(|variant| variant.name).zip(rates).collect() }
}

/// One client of one variant.
struct Caller {
    variant: Variant,
    /// The keys of [`Keys::Again`].
    own: Vec<u64>,
}

async fn callers(variant: &Variant, clients: u64) -> Vec<Arc<Caller>> {
    const OWN: u64 = 8;
    let mut callers = Vec::new();
    for _ in 0..clients {
        let own: Vec<_> = (0..OWN).map(|_| fresh()).collect();
        if variant.keys == Keys::Again {
            for key in &own {
                call(variant, *key, false).await;
            }
        }
        callers.push(Arc::new(Caller { variant: variant.clone(), own }));
    }
    callers
}

/// Lets all clients send one request after the other for this time. Returns requests a second.
async fn run(callers: &[Arc<Caller>], slice: Duration) -> f64 {
    let subscriber = callers.first().and_then(|caller| caller.variant.subscriber());
    let begin = Instant::now();
    let clients: Vec<_> = callers
        .iter()
        .map(|caller| {
            let caller = Arc::clone(caller);
            let client = async move {
                let mut sent = 0;
                while begin.elapsed() < slice {
                    caller.call(sent).await;
                    sent += 1;
                }
                sent
            };
            match &subscriber {
                Some(subscriber) => tokio::spawn(client.with_subscriber(subscriber.clone())),
                None => tokio::spawn(client),
            }
        })
        .collect();
    let mut answered = 0;
    for client in clients {
        answered += client.await.expect("a client that gets what it expects");
    }
    let rate = answered as f64 / begin.elapsed().as_secs_f64();
    // Otherwise the slices without a subscriber would go on asking whether there is one.
    drop(subscriber);
    callsite::rebuild_interest_cache();
    rate
}

impl Caller {
    async fn call(&self, sent: u64) {
        static NEXT_FINISHED: AtomicU64 = AtomicU64::new(0);
        let (key, replayed) = match self.variant.keys {
            Keys::Fresh => (fresh(), false),
            Keys::Again => (self.own[sent as usize % self.own.len()], true),
            Keys::Finished => (NEXT_FINISHED.fetch_add(1, Ordering::Relaxed) % FINISHED, true),
        };
        call(&self.variant, key, replayed).await;
    }
}

/// A number that no record has.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(FINISHED);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Sends a request that runs.
pub(crate) async fn call_fresh(variant: &Variant) {
    call(variant, fresh(), false).await;
}

async fn call(variant: &Variant, key: u64, replayed: bool) {
    send(&variant.app, variant.path, &owner(key), &key_text(key), replayed).await;
}

pub(crate) fn owner(key: u64) -> String {
    format!("user-{}", key % OWNERS)
}

pub(crate) fn key_text(key: u64) -> String {
    format!("8e03978e-40d5-43e8-bc93-{key:012x}")
}

/// Sends the order, and checks its answer, so that the bench does not measure refusals by mistake.
pub(crate) async fn send(app: &Router, path: &str, owner: &str, key: &str, replayed: bool) {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("x-user", owner)
        .header("idempotency-key", key)
        .body(Body::from(ORDER))
        .expect("a request");
    let response = app.clone().oneshot(request).await.expect("a router does not fail");
    assert_eq!(response.status(), StatusCode::CREATED, "{path}: {:?}", response.into_body());
    assert_eq!(response.headers().contains_key("idempotent-replayed"), replayed, "{path}");
}
