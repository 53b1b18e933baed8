//! `docs/errors.md` has each code, with the status and the advice that the code gives.
#![cfg(feature = "axum")]

use std::collections::BTreeMap;

use axum::response::IntoResponse;
use idem_core::message::{Action, Failure};
use idem_core::{Error, Kind};

/// All kinds. That none is missing is compared with the source, since a public list would have to grow with each kind.
const KINDS: [Kind; 33] = [
    Kind::KeyMissing,
    Kind::KeyInvalid,
    Kind::KeyInFlight,
    Kind::KeyReused,
    Kind::ScopeInvalid,
    Kind::TtlInvalid,
    Kind::FingerprintFailed,
    Kind::BodyTooLarge,
    Kind::BodyUnreadable,
    Kind::ReplyTooLarge,
    Kind::RetryTooLate,
    Kind::FirstSentTooOld,
    Kind::FirstSentInvalid,
    Kind::ReplyFailed,
    Kind::RecordUnreadable,
    Kind::OutcomeUnknown,
    Kind::TransactionEnded,
    Kind::TransactionAborted,
    Kind::RetryLater,
    Kind::StoreUnavailable,
    Kind::DataRefused,
    Kind::DeploymentBroken,
    Kind::StoreFailed,
    Kind::DeadlineExceeded,
    Kind::Panicked,
    Kind::LeaseLost,
    Kind::StepMismatch,
    Kind::AttemptsExhausted,
    Kind::GivenUp,
    Kind::AttemptTooSoon,
    Kind::RunRejected,
    Kind::UndoFailed,
    Kind::NothingToResume,
];

#[test]
fn each_kind_is_in_the_list_of_this_test() {
    let source = include_str!("../src/error.rs");
    let body = source.split_once("pub const fn code(self)").expect("the codes").1;
    let body = body.split_once("\n    }\n").expect("their end").0;
    let mut codes: Vec<&str> = body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).collect();
    let mut listed = KINDS.map(Kind::code).to_vec();
    codes.sort_unstable();
    listed.sort_unstable();
    assert_eq!(codes, listed);
}

#[test]
fn each_kind_has_one_row_with_its_status_and_whether_to_wait() {
    let rows = rows(include_str!("../docs/errors.md"));
    for kind in KINDS {
        let error = Error::new(kind);
        let row = rows.get(kind.code()).unwrap_or_else(|| panic!("`{}` is not on the page", kind.code()));
        let waits = row.iter().any(|cell| cell.contains("`Retry-After`"));
        assert_eq!(waits, error.retry_after().is_some(), "{row:?}");
        let status = error.into_response().status();
        assert!(row[1].starts_with(status.as_str()), "{row:?}, and it is {status}");
    }
    assert_eq!(rows.len(), KINDS.len(), "a row that is of no kind");
}

#[test]
fn each_kind_is_among_what_a_consumer_does_with_it() {
    let page = include_str!("../docs/consumers.md");
    let listed = |action: &str| {
        let item = page.split_once(&format!("- **{action}**")).expect("an item of the list").1;
        let item = item.split_once("\n- **").or(item.split_once("\n\n")).expect("its end").0;
        item.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let (redelivered, dead) = (listed("Redeliver"), listed("Dead-letter"));
    for kind in KINDS {
        let code = kind.code().to_owned();
        let is_redelivered = matches!(Error::new(kind).action(), Action::Redeliver { .. });
        assert_eq!((redelivered.contains(&code), dead.contains(&code)), (is_redelivered, !is_redelivered), "{code}");
    }
}

#[test]
fn r18a_the_page_says_of_each_kind_whether_a_retry_can_help() {
    let page = include_str!("../docs/errors.md");
    let listed = page.split_once("\n# Whether a retry can help\n").expect("a section").1;
    let listed = listed.split_once("\n# ").expect("its end").0;
    let codes = |answer: &str| {
        let item = listed.split_once(&format!("- **{answer}**")).expect("an item of the list").1;
        let item = item.split_once("\n- **").or(item.split_once("\n\n")).expect("its end").0;
        let mut codes: Vec<_> = item.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        codes.sort_unstable();
        codes
    };
    for (answer, is_final) in [("Yes", false), ("No", true)] {
        let kinds = KINDS.into_iter().filter(|kind| kind.is_final() == is_final);
        let mut expected: Vec<_> = kinds.map(|kind| kind.code().to_owned()).collect();
        expected.sort_unstable();
        assert_eq!(codes(answer), expected, "{answer}");
    }
}

#[test]
fn r18a_what_is_final_is_never_delivered_again_and_never_asked_to_wait() {
    for kind in KINDS.into_iter().filter(|kind| kind.is_final()) {
        assert!(matches!(Error::new(kind).action(), Action::DeadLetter { .. }), "{kind:?}");
        assert_eq!(Error::new(kind).retry_after(), None, "{kind:?}");
    }
}

/// The rows of all tables whose first cell is a code.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert!(rows.insert(cells[0].trim_matches('`').to_owned(), cells).is_none(), "twice: {line}");
    }
    rows
}
