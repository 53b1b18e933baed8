//! The log line of a settled request.

use super::{Outcome, Settled};
use crate::error::Kind;

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
        ?claim, ?run, ?commit, ?age, "a request is settled"
    );
}
