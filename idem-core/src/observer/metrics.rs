//! Counts events with the `metrics` facade.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{
    Key, Label, Level, Metadata, Recorder, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    with_recorder,
};

use super::{Event, Observer, Outcome, Settled, Source};
use crate::disposition::Disposition;
use crate::error::Kind;
use crate::machine::Verdict;

/// An observer that counts what it is told, by the facade [`metrics`](https://docs.rs/metrics).
///
/// ```
/// use std::sync::Arc;
/// use idem_core::observer::{Metrics, Observer};
///
/// // With `idem-sqlx`: `PgStore::builder(pool).observer(Metrics::new())`.
/// let observer: Arc<dyn Observer> = Arc::new(Metrics::new());
/// ```
///
/// The application installs the recorder: `metrics-exporter-prometheus` or any other. The page
/// [`observability`](crate::docs::observability) has the table of all names.
///
/// # Rules
/// - Without a recorder nothing is counted, and the calls do nothing.
/// - Install the recorder before the first [`Metrics::new`], which describes the metrics to it.
/// - A label is the name of an operation, of a step, or one of a fixed set of words.
#[derive(Debug, Clone)]
pub struct Metrics {
    active: Arc<Kept<&'static str, Key>>,
    settled: Arc<Kept<Labels, Keys>>,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric: its name, type, unit and description. The page on observability, the dashboard and the alert rules are
/// compared with it.
const ALL: [(&str, Type, Unit, &str); 20] = [
    ("idem.requests", Type::Counter, Unit::Count, "Settled requests."),
    ("idem.replay.age", Type::Histogram, Unit::Seconds, "How long ago the replayed run was completed."),
    ("idem.claim.duration", Type::Histogram, Unit::Seconds, "From the request to its claim or answer."),
    ("idem.run.duration", Type::Histogram, Unit::Seconds, "From the claim to the handler's answer."),
    ("idem.commit.duration", Type::Histogram, Unit::Seconds, "From the handler's answer to the end of the commit."),
    ("idem.runs.active", Type::Gauge, Unit::Count, "Handlers that run now."),
    ("idem.commit.unknown", Type::Counter, Unit::Count, "COMMITs without an answer."),
    ("idem.lease.lost", Type::Counter, Unit::Count, "Runs that have lost their lease."),
    ("idem.lease.renewal.failed", Type::Counter, Unit::Count, "Tries to renew a lease that failed."),
    ("idem.takeovers", Type::Counter, Unit::Count, "Leased runs that a later attempt has taken over."),
    ("idem.attempts.exhausted", Type::Counter, Unit::Count, "Requests that met a run without attempts left."),
    ("idem.steps", Type::Counter, Unit::Count, "Steps that have ended."),
    ("idem.undos", Type::Counter, Unit::Count, "Undos that have ended."),
    ("idem.reply.size", Type::Histogram, Unit::Bytes, "The size of stored and replayed replies."),
    ("idem.reply.oversized", Type::Counter, Unit::Count, "Replies over the store's limit."),
    ("idem.sweep.removed", Type::Counter, Unit::Count, "Expired records that were removed."),
    ("idem.backlog.expired", Type::Gauge, Unit::Count, "Expired records that are not swept."),
    ("idem.backlog.oldest", Type::Gauge, Unit::Seconds, "For how long the oldest of these has been expired."),
    ("idem.abandoned", Type::Gauge, Unit::Count, "Leased runs that are not over and that no process holds."),
    ("idem.answers.failed", Type::Counter, Unit::Count, "Errors that callers got, by code."),
];

impl Metrics {
    /// Describes the metrics to the installed recorder.
    #[must_use]
    pub fn new() -> Self {
        for (name, kind, unit, words) in ALL {
            match kind {
                Type::Counter => describe_counter!(name, unit, words),
                Type::Gauge => describe_gauge!(name, unit, words),
                Type::Histogram => describe_histogram!(name, unit, words),
            }
        }
        Self { active: Arc::default(), settled: Arc::default() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::RunBegan { operation, .. } => self.count_active(operation),
            Event::Settled(ref settled) => self.count(settled),
            Event::TakenOver { operation, .. } => counter!("idem.takeovers", "operation" => operation).increment(1),
            Event::LeaseLost { operation } => counter!("idem.lease.lost", "operation" => operation).increment(1),
            Event::RenewalFailed { operation, .. } => {
                counter!("idem.lease.renewal.failed", "operation" => operation).increment(1);
            }
            Event::CommitUnknown { verdict, .. } => {
                counter!("idem.commit.unknown", "verdict" => verdict_name(verdict)).increment(1);
            }
            Event::Step { operation, step, result, .. } => {
                let (step, result) = (step.to_owned(), result.as_str());
                counter!("idem.steps", "operation" => operation, "step" => step, "result" => result).increment(1);
            }
            Event::Undo { operation, step, result, .. } => {
                let (step, result) = (step.to_owned(), result.as_str());
                counter!("idem.undos", "operation" => operation, "step" => step, "result" => result).increment(1);
            }
            Event::Swept { removed } => counter!("idem.sweep.removed").increment(removed),
            Event::Backlog(backlog) => {
                gauge!("idem.backlog.expired").set(backlog.expired as f64);
                gauge!("idem.backlog.oldest").set(backlog.oldest.as_secs_f64());
                gauge!("idem.abandoned").set(backlog.abandoned as f64);
            }
        }
    }
}

impl Metrics {
    fn count_active(&self, operation: &'static str) {
        let active = self.active.get(operation, || active(operation));
        with_recorder(|recorder| recorder.register_gauge(&active, &METADATA).increment(1.0));
    }

