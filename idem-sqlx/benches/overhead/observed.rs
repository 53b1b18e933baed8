//! What metrics, encryption, logs and hints cost, against the same requests without them. `REDIS_URL` names the server for
//! the hint in Redis.
//!
//! The metrics go to Prometheus' exporter. The log is written as text, and thrown away: what a terminal or a file takes
//! is not the library's.

use std::env;
use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use axum::Router;
use idem_core::hint::{Memory, Secret};
use idem_core::observer::Metrics;
use idem_core::seal::{Keyring, SealKey};
use idem_redis::RedisHint;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing::{Dispatch, Level};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::measure::{Keys, Variant};

pub(crate) fn variants(usual: &Router, metrics: &Router, sealed: &Router, hinted: &Hinted) -> Vec<Variant> {
    let run = |name, app| Variant::new(name, app, "/attribute", Keys::Fresh);
    let replay = |name, app| Variant::new(name, app, "/attribute", Keys::Again);
    let mut variants = vec![
        Variant::new("bare", usual, "/bare", Keys::Fresh),
        run("attribute", usual),
        run("attribute, metrics", metrics),
        run("attribute, encryption", sealed),
        run("attribute, log at info", usual).logged(Level::INFO),
        run("attribute, log at debug", usual).logged(Level::DEBUG),
        replay("its replay", usual),
        replay("its replay, metrics", metrics),
        replay("its replay, encryption", sealed),
        replay("its replay, log at info", usual).logged(Level::INFO),
        replay("its replay, log at debug", usual).logged(Level::DEBUG),
        run("attribute, memory", &hinted.memory),
        replay("its replay, memory", &hinted.memory),
    ];
    if let Some(redis) = &hinted.redis {
        variants.extend([run("attribute, redis", redis), replay("its replay, redis", redis)]);
    }
    variants
}

/// The application over stores with a hint in memory, and in Redis if there is one.
pub(crate) struct Hinted {
    pub(crate) memory: Router,
    pub(crate) redis: Option<Router>,
}

pub(crate) fn memory() -> Memory {
    Memory::new(64 * 1024 * 1024)
}

pub(crate) fn redis() -> Option<RedisHint> {
    let url = env::var("REDIS_URL").ok().filter(|url| !url.is_empty())?;
    let secret = Secret::random().expect("randomness");
    Some(RedisHint::new(&url, secret).expect("REDIS_URL is a redis:// URL"))
}

/// An observer that counts into the exporter, which is emptied as a server does it.
pub(crate) fn metrics() -> Metrics {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0]).expect("buckets");
        let prometheus = builder.install_recorder().expect("the only recorder");
        thread::spawn(move || {
            loop {
                prometheus.run_upkeep();
                thread::sleep(Duration::from_secs(1));
            }
        });
    });
    Metrics::new()
}

pub(crate) fn keyring() -> Keyring {
    Keyring::new(1, SealKey::from_bytes([7; 32]))
}

/// Writes the library's log up to this level. sqlx's statements, which `debug` would add, are not the library's log.
pub(crate) fn subscriber(level: Level) -> Dispatch {
    let targets = Targets::new().with_target("idem", level);
    let text = fmt::layer().with_writer(io::sink).with_filter(targets);
    Dispatch::new(tracing_subscriber::registry().with(text))
}
