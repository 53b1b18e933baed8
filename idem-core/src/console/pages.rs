//! The pages, as HTML. What a page shows of a record goes through [`shown`].

use maud::{DOCTYPE, Markup, html};

use super::{asked, confirm, shown};
use crate::identity::Identity;
use crate::machine::{Expected, Explanation, Holder, Seen, SeenStep, Stage};
use crate::observer::Backlog;
use crate::operate::{Condition, Counts, Cursor, Listed, Page, Query};
use crate::policy::LeaseTerms;
use crate::record::Timestamp;
use crate::store::EntryKind;

/// A page with its head.
pub(super) fn whole(place: &str, title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href={ (place) "/style.css" };
            }
            body {
                header {
                    nav aria-label="Pages" {
                        a href=(home(place)) { "Overview" }
                        a href={ (home(place)) "#look-up" } { "Look a key up" }
                        a href={ (home(place)) "#list" } { "List records" }
                    }
                }
                main { h1 { (title) } (content) }
            }
        }
    }
}

/// The first page. An empty path is no link.
pub(super) fn home(place: &str) -> &str {
    if place.is_empty() { "/" } else { place }
}

/// What the first page shows.
pub(super) struct Overview<'a> {
    pub(super) counts: &'a Counts,
    pub(super) backlog: &'a Backlog,
    pub(super) query: &'a Query,
    pub(super) stuck: &'a Page,
    pub(super) offers_changes: bool,
}

pub(super) fn overview(
    place: &str,
    Overview { counts, backlog, query, stuck, offers_changes }: Overview<'_>,
) -> Markup {
    let operations: Vec<&str> = {
        let mut names: Vec<_> = counts.counted.iter().map(|counted| counted.operation.as_str()).collect();
        names.dedup();
        names
    };
    html! {
        p { "As of " (shown::time(counts.now)) "." @if !offers_changes { " This page only reads." } }
        section aria-labelledby="stuck" {
            h2 id="stuck" { "Stuck" }
            p {
                "Runs that no process holds, and keys that are refused. A retry resumes an abandoned run, or undoes the rest "
                "of a rejection."
            }
            (table(place, stuck))
            (further(place, stuck, query))
        }
        section aria-labelledby="counts" {
            h2 id="counts" { "Counts" }
            @if !counts.is_complete {
                p { "There are more records. Counted are the " (Counts::MOST) " that expire last." }
            }
            @if counts.counted.is_empty() {
                p { "There is no record." }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Operation" }
                            th scope="col" { "Condition" }
                            th scope="col" class="number" { "Last 24 hours" }
                            th scope="col" class="number" { "All" }
                        }
                    }
                    tbody {
                        @for counted in &counts.counted {
                            tr {
                                td { (shown::text(&counted.operation)) }
                                td { (counted.condition.name()) }
                                td.number { (counted.today) }
                                td.number { (counted.records) }
                            }
                        }
                    }
                }
            }
        }
        section aria-labelledby="backlog" {
            h2 id="backlog" { "Left to do" }
            dl {
                dt { "Expired records that are not swept" }
                dd { (at_most(backlog.expired)) @if backlog.expired > 0 { ", the oldest for " (shown::duration(backlog.oldest)) } }
                dt { "Leased runs with recorded steps that no process holds" }
                dd { (at_most(backlog.abandoned)) }
            }
        }
        (key_form(place, &operations))
        (list_form(place, &operations))
        @if offers_changes { (confirm::scope_form(place)) }
    }
}

/// The counting of a backlog stops at a number.
fn at_most(counted: u64) -> String {
    if counted >= Backlog::MOST { format!("{counted} or more") } else { counted.to_string() }
}

fn key_form(place: &str, operations: &[&str]) -> Markup {
    html! {
        section aria-labelledby="look-up" {
            h2 id="look-up" { "Look a key up" }
            form method="post" action={ (place) "/key" } autocomplete="off" {
                p {
                    label for="scope" { "Scope" }
                    input id="scope" name="scope" maxlength="255" spellcheck="false" aria-describedby="scope-help";
                    small id="scope-help" {
                        "As it is stored: " code { "ada" } ", or " code { "[\"t1\",\"7\"]" } " for a tuple. Empty: the global scope."
                    }
                }
                p {
                    label for="operation" { "Operation" }
                    input id="operation" name="operation" maxlength="255" required list="operations" spellcheck="false";
                    datalist id="operations" {
                        @for operation in operations { option value=(shown::text(operation)) {} }
                    }
                }
                p {
                    label for="key" { "Key" }
                    input id="key" name="key" maxlength="255" required spellcheck="false" aria-describedby="key-help";
                    small id="key-help" { "As the client sent it. It is hashed, and neither kept nor logged." }
                }
                p {
                    label for="attempts" { "Attempts of a leased handler" }
                    input id="attempts" name="attempts" inputmode="numeric" pattern="[0-9]*" aria-describedby="attempts-help";
                    small id="attempts-help" { "Empty: 10, if the record is of a leased run." }
                }
                p {
                    label for="first-sent" { "First sent" }
                    input id="first-sent" name="first_sent" maxlength="40" spellcheck="false" aria-describedby="first-sent-help";
                    small id="first-sent-help" {
                        "Of a handler with " code { "first_sent = refuse" } ": the time that the retry says, as "
                        code { "2026-11-29T10:00:00Z" } " or as the header has it, or " code { "key" } " for the time of its key."
                    }
                }
                p {
                    label for="ttl" { "The handler's ttl" }
                    input id="ttl" name="ttl" maxlength="40" spellcheck="false" aria-describedby="ttl-help";
                    small id="ttl-help" { "The time of the first request is compared with it. Empty: 24h." }
                }
                p { button { "Look up" } }
            }
        }
    }
}