    fn count(&self, settled: &Settled) {
        let Settled { operation, outcome, source, disposition, .. } = *settled;
        let labels = Labels { operation, outcome, source, disposition };
        let keys = self.settled.get(labels, || Keys::of(labels));
        with_recorder(|recorder| keys.count(recorder, settled));
        if let Some(kind) = settled.kind {
            counter!("idem.answers.failed", "operation" => operation, "code" => kind.code()).increment(1);
            if kind == Kind::AttemptsExhausted {
                counter!("idem.attempts.exhausted", "operation" => operation).increment(1);
            }
        }
        if settled.is_oversized {
            counter!("idem.reply.oversized", "operation" => operation).increment(1);
        }
    }
}

/// What the metrics of a settled request have as labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels {
    operation: &'static str,
    outcome: Outcome,
    source: Source,
    disposition: Option<Disposition>,
}

/// The keys of the metrics that usual requests have.
#[derive(Debug)]
struct Keys {
    active: Key,
    requests: Key,
    claim: Key,
    run: Key,
    commit: Key,
    age: Key,
    size: Key,
}

impl Keys {
    fn of(labels: Labels) -> Self {
        let operation = ("operation", labels.operation);
        let disposition = labels.disposition.map_or("none", |disposition| match disposition {
            Disposition::Commit => "commit",
            Disposition::Reject => "reject",
            Disposition::Release => "release",
        });
        let duration = |name| key(name, &[operation, ("disposition", disposition)]);
        let (outcome, source) = (("outcome", labels.outcome.as_str()), ("source", labels.source.as_str()));
        Self {
            active: active(labels.operation),
            requests: key("idem.requests", &[operation, outcome, source]),
            claim: duration("idem.claim.duration"),
            run: duration("idem.run.duration"),
            commit: duration("idem.commit.duration"),
            age: key("idem.replay.age", &[operation]),
            size: key("idem.reply.size", &[operation]),
        }
    }

    fn count(&self, recorder: &dyn Recorder, settled: &Settled) {
        let record = |key, value| recorder.register_histogram(key, &METADATA).record(value);
        let seconds = |time: Duration| time.as_secs_f64();
        recorder.register_counter(&self.requests, &METADATA).increment(1);
        if settled.run.is_some() {
            recorder.register_gauge(&self.active, &METADATA).decrement(1.0);
        }
        record(&self.claim, seconds(settled.claim));
        for (key, value) in [
            (&self.run, settled.run.map(seconds)),
            (&self.commit, settled.commit.map(seconds)),
            (&self.age, settled.age.map(seconds)),
            (&self.size, settled.reply_size.map(|size| size as f64)),
        ] {
            if let Some(value) = value {
                record(key, value);
            }
        }
    }
}

/// What the macros of the facade say of a metric.
static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A key that is copied without an allocation, as recorders do for each event.
fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    let labels: Vec<_> = labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect();
    Key::from_parts(name, labels).to_retained()
}

/// How many handlers run now.
fn active(operation: &'static str) -> Key {
    key("idem.runs.active", &[("operation", operation)])
}

