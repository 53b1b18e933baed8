//! The queries of the dashboard and of the alert rules, and whether a scrape answers them.

use std::collections::BTreeMap;

use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use serde_json::Value;

/// A query, with the parts of it that name something in a scrape.
pub(crate) struct Query {
    pub(crate) text: String,
    pub(crate) selections: Vec<Selection>,
}

/// A selector, and the labels by which what it selects is grouped.
pub(crate) struct Selection {
    selector: VectorSelector,
    grouped_by: Vec<String>,
}

/// All queries of both files.
pub(crate) fn all() -> Vec<Query> {
    let dashboard = include_str!("../../../../idem-core/docs/grafana.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let shown = targets.map(|target| target["expr"].as_str().expect("a query"));
    let alerts = include_str!("../../../../idem-core/docs/alerts.yaml");
    let watched = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    shown.chain(watched).map(Query::parse).collect()
}

impl Query {
    fn parse(text: &str) -> Self {
        // Grafana replaces its variable before Prometheus sees the query.
        let parsed = parser::parse(&text.replace("$__rate_interval", "5m"));
        let mut selections = Vec::new();
        collect(&parsed.unwrap_or_else(|error| panic!("{text}: {error}")), &[], &mut selections);
        assert!(!selections.is_empty(), "no metric: {text}");
        Self { text: text.to_owned(), selections }
    }
}

fn collect(query: &Expr, grouped_by: &[String], into: &mut Vec<Selection>) {
    let mut take = |selector: &VectorSelector| {
        into.push(Selection { selector: selector.clone(), grouped_by: grouped_by.to_vec() });
    };
    match query {
        Expr::VectorSelector(selector) => take(selector),
        Expr::MatrixSelector(matrix) => take(&matrix.vs),
        Expr::Aggregate(aggregate) => {
            let mut grouped_by = grouped_by.to_vec();
            if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
                grouped_by.extend(labels.labels.iter().cloned());
            }
            collect(&aggregate.expr, &grouped_by, into);
        }
        Expr::Binary(binary) => {
            collect(&binary.lhs, grouped_by, into);
            collect(&binary.rhs, grouped_by, into);
        }
        Expr::Call(call) => call.args.args.iter().for_each(|argument| collect(argument, grouped_by, into)),
        Expr::Paren(inner) => collect(&inner.expr, grouped_by, into),
        Expr::NumberLiteral(_) => {}
        other => panic!("a query of a kind that no file has: {other}"),
    }
}

impl Selection {
    pub(crate) fn metric(&self) -> &str {
        self.selector.name.as_deref().expect("a metric's name")
    }

    /// Whether a series of the scrape is selected and has the labels by which it is grouped.
    pub(crate) fn is_answered_by(&self, scrape: &Scrape) -> bool {
        scrape.0.iter().any(|series| {
            let label = |name: &str| series.labels.get(name).map_or("", String::as_str);
            series.name == self.metric()
                && self.selector.matchers.matchers.iter().all(|matcher| matcher.is_match(label(&matcher.name)))
                && self.grouped_by.iter().all(|name| series.labels.contains_key(name))
        })
    }
}

/// What an endpoint has answered to Prometheus.
#[derive(Debug)]
pub(crate) struct Scrape(Vec<Series>);

#[derive(Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Reads the text format. No label of ours has a character that is escaped.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| Series::read(line).unwrap_or_else(|| panic!("no series: {line}"))).collect())
    }

    /// The value of the only series of this metric with these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is_asked_for = |series: &&Series| {
            series.name == name
                && labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|text| text == value))
        };
        let found: Vec<_> = self.0.iter().filter(is_asked_for).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].value
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|series| series.name == name)
    }
}

impl Series {
    fn read(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}')?.split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (name, value) = label.split_once('=')?;
            Some((name.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
        });
        Some(Self { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
    }
}