fn list_form(place: &str, operations: &[&str]) -> Markup {
    html! {
        section aria-labelledby="list" {
            h2 id="list" { "List records" }
            form method="post" action={ (place) "/records" } autocomplete="off" {
                fieldset {
                    legend { "Scope" }
                    p {
                        input type="radio" id="scopes-all" name="scopes" value="all" checked;
                        label for="scopes-all" { "All scopes" }
                    }
                    p {
                        input type="radio" id="scopes-one" name="scopes" value="one";
                        label for="scopes-one" { "One scope" }
                    }
                    p {
                        label for="list-scope" { "The one scope" }
                        input id="list-scope" name="scope" maxlength="255" spellcheck="false";
                    }
                }
                p {
                    label for="list-operation" { "Operation" }
                    input id="list-operation" name="operation" maxlength="255" list="list-operations" spellcheck="false";
                    datalist id="list-operations" {
                        @for operation in operations { option value=(shown::text(operation)) {} }
                    }
                }
                p {
                    label for="condition" { "Condition" }
                    select id="condition" name="condition" {
                        option value="" { "any" }
                        option value="stuck" { "stuck" }
                        @for condition in Condition::ALL { option value=(condition.name()) { (condition.name()) } }
                    }
                }
                p {
                    label for="older" { "Began at least so many hours ago" }
                    input id="older" name="older_than" inputmode="numeric" pattern="[0-9]*";
                }
                p { button { "List" } }
            }
        }
    }
}

pub(super) fn listed(place: &str, query: &Query, page: &Page) -> Markup {
    html! {
        p { "As of " (shown::time(page.now)) "." }
        (table(place, page))
        (further(place, page, query))
    }
}

fn table(place: &str, page: &Page) -> Markup {
    if page.records.is_empty() {
        let looked_at = Query::MOST_LOOKED_AT;
        return match page.next {
            Some(_) => html! { p { "None among the " (looked_at) " records that were looked at." } },
            None => html! { p { "None." } },
        };
    }
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Scope" }
                    th scope="col" { "Operation" }
                    th scope="col" { "Key hash" }
                    th scope="col" { "Condition" }
                    th scope="col" { "Began" }
                    th scope="col" { "A retry gets" }
                }
            }
            tbody { @for record in &page.records { (row(place, record, page.now)) } }
        }
    }
}

fn row(place: &str, Listed { at, seen, .. }: &Listed, now: Timestamp) -> Markup {
    html! {
        tr {
            td { (shown::scope(&at.scope)) }
            td { (shown::text(&at.operation)) }
            td { code { (at.key_hex().chars().take(12).collect::<String>()) "…" } }
            td {
                (seen.condition.name()) ": " (seen.condition.meaning())
                @if let Some(more) = of_lease(seen, now) { ". " (more) }
            }
            td { @if let Some(created) = seen.created_at { (shown::time(created)) } @else { "unknown" } }
            td { (explain_form(place, at)) }
        }
    }
}

/// The attempts of a leased run, and when its lease ended.
fn of_lease(seen: &Seen, now: Timestamp) -> Option<String> {
    let Stage::Leased { until, attempt, released, .. } = seen.stage else { return None };
    let lease = match until > now {
        true => format!("Lease held until {}", shown::time(until)),
        false => format!("Lease ended {} ago", shown::since(until, now)),
    };
    Some(format!("{lease}; attempts: {attempt}, of which released: {released}"))
}

fn explain_form(place: &str, at: &Cursor) -> Markup {
    let name = format!("Explain {} of scope {}", shown::text(&at.operation), shown::scope(&at.scope));
    html! {
        form method="post" action={ (place) "/key" } {
            (hidden(asked::at(at)))
            button aria-label=(name) { "Explain" }
        }
    }
}

/// The button to the next page.
fn further(place: &str, page: &Page, query: &Query) -> Markup {
    let Some(next) = &page.next else { return html! {} };
    html! {
        form method="post" action={ (place) "/records" } {
            (hidden(asked::after(query, next)))
            button { "Look further" }
        }
    }
}