/// Keys by their labels. To make a key takes an allocation and a digest of its labels, more than all the rest.
///
/// The recorder's handles are not kept. A recorder may forget a metric that was not counted for long, and an event that is
/// counted by an old handle is counted nowhere. So is an event by a handle from before there was a recorder.
struct Kept<L, K>(RwLock<HashMap<L, Arc<K>>>);

impl<L: Eq + Hash, K> Kept<L, K> {
    fn get(&self, labels: L, make: impl FnOnce() -> K) -> Arc<K> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&labels).map(Arc::clone);
        kept.unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(labels).or_insert_with(|| Arc::new(make())))
        })
    }
}

impl<L, K> Default for Kept<L, K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<L, K> fmt::Debug for Kept<L, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

const fn verdict_name(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Kept) => "kept",
        Some(Verdict::NotKept) => "not_kept",
        Some(Verdict::Ended) => "ended",
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use metrics_util::MetricKind;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::disposition::Disposition;
    use crate::observer::{Backlog, Outcome, StepResult};

    const OPERATION: &str = "payments.create";

    fn settled() -> Settled {
        Settled {
            disposition: Some(Disposition::Commit),
            attempt: Some(1),
            claim: Duration::from_millis(500),
            run: Some(Duration::from_millis(1500)),
            commit: Some(Duration::from_millis(250)),
            reply_size: Some(120),
            ..Settled::new(OPERATION, Outcome::Run)
        }
    }

    /// One event of each kind.
    fn events() -> Vec<Event<'static>> {
        let (operation, step, took) = (OPERATION, "charge", Duration::from_millis(1));
        let refused = Settled { run: None, commit: None, disposition: None, ..settled() };
        let age = Some(Duration::from_secs(30));
        let exhausted = Some(Kind::AttemptsExhausted);
        vec![
            Event::RunBegan { operation, attempt: 1 },
            Event::Settled(settled()),
            Event::RunBegan { operation, attempt: 1 },
            Event::Settled(Settled { outcome: Outcome::Replay, age, ..refused }),
            Event::Settled(Settled { outcome: Outcome::Refused, kind: exhausted, is_oversized: true, ..refused }),
            Event::TakenOver { operation, attempt: 2 },
            Event::LeaseLost { operation },
            Event::RenewalFailed { operation, kind: None },
            Event::CommitUnknown { operation, verdict: Some(Verdict::NotKept) },
            Event::Step { operation, step, result: StepResult::Finished, took },
            Event::Undo { operation, step, result: StepResult::Failed, took },
            Event::Swept { removed: 7 },
            Event::Backlog(Backlog::new(3, Duration::from_secs(90), 2)),
        ]
    }

    #[test]
    fn r34_each_event_is_counted_under_the_names_and_labels_of_the_page() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            events().iter().for_each(|event| metrics.observe(event));
        });
        let mut lines = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (key, unit, words, value) in snapshotter.snapshot().into_vec() {
            let (kind, key) = key.into_parts();
            let (_, of, described, _) =
                ALL.iter().find(|(name, ..)| *name == key.name()).expect("a metric of the table");
            let kind_of = match kind {
                MetricKind::Counter => Type::Counter,
                MetricKind::Gauge => Type::Gauge,
                MetricKind::Histogram => Type::Histogram,
            };
            assert_eq!((kind_of, unit, words.is_some()), (*of, Some(*described), true), "{key}");
            names.insert(key.name().to_owned());
            let value = match value {
                DebugValue::Counter(count) => count.to_string(),
                DebugValue::Gauge(number) => number.to_string(),
                DebugValue::Histogram(numbers) => numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            };
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            lines.insert(format!("{}{{{}}} {value}", key.name(), labels.join(",")));
        }
        let all: BTreeSet<_> = ALL.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(names, all, "each name of the table is counted by some event");
        for line in [
            "idem.requests{operation=payments.create,outcome=run,source=sql} 1",
            "idem.requests{operation=payments.create,outcome=replay,source=sql} 1",
            "idem.replay.age{operation=payments.create} 30",
            "idem.run.duration{operation=payments.create,disposition=commit} 1.5",
            "idem.commit.duration{operation=payments.create,disposition=commit} 0.25",
            "idem.runs.active{operation=payments.create} 1",
            "idem.commit.unknown{verdict=not_kept} 1",
            "idem.lease.lost{operation=payments.create} 1",
            "idem.lease.renewal.failed{operation=payments.create} 1",
            "idem.takeovers{operation=payments.create} 1",
            "idem.attempts.exhausted{operation=payments.create} 1",
            "idem.answers.failed{operation=payments.create,code=attempts_exhausted} 1",
            "idem.steps{operation=payments.create,step=charge,result=finished} 1",
            "idem.undos{operation=payments.create,step=charge,result=failed} 1",
            "idem.reply.size{operation=payments.create} 120 120 120",
            "idem.reply.oversized{operation=payments.create} 1",
            "idem.sweep.removed{} 7",
            "idem.backlog.expired{} 3",
            "idem.backlog.oldest{} 90",
            "idem.abandoned{} 2",
        ] {
            assert!(lines.contains(line), "{line}\n{lines:#?}");
        }
    }

    #[test]
    fn r34_what_is_kept_between_two_events_is_no_part_of_a_recorder() {
        let metrics = Metrics::new();
        let observe = |event| metrics.observe(&event);
        // Nobody counts yet.
        observe(Event::RunBegan { operation: OPERATION, attempt: 1 });
        observe(Event::Settled(settled()));
        for _ in 0..2 {
            let recorder = DebuggingRecorder::new();
            metrics::with_local_recorder(&recorder, || {
                observe(Event::RunBegan { operation: OPERATION, attempt: 1 });
                observe(Event::Settled(settled()));
            });
            let counted = recorder.snapshotter().snapshot().into_vec();
            assert_eq!(counted.len(), 6, "{counted:?}");
            let value = |name| &counted.iter().find(|(key, ..)| key.key().name() == name).expect("counted").3;
            assert_eq!(value("idem.requests"), &DebugValue::Counter(1));
            assert_eq!(value("idem.runs.active"), &DebugValue::Gauge(0.0.into()));
        }
    }

    #[test]
    fn r34_a_key_is_made_once() {
        let kept = Kept::default();
        assert_eq!(*kept.get("a", || 1), 1);
        assert_eq!(*kept.get("a", || panic!("made again")), 1);
        assert_eq!(*kept.get("b", || 2), 2);
    }

    /// The metrics that a text names as Prometheus has them.
    fn named_in(text: &str) -> BTreeSet<&str> {
        let is_part = |character: char| character.is_ascii_lowercase() || character == '_';
        text.split(|character| !is_part(character)).filter(|word| word.starts_with("idem_")).collect()
    }

    /// The series that Prometheus has of the metrics: a histogram as a summary or in buckets.
    fn series() -> BTreeSet<String> {
        let all = ALL.iter().flat_map(|(name, kind, ..)| {
            let name = name.replace('.', "_");
            let ends: &[&str] = if *kind == Type::Histogram { &["_sum", "_count", "_bucket"] } else { &[""] };
            ends.iter().map(move |end| format!("{name}{end}")).collect::<Vec<_>>()
        });
        all.collect()
    }

    #[test]
    fn r34_the_dashboard_and_the_alert_rules_name_only_metrics_that_exist() {
        let dashboard = include_str!("../../docs/grafana.json");
        let parsed: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
        let queries: Vec<_> = parsed["panels"]
            .as_array()
            .expect("panels")
            .iter()
            .flat_map(|panel| panel["targets"].as_array().expect("targets"))
            .map(|target| target["expr"].as_str().expect("a query"))
            .collect();
        assert!(queries.len() >= 10, "{queries:?}");
        let alerts = include_str!("../../docs/alerts.yaml");
        let rules: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
        assert!(rules.len() >= 5, "{rules:?}");
        let series = series();
        for query in queries.iter().chain(&rules) {
            let named = named_in(query);
            assert!(!named.is_empty(), "no metric: {query}");
            for name in named {
                assert!(series.contains(name), "{name} in {query}");
            }
        }
        for alert in ["IdemLeaseLost", "IdemCommitUnknown", "IdemKeysReused", "IdemSweepBacklog", "IdemAbandonedRuns"] {
            assert!(alerts.contains(&format!("alert: {alert}\n")), "{alert}");
        }
    }

    #[test]
    fn r34_the_page_has_every_metric() {
        let page = include_str!("../../docs/observability.md");
        let rows: BTreeSet<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `idem.")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let all: BTreeSet<_> = ALL.iter().map(|(name, ..)| name.strip_prefix("idem.").expect("the prefix")).collect();
        assert_eq!(rows, all);
    }
}
