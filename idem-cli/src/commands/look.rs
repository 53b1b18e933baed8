//! The commands that only read.

use idem_core::Error;
use idem_core::machine::{Expected, Explanation, Holder, Retry, Seen, SeenStep, Sent, Stage};
use idem_core::operate::{Condition, Listed, Query, Reason};
use idem_core::store::{EntryKind, LeaseTerms, Timestamp};
use serde_json::{Value, json};

use crate::args::{Explain, List, Options};
use crate::database::Database;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{duration, printable, table, time};

pub(super) async fn explain(asked: &Explain, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let identity = asked.which.identity()?;
    let first_sent = asked.first_sent.map(|said| said.with(&identity.key)).transpose()?;
    let database = Database::open(options).await?;
    let retry = Retry {
        // The terms matter only where a leased run is not over, which a handler in one transaction never leaves.
        terms: Some(LeaseTerms::DEFAULT.attempts(asked.attempts)),
        sent: first_sent.map(|first| Sent { first, ttl: asked.ttl }),
        ..Retry::default()
    };
    let explanation = database.operate().explain(&identity, &retry).await?;
    let mut json = explanation_json(&explanation);
    let mut text = explanation_text(&explanation);
    json["assumes_keys"] = json!(database.keys.are_assumed());
    if database.keys.are_assumed() {
        text += "sealed: the application is taken to have the key; name the keys of its keyring by --key-id\n";
    }
    output.result(&json, text);
    Ok(Exit::Done)
}

/// The answer to a retry: a stable name, the code of a refusal, and words.
fn expected(expected: Expected) -> (&'static str, Option<&'static str>, String) {
    match expected {
        Expected::Run => ("run", None, "the handler runs".to_owned()),
        Expected::Resume(attempt) => ("resume", None, format!("the handler resumes, as attempt {attempt}")),
        Expected::TooSoon(rest) => (
            "too_soon",
            Some("attempt_too_soon"),
            format!("the next attempt may begin in {}", duration(rest + std::time::Duration::from_millis(999))),
        ),
        Expected::Replay => ("replay", None, "the stored reply".to_owned()),
        Expected::Refuse(kind) => {
            ("refuse", Some(kind.code()), format!("{}: {}", kind.code(), Error::new(kind).detail()))
        }
    }
}

fn step_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::TRANSACTION => "transaction",
        EntryKind::CALL => "call",
        EntryKind::REJECTION => "rejection",
        EntryKind::UNDO => "undo",
        EntryKind::CALL_STARTED => "call_started",
        _ => "unknown",
    }
}

fn explanation_json(explanation: &Explanation) -> Value {
    let (name, code, words) = expected(explanation.expected);
    let steps = explanation.steps.iter().map(|step| {
        let at = step.at.map(|at| time(at.0));
        json!({ "position": step.position, "kind": step_name(step.kind), "name": step.name, "at": at })
    });
    let holder = explanation.holder.as_ref().and_then(|holder| holder.session.as_ref()).map(|session| {
        let since = session.since.map(|since| time(since.0));
        json!({ "pid": session.pid, "application": session.application, "since": since })
    });
    json!({
        "expected": name,
        "code": code,
        "detail": words,
        "record": explanation.record.as_ref().map(seen_json),
        "steps": steps.collect::<Vec<_>>(),
        "holder": holder,
        "is_held": explanation.holder.is_some(),
        "reason": explanation.reason.as_ref().map(Reason::as_str),
        "is_reason_sealed": explanation.is_reason_sealed,
        "may_begin": explanation.may_begin.map(|(from, until)| json!({ "from": time(from.0), "until": time(until.0) })),
        "now": time(explanation.now.0),
    })
}

