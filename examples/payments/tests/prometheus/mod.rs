//! Rule 34: what Prometheus reads from the program, and whether the dashboard and the alert rules can work with it.

mod queries;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use hyper::Request;
use idem_core::observer::{Event, Metrics, Observer, Outcome, Settled, StepResult};
use idem_core::{Disposition, Kind};

use crate::demo::client::{self, payment};
use crate::demo::server::Server;
use crate::{scratch, send, start};
use queries::Scrape;

/// The program's own exporter.
#[path = "../../src/metrics.rs"]
#[allow(dead_code)]
mod exporter;

/// The operation of the payments: the path of their handler.
const OPERATION: &str = "payments::payments::create";

/// What no few requests of a program without leased runs can bring about: it is told to the exporter directly.
const RARE: [&str; 8] = [
    "idem_attempts_exhausted",
    "idem_commit_unknown",
    "idem_lease_lost",
    "idem_lease_renewal_failed",
    "idem_reply_oversized",
    "idem_steps",
    "idem_takeovers",
    "idem_undos",
];

#[tokio::test]
async fn r34_the_queries_of_the_dashboard_and_of_the_alerts_are_answered_by_the_endpoint() {
    let database = scratch().await;
    let mut server = start(&database, Duration::from_millis(300)).await;

    // One run, one conflict, one replay, one reuse.
    let run = tokio::spawn(client::send(server.address, payment("ada", Some("order-17"), 100)));
    server.wait_for("charging").await.expect("a charge");
    let conflict = send(&server, payment("ada", Some("order-17"), 100)).await;
    assert!(conflict.is_refusal(StatusCode::CONFLICT, "key_in_flight"), "{conflict:?}");
    let run = run.await.expect("no panic").expect("an answer");
    assert!(run.is_fresh(StatusCode::CREATED), "{run:?}");
    let replay = send(&server, payment("ada", Some("order-17"), 100)).await;
    assert!(replay.is_replay_of(&run), "{replay:?}");
    let reuse = send(&server, payment("ada", Some("order-17"), 999)).await;
    assert!(reuse.is_refusal(StatusCode::UNPROCESSABLE_ENTITY, "key_reused"), "{reuse:?}");

    let text = scrape(&server).await;
    for content in ["ada", "order-17", "charged"] {
        assert!(!text.contains(content), "{content}: {text}");
    }
    let scraped = Scrape::read(&text);
    for outcome in ["run", "in_flight", "replay", "key_reused"] {
        let labels = [("operation", OPERATION), ("outcome", outcome), ("source", "sql")];
        assert_eq!(scraped.value("idem_requests", &labels), 1.0, "{outcome}");
    }
    for code in ["key_in_flight", "key_reused"] {
        assert_eq!(scraped.value("idem_answers_failed", &[("operation", OPERATION), ("code", code)]), 1.0, "{code}");
    }
    let committed = [("operation", OPERATION), ("disposition", "commit")];
    assert_eq!(scraped.value("idem_run_duration_count", &committed), 1.0);
    assert!(scraped.value("idem_run_duration_sum", &committed) >= 0.3, "{text}");
    assert_eq!(scraped.value("idem_replay_age_count", &[]), 1.0);
    assert_eq!(scraped.value("idem_runs_active", &[]), 0.0);

    let told = told_directly();
    let mut unscraped = BTreeSet::new();
    for query in queries::all() {
        for selection in &query.selections {
            let scrape = if RARE.contains(&selection.metric()) { &told } else { &scraped };
            assert!(selection.is_answered_by(scrape), "{} of {}", selection.metric(), query.text);
            if !scraped.has(selection.metric()) {
                unscraped.insert(selection.metric().to_owned());
            }
        }
    }
    assert_eq!(unscraped.iter().map(String::as_str).collect::<Vec<_>>(), RARE, "only what is rare was told directly");
}

/// Scrapes the program once its background sweep has counted what is left.
async fn scrape(server: &Server) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = send(server, Request::get("/metrics").body(String::new()).expect("a request")).await;
        assert_eq!(answer.status, StatusCode::OK);
        if answer.body.contains("idem_backlog_oldest") {
            return answer.body;
        }
        assert!(Instant::now() < deadline, "the sweep has not counted: {}", answer.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One of each rare event, by way of the program's exporter.
fn told_directly() -> Scrape {
    let recorder = exporter::exporter().expect("an exporter").build_recorder();
    let (operation, step, took) = ("checkout", "charge", Duration::from_millis(1));
    let mut exhausted = Settled::new(operation, Outcome::Refused);
    exhausted.kind = Some(Kind::AttemptsExhausted);
    let mut oversized = Settled::new(operation, Outcome::Run);
    (oversized.disposition, oversized.is_oversized) = (Some(Disposition::Commit), true);
    let events = [
        Event::Settled(exhausted),
        Event::Settled(oversized),
        Event::TakenOver { operation, attempt: 2 },
        Event::LeaseLost { operation },
        Event::RenewalFailed { operation, kind: None },
        Event::CommitUnknown { operation, verdict: None },
        Event::Step { operation, step, result: StepResult::Finished, took },
        Event::Undo { operation, step, result: StepResult::Failed, took },
    ];
    metrics::with_local_recorder(&recorder, || events.iter().for_each(|event| Metrics::new().observe(event)));
    Scrape::read(&recorder.handle().render())
}
