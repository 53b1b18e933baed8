//! Rule 37: the store in memory answers operators as the others do.
#![cfg(feature = "memory")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use idem_core::machine::{Expected, Retry};
use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
use idem_core::operate::{Change, Condition, Forgotten, Inspect, Operate, Query, Reason};
use idem_core::store::{Claimed, Context, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Fingerprint, Identity, Kind, Operation, Request, Scope, Then, ToScope};

const HOUR: Duration = Duration::from_secs(3600);

fn request(scope: &str, operation: &'static str) -> Request {
    Request::new(Identity::new(scope, operation, "k").expect("an identity"), Fingerprint::none(), HOUR).expect("valid")
}

async fn run(store: &MemoryStore, request: &Request) {
    let claimed = <MemoryTx<()> as Context>::claim(store, request).await;
    let Ok(Claimed::Run(tx)) = claimed else { panic!("a free key") };
    let body = Bytes::from_static(b"done");
    let reply = Reply { format: Format::HTTP, status: Some(201), headers: Bytes::new(), body };
    tx.complete(&Outcome::Reply(reply)).await.expect("completed");
}

async fn lease(store: &MemoryStore, request: &Request) -> MemoryLease {
    let claimed = MemoryLease::claim(store, request, &LeaseTerms::DEFAULT, Intent::Run).await;
    let Ok(Claimed::Run(attempt)) = claimed else { panic!("a free key") };
    attempt.lease
}

fn scope() -> Scope {
    "s1".to_scope().expect("a scope")
}

async fn conditions(store: &dyn Inspect) -> Vec<(String, Condition)> {
    let page = store.list(&Query { scope: Some(scope()), ..Query::default() }).await.expect("a page");
    page.records.into_iter().map(|record| (record.at.operation, record.seen.condition)).collect()
}

#[tokio::test]
async fn r37_forget_on_the_store_in_memory() {
    let store = MemoryStore::<()>::default();
    let operator: Arc<dyn Operate> = Arc::new(store.clone());
    run(&store, &request("s1", "expired")).await;
    run(&store, &request("s1", "late").then(Then::Refuse(24 * HOUR)).expect("in range")).await;
    store.advance(HOUR);
    run(&store, &request("s1", "completed")).await;
    run(&store, &request("s1", "kept").then(Then::Refuse(HOUR)).expect("in range")).await;
    run(&store, &request("s2", "completed")).await;
    let stalled = lease(&store, &request("s1", "given_up")).await;
    stalled.release().await.expect("released");
    let reason = Reason::new("settled by hand").expect("a reason");
    let given_up = request("s1", "given_up").identity;
    assert_eq!(operator.give_up(&given_up, &reason).await.expect("an answer"), Change::Made);
    let held = lease(&store, &request("s1", "held")).await;
    let before = conditions(&*operator).await;
    assert_eq!(
        before.iter().map(|(_, condition)| *condition).collect::<Vec<_>>(),
        [
            Condition::Completed,
            Condition::Expired,
            Condition::GivenUp,
            Condition::Held,
            Condition::Completed,
            Condition::Late,
        ]
    );
    let expected = Forgotten::new(2, 3, 1);
    assert_eq!(operator.forget(&scope(), true).await.expect("counted"), expected);
    assert_eq!(conditions(&*operator).await, before);
    assert_eq!(operator.forget(&scope(), false).await.expect("forgotten"), expected);
    let left = conditions(&*operator).await;
    let left: Vec<_> = left.iter().map(|(operation, condition)| (operation.as_str(), *condition)).collect();
    assert_eq!(
        left,
        [
            ("given_up", Condition::GivenUp),
            ("held", Condition::Held),
            ("kept", Condition::Late),
            ("late", Condition::Late),
        ]
    );
    let explained = operator.explain(&given_up, &Retry::default()).await.expect("an explanation");
    assert_eq!((explained.expected, explained.reason), (Expected::Refuse(Kind::GivenUp), None));
    let held_one = request("s1", "held").identity;
    assert!(matches!(operator.give_up(&held_one, &reason).await, Ok(Change::Held(_))));
    assert!(matches!(operator.reset_attempts(&held_one).await, Ok(Change::Held(_))));
    held.renew().await.expect("it is still held");
    let counts = operator.counts().await.expect("counts");
    assert_eq!(counts.counted.iter().map(|counted| counted.records).sum::<u64>(), 5);
}