fn explanation_text(explanation: &Explanation) -> String {
    let (_, _, words) = expected(explanation.expected);
    let mut lines = vec![("a retry gets", words)];
    match &explanation.record {
        Some(seen) => lines.extend(seen_lines(seen)),
        None => lines.push(("record", "none".to_owned())),
    }
    if let Some((from, until)) = explanation.may_begin {
        lines.push(("may begin", format!("from {} until {}", time(from.0), time(until.0))));
    }
    if let Some(holder) = &explanation.holder {
        lines.push(("held by", held_by(holder)));
    }
    if let Some(reason) = &explanation.reason {
        lines.push(("reason", printable(reason.as_str())));
    }
    if explanation.is_reason_sealed {
        lines.push(("reason", "sealed; the application's console shows it".to_owned()));
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect();
    if !explanation.steps.is_empty() {
        let row = |step: &SeenStep| {
            let at = step.at.map(|at| time(at.0)).unwrap_or_default();
            vec![step.position.to_string(), step_name(step.kind).to_owned(), step.name.clone(), at]
        };
        let rows: Vec<_> = explanation.steps.iter().map(row).collect();
        text += &format!("\n{}", table(&["step", "kind", "name", "recorded"], &rows));
    }
    text
}

fn held_by(holder: &Holder) -> String {
    let Some(session) = &holder.session else { return "another process".to_owned() };
    let since = session.since.map(|since| format!(", since {}", time(since.0))).unwrap_or_default();
    format!("process {} of the server, of `{}`{since}", session.pid, printable(&session.application))
}

fn seen_lines(seen: &Seen) -> Vec<(&'static str, String)> {
    let at = |time_at: Timestamp| time(time_at.0);
    let mut lines = vec![("record", format!("{}: {}", seen.condition.name(), seen.condition.meaning()))];
    lines.extend(seen.created_at.map(|began| ("began", at(began))));
    lines.extend(seen.completed_at.map(|completed| ("completed", at(completed))));
    lines.push(("expires", at(seen.expires_at)));
    lines.extend(seen.kept_until.map(|kept| ("refuses until", at(kept))));
    match seen.stage {
        Stage::Leased { until, attempt, released, .. } => {
            lines.push(("lease until", at(until)));
            lines.push(("attempts", format!("{attempt} counted, {released} released")));
        }
        Stage::Completed(Some(status)) => lines.push(("status", status.to_string())),
        _ => {}
    }
    lines
}

fn seen_json(seen: &Seen) -> Value {
    let at = |time_at: Option<Timestamp>| time_at.map(|at| time(at.0));
    let (lease_until, attempt, released) = match seen.stage {
        Stage::Leased { until, attempt, released, .. } => (Some(time(until.0)), Some(attempt), Some(released)),
        _ => (None, None, None),
    };
    let status = if let Stage::Completed(status) = seen.stage { status } else { None };
    json!({
        "state": seen.condition.name(),
        "created_at": at(seen.created_at),
        "completed_at": at(seen.completed_at),
        "expires_at": time(seen.expires_at.0),
        "kept_until": at(seen.kept_until),
        "lease_until": lease_until,
        "attempt": attempt,
        "released": released,
        "status": status,
    })
}

/// Page by page, since the store looks at a limited number of records for each.
pub(super) async fn list(asked: &List, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let scope = asked.owner.scope()?;
    let database = Database::open(options).await?;
    let conditions = if asked.stuck { Condition::STUCK.to_vec() } else { asked.state.clone() };
    let mut query = Query {
        scope,
        operation: asked.operation.clone(),
        conditions,
        older_than: asked.older_than,
        ..Query::default()
    };
    let mut rows = Vec::new();
    let mut left = asked.limit;
    let is_all = loop {
        query.limit = left.min(Query::MOST_LOOKED_AT);
        let page = database.operate().list(&query).await?;
        left = left.saturating_sub(u32::try_from(page.records.len()).unwrap_or(u32::MAX));
        for record in &page.records {
            if output.is_json() {
                output.result(&listed_json(record), "");
            } else {
                rows.push(listed_row(record));
            }
        }
        query.after = page.next;
        if query.after.is_none() || left == 0 {
            break query.after.is_none();
        }
        output.progress(&format!("{} found", asked.limit - left));
    };
    output.progress_ends();
    if !output.is_json() {
        let mut text = table(&["state", "began", "expires", "scope", "operation", "key hash"], &rows);
        if !is_all {
            text += "there may be more: raise --limit\n";
        }
        output.result(&Value::Null, text);
    }
    Ok(Exit::Done)
}

fn listed_json(record: &Listed) -> Value {
    let mut json = seen_json(&record.seen);
    json["scope"] = json!(record.at.scope);
    json["operation"] = json!(record.at.operation);
    json["key_hash"] = json!(record.at.key_hex());
    json
}

fn listed_row(record: &Listed) -> Vec<String> {
    let seen = &record.seen;
    vec![
        seen.condition.name().to_owned(),
        seen.created_at.map(|began| time(began.0)).unwrap_or_default(),
        time(seen.expires_at.0),
        record.at.scope.clone(),
        record.at.operation.clone(),
        record.at.key_hex(),
    ]
}
