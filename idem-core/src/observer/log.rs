//! The span of a request, and its log line.

use tracing::Span;
use tracing::field::{Empty, display};

use super::{Outcome, Settled};
use crate::error::Kind;
use crate::identity::Operation;

/// The span of a request, from its beginning until it is settled. What is known at its end is empty until then.
pub(super) fn span(operation: Operation) -> Span {
    tracing::info_span!(
        target: "idem",
        "idem.request",
        idem.operation = operation.as_str(),
        idem.outcome = Empty,
        idem.source = Empty,
        idem.attempt = Empty,
        idem.first.traceparent = Empty,
        error.type = Empty,
    )
}

/// Completes the span of a settled request.
pub(super) fn complete(span: &Span, settled: &Settled) {
    if span.is_disabled() {
        return;
    }
    span.record("idem.outcome", settled.outcome.as_str());
    span.record("idem.source", settled.source.as_str());
    if let Some(attempt) = settled.attempt {
        span.record("idem.attempt", attempt);
    }
    if let Some(first) = settled.first_traceparent {
        span.record("idem.first.traceparent", display(first));
    }
    if let Some(kind) = settled.kind {
        span.record("error.type", kind.code());
    }
}

/// Logs a settled request at the level that a person would choose. What an operator has to correct is logged with its
/// cause where it is answered, and an outage once.
pub(super) fn settled(settled: &Settled) {
    let Settled { operation, outcome, attempt, claim, run, commit, age, .. } = *settled;
    let (outcome_name, code, source) = (outcome.as_str(), settled.kind.map(Kind::code), settled.source.as_str());
    if outcome == Outcome::KeyReused {
        tracing::warn!(target: "idem", operation, outcome = outcome_name, code, source, "a key was reused");
        return;
    }
    tracing::debug!(
        target: "idem", operation, outcome = outcome_name, code, attempt, source,
        ?claim, ?run, ?commit, ?age, idem.first.traceparent = settled.first_traceparent.map(display),
        "a request is settled"
    );
}
