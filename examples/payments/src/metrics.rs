//! What Prometheus scrapes: `GET /metrics`.

use std::time::Duration;

use axum::routing::{MethodRouter, get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Failure;

/// The upper bounds of durations and of the age of replays, in seconds: from a claim on a fast disk to a day.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0, 86_400.0];

/// The upper bounds of replies, up to the store's limit.
const BYTES: &[f64] = &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

/// Buckets, as the dashboard expects them: without, the exporter makes summaries, which cannot be added up.
pub(crate) fn exporter() -> Result<PrometheusBuilder, Failure> {
    let sizes = Matcher::Full("idem.reply.size".to_owned());
    Ok(PrometheusBuilder::new().set_buckets(SECONDS)?.set_buckets_for_metric(sizes, BYTES)?)
}

/// Installs the recorder of the process.
pub(crate) fn install() -> Result<PrometheusHandle, Failure> {
    let prometheus = exporter()?.install_recorder()?;
    let kept = prometheus.clone();
    // Nobody may ever scrape. The samples of histograms would pile up then.
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        loop {
            every.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(prometheus)
}

/// The route. It tells nothing about a caller, but a program in production serves it on a port that is not public.
pub(crate) fn route<S: Clone + Send + Sync + 'static>(prometheus: PrometheusHandle) -> MethodRouter<S> {
    get(move || std::future::ready(prometheus.render()))
}