#[test]
fn r37_a_name_that_was_typed_is_an_operation_and_the_same_one_each_time() {
    let typed = Operation::named(&String::from("payments.create")).expect("a name");
    assert_eq!(typed, Operation::new("payments.create"));
    assert!(std::ptr::eq(typed.as_str(), Operation::named("payments.create").expect("a name").as_str()));
    for name in [String::new(), "x".repeat(256), "a\0b".to_owned()] {
        assert_eq!(Operation::named(&name), None);
    }
    assert_eq!(Scope::from_stored(""), Some(Scope::global()));
    assert_eq!(Scope::from_stored(&"x".repeat(256)), None);
    assert_eq!(Scope::from_stored(r#"["t1","7"]"#), ("t1", 7).to_scope().ok());
}

#[cfg(feature = "seal")]
#[tokio::test]
async fn r37_explain_on_the_store_in_memory_agrees_where_a_key_is_missing() {
    use idem_core::seal::{Keyring, SealKey};
    use idem_core::store::{Entry, EntryKind};

    let store = MemoryStore::<()>::default();
    let ring = |id: u8| Keyring::new(id.into(), SealKey::from_bytes([id; 32]));
    let (with_key, without) = (store.clone().sealed_by(ring(1)), store.sealed_by(ring(2)));
    let (done, begun) = (request("s1", "done"), request("s1", "begun"));
    run(&with_key, &done).await;
    let lease = lease(&with_key, &begun).await;
    let body = Bytes::from_static(b"1");
    let reply = Reply { format: Format::VALUE, status: None, headers: Bytes::new(), body };
    lease.record(None, &Entry::new(0, EntryKind::CALL, "charge").with_reply(reply)).await.expect("recorded");
    lease.release().await.expect("released");
    let retry = Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() };
    let unreadable = Expected::Refuse(Kind::RecordUnreadable);
    for (store, expected) in [(&without, [unreadable; 2]), (&with_key, [Expected::Replay, Expected::Resume(2)])] {
        assert_eq!([&done, &begun].map(|asked| store.explain(&asked.identity, &retry).expected), expected);
    }
    let claimed = MemoryLease::claim(&without, &begun, &LeaseTerms::DEFAULT, Intent::Run).await;
    assert_eq!(claimed.expect_err("it is not opened").kind(), Kind::RecordUnreadable);
    let claimed = <MemoryTx<()> as Context>::claim(&without, &done).await.expect("an answer");
    assert!(matches!(claimed, Claimed::Refuse(Kind::RecordUnreadable)), "{claimed:?}");
}

#[cfg(feature = "seal")]
#[tokio::test]
async fn r37_a_sealed_reason_is_shown_to_a_store_with_its_key() {
    use idem_core::seal::{Keyring, SealKey};

    let clear = MemoryStore::<()>::default();
    let sealed = clear.clone().sealed_by(Keyring::new(1, SealKey::from_bytes([1; 32])));
    let request = request("s1", "given-up");
    let claimed = MemoryLease::claim(&sealed, &request, &LeaseTerms::DEFAULT, Intent::Run).await;
    let Ok(Claimed::Run(attempt)) = claimed else { panic!("a free key") };
    attempt.lease.release().await.expect("released");
    // A text that looks like a sealed one is none.
    let reason = Reason::new("\u{1}61\u{1}").expect("a reason");
    assert_eq!(reason.as_str(), "61");
    assert_eq!(Operate::give_up(&sealed, &request.identity, &reason).await.expect("an answer"), Change::Made);
    let shown = |store: &MemoryStore| {
        let explained = store.explain(&request.identity, &Retry::default());
        assert_eq!(explained.expected, Expected::Refuse(Kind::GivenUp));
        (explained.reason, explained.is_reason_sealed)
    };
    assert_eq!(shown(&sealed), (Some(reason), false));
    assert_eq!(shown(&clear), (None, true));
}