pub(super) fn hidden(fields: Vec<(&str, String)>) -> Markup {
    html! { @for (name, value) in fields { input type="hidden" name=(name) value=(value); } }
}

pub(super) fn explained(
    place: &str,
    identity: &Identity,
    explained: &Explanation,
    terms: Option<LeaseTerms>,
    offers_changes: bool,
) -> Markup {
    html! {
        p {
            "As of " (shown::time(explained.now)) ", for an unchanged retry"
            @if let Some(terms) = terms { " of a leased handler with " (terms.attempts) " attempts" }
            "."
        }
        p.answer { strong { (answer(explained.expected)) } }
        (facts(identity, explained))
        (steps(&explained.steps))
        @if offers_changes && explained.record.is_some() {
            (confirm::offered(place, identity, explained))
        }
        p { a href=(home(place)) { "Look another key up" } }
    }
}

/// Which record it is, and what is known of it.
pub(super) fn facts(identity: &Identity, explained: &Explanation) -> Markup {
    let Explanation { record, now, holder, reason, may_begin, .. } = explained;
    html! {
        dl {
            dt { "Scope" }
            dd { (shown::scope(identity.scope.as_str())) }
            dt { "Operation" }
            dd { (shown::text(identity.operation.as_str())) }
            dt { "Key hash" }
            dd { code { (Cursor::of(identity).key_hex()) } }
            @if let Some(seen) = record { (of_record(seen, *now)) } @else { dt { "Record" } dd { "none" } }
            @if let Some((from, until)) = may_begin {
                dt { "May begin to run" }
                dd { "from " (shown::time(*from)) " until " (shown::time(*until)) }
            }
            @if let Some(holder) = holder { dt { "Runs in" } dd { (held_by(holder)) } }
            @if let Some(reason) = reason { dt { "Given up because" } dd { (shown::text(reason.as_str())) } }
            @if explained.is_reason_sealed { dt { "Given up because" } dd { "sealed by a key that this process lacks" } }
        }
    }
}

pub(super) fn steps(steps: &[SeenStep]) -> Markup {
    if steps.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="steps" {
            h2 id="steps" { "Recorded steps" }
            table {
                thead {
                    tr { th scope="col" { "Position" } th scope="col" { "Step" } th scope="col" { "What" } th scope="col" { "When" } }
                }
                tbody {
                    @for step in steps {
                        tr {
                            td.number { (step.position) }
                            td { (shown::text(&step.name)) }
                            td { (kind(step.kind)) }
                            td { @if let Some(at) = step.at { (shown::time(at)) } }
                        }
                    }
                }
            }
        }
    }
}

fn of_record(seen: &Seen, now: Timestamp) -> Markup {
    html! {
        dt { "Record" }
        dd {
            (seen.condition.name()) ": " (seen.condition.meaning())
            @if let Stage::Completed(Some(status)) = seen.stage { ". Status " (status) }
            @if let Some(more) = of_lease(seen, now) { ". " (more) }
        }
        @if let Some(created) = seen.created_at { dt { "Began" } dd { (shown::time(created)) } }
        @if let Some(completed) = seen.completed_at { dt { "Ended" } dd { (shown::time(completed)) } }
        dt { @if seen.has_expired { "Expired" } @else { "Replayed until" } }
        dd { (shown::time(seen.expires_at)) }
        @if let Some(kept) = seen.kept_until { dt { "Refuses retries until" } dd { (shown::time(kept)) } }
    }
}

fn held_by(holder: &Holder) -> String {
    let process = if holder.is_here { "this process" } else { "another process" };
    match &holder.session {
        Some(session) => {
            let since = session.since.map(|since| format!(", since {}", shown::time(since))).unwrap_or_default();
            let name = shown::text(&session.application);
            format!("{process}: session {} of Postgres, application name “{name}”{since}", session.pid)
        }
        None => process.to_owned(),
    }
}

fn answer(expected: Expected) -> String {
    match expected {
        Expected::Run => "It runs, from the beginning.".to_owned(),
        Expected::Resume(attempt) => format!("It resumes after its finished steps, as attempt {attempt}."),
        Expected::TooSoon(rest) => {
            format!("attempt_too_soon: the next attempt may begin in {}.", shown::duration(rest))
        }
        Expected::Replay => "It gets the stored reply.".to_owned(),
        Expected::Refuse(kind) => format!("{}: {}.", kind.code(), crate::Error::new(kind)),
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::TRANSACTION => "transaction, finished",
        EntryKind::CALL => "call, finished",
        EntryKind::CALL_STARTED => "call, started: its answer is not recorded",
        EntryKind::REJECTION => "rejection",
        EntryKind::UNDO => "undone",
        _ => "of a later release",
    }
}

pub(super) fn trouble(place: &str, words: &str) -> Markup {
    html! {
        p.answer role="alert" { (shown::text(words)) }
        p { a href=(home(place)) { "Back to the overview" } }
    }
}
