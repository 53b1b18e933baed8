//! Rule 37: what operators ask and change, beside requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use idem_core::machine::{Expected, Retry, Stage};
use idem_core::operate::{Change, Condition, Cursor, Forgotten, Inspect, Operate, Query, Reason};
use idem_core::seal::{Keyring, SealKey};
use idem_core::store::{Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Error, Fingerprint, Identity, Kind, Request, Scope, Then, ToScope};
use idem_sqlx::Locks;
use tower::ServiceExt;

use crate::support::{Database, Postgres, Sqlite, locks};

type Store<D> = <<D as Database>::Tx as Context>::Store;

const HOUR: Duration = Duration::from_secs(3600);
const TERMS: LeaseTerms = LeaseTerms::DEFAULT;

fn request(scope: &str, operation: &'static str, key: &str) -> Request {
    let identity = Identity::new(scope, operation, key).expect("an identity");
    Request::new(identity, Fingerprint::of_value(&1).expect("a fingerprint"), HOUR).expect("a request")
}

/// The same with another fingerprint.
fn other(request: &Request) -> Request {
    let fingerprint = Fingerprint::of_value(&2).expect("a fingerprint");
    Request::new(request.identity.clone(), fingerprint, HOUR).expect("a request")
}

fn reply() -> Outcome {
    let body = Bytes::from_static(b"the reply");
    Outcome::Reply(Reply { format: Format::HTTP, status: Some(201), headers: Bytes::new(), body })
}

fn reason() -> Reason {
    Reason::new("refunded by hand").expect("a reason")
}

fn scope(text: &str) -> Scope {
    text.to_scope().expect("a scope")
}

/// Runs a request in one transaction.
async fn run<D: Database>(store: &Store<D>, request: &Request, outcome: &Outcome) {
    let claimed = <D::Tx as Context>::claim(store, request).await.expect("an answer");
    let Claimed::Run(tx) = claimed else { panic!("a free key: {:?}", answered(&claimed)) };
    tx.complete(outcome).await.expect("completed");
}

/// Begins a leased run.
async fn lease<D: Database>(store: &Store<D>, request: &Request) -> Claimed<D::Lease> {
    match <D::Lease as Lease>::claim(store, request, &TERMS, Intent::Run).await.expect("an answer") {
        Claimed::Run(attempt) => Claimed::Run(attempt.lease),
        Claimed::Replay(reply, age) => Claimed::Replay(reply, age),
        Claimed::Refuse(kind) => Claimed::Refuse(kind),
        Claimed::TooSoon(rest) => Claimed::TooSoon(rest),
    }
}

async fn leased<D: Database>(store: &Store<D>, request: &Request) -> D::Lease {
    match lease::<D>(store, request).await {
        Claimed::Run(lease) => lease,
        claimed => panic!("a free key: {:?}", answered(&claimed)),
    }
}

/// A claim in the words of an explanation. A leased run has had one attempt.
fn answered<T>(claimed: &Claimed<T>) -> Expected {
    match claimed {
        Claimed::Run(_) => Expected::Run,
        Claimed::Replay(..) => Expected::Replay,
        Claimed::Refuse(kind) => Expected::Refuse(*kind),
        Claimed::TooSoon(rest) => Expected::TooSoon(*rest),
    }
}

fn step(position: u32) -> Entry {
    let body = Bytes::from_static(b"\"the result\"");
    let reply = Reply { format: Format::VALUE, status: None, headers: Bytes::from_static(b"t"), body };
    Entry::new(position, EntryKind::CALL, "charge").with_reply(reply)
}

fn rejection(position: u32) -> Entry {
    let Outcome::Reply(reply) = reply() else { unreachable!("it is a reply") };
    Entry::new(position, EntryKind::REJECTION, "").with_reply(reply).with_undoes(vec!["charge".to_owned()])
}

async fn end_lease<D: Database>(db: &D, operation: &str) {
    db.execute(&format!("UPDATE idem_records SET lease_until = created_at WHERE operation = '{operation}'")).await;
}

/// One record in each condition, its operation named after the condition, in this scope. The one held is held by the
/// lease that is returned.
async fn one_of_each<D: Database>(db: &D, store: &Store<D>, of: &str) -> D::Lease
where
    Store<D>: Operate,
{
    for operation in ["completed", "expired", "unreadable", "poisoned"] {
        run::<D>(store, &request(of, operation, "k"), &reply()).await;
    }
    run::<D>(store, &request(of, "oversized", "k"), &Outcome::Oversized).await;
    for operation in ["kept", "late", "swept"] {
        let refusing = request(of, operation, "k").then(Then::Refuse(HOUR)).expect("in range");
        run::<D>(store, &refusing, &reply()).await;
    }
    for operation in ["abandoned", "given_up"] {
        let lease = leased::<D>(store, &request(of, operation, "k")).await;
        lease.record(None, &step(0)).await.expect("recorded");
        end_lease(db, operation).await;
    }
    let lease = leased::<D>(store, &request(of, "undoing", "k")).await;
    lease.record(None, &step(0)).await.expect("recorded");
    lease.record(None, &rejection(1)).await.expect("recorded");
    end_lease(db, "undoing").await;
    let given_up = store.give_up(&request(of, "given_up", "k").identity, &reason()).await.expect("an answer");
    assert_eq!(given_up, Change::Made);
    let where_it_is = format!("WHERE scope = '{of}' AND operation =");
    for change in [
        format!("UPDATE idem_records SET expires_at = created_at {where_it_is} 'expired'"),
        format!("UPDATE idem_records SET expires_at = created_at {where_it_is} 'late'"),
        format!("UPDATE idem_records SET state = 99 {where_it_is} 'unreadable'"),
        format!("UPDATE idem_records SET state = 1, headers = NULL, body = NULL {where_it_is} 'poisoned'"),
        format!(
            "UPDATE idem_records SET state = 0, status = NULL, headers = NULL, body = NULL, expires_at = kept_until,
                kept_until = NULL {where_it_is} 'swept'"
        ),
    ] {
        db.execute(&change).await;
    }
    leased::<D>(store, &request(of, "held", "k")).await
}

/// The condition of each of them.
fn conditions() -> BTreeMap<String, Condition> {
    let named = Condition::ALL.into_iter().map(|condition| (condition.name().to_owned(), condition));
    let others = [("kept".to_owned(), Condition::Completed), ("swept".to_owned(), Condition::Late)];
    named.chain(others).collect()
}

/// What a retry of each of them gets.
fn expectation(condition: Condition) -> Expected {
    match condition {
        Condition::Held => Expected::Refuse(Kind::KeyInFlight),
        // Of one attempt each, none of which was released.
        Condition::Abandoned | Condition::Undoing => Expected::Resume(2),
        Condition::Poisoned => Expected::Refuse(Kind::TransactionEnded),
        Condition::Completed => Expected::Replay,
        Condition::Oversized => Expected::Refuse(Kind::ReplyTooLarge),
        Condition::Late => Expected::Refuse(Kind::RetryTooLate),
        Condition::GivenUp => Expected::Refuse(Kind::GivenUp),
        Condition::Expired => Expected::Run,
        _ => Expected::Refuse(Kind::RecordUnreadable),
    }
}

async fn listed(store: &dyn Inspect, query: &Query) -> Vec<Cursor> {
    let mut query = query.clone();
    let mut all = Vec::new();
    loop {
        let page = store.list(&query).await.expect("a page");
        all.extend(page.records.into_iter().map(|record| record.at));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

async fn operations(store: &dyn Inspect, of: &str) -> Vec<String> {
    let query = Query { scope: Some(scope(of)), ..Query::default() };
    listed(store, &query).await.into_iter().map(|at| at.operation).collect()
}

both! {
    async fn r37_explain_agrees_with_the_next_request_in_every_condition(db) {
        let store = db.store(4).await;
        let _held = one_of_each(&db, &store, "s1").await;
        for (operation, condition) in conditions() {
            let asked = request("s1", Box::leak(operation.clone().into_boxed_str()), "k");
            for (asked, is_same) in [(other(&asked), false), (asked, true)] {
                let fingerprint = Some(asked.fingerprint);
                let leased = Retry { fingerprint, terms: Some(TERMS), ..Retry::default() };
                let plain = Retry { fingerprint, ..Retry::default() };
                let explained = store.explain(&asked.identity, &leased).await.expect("explained");
                let in_transaction = store.explain(&asked.identity, &plain).await.expect("explained");
                assert_eq!(explained.record.expect("a record").condition, condition, "{operation}");
                let expected = match expectation(condition) {
                    Expected::Run => Expected::Run,
                    Expected::Refuse(Kind::RecordUnreadable) => Expected::Refuse(Kind::RecordUnreadable),
                    _ if !is_same => Expected::Refuse(Kind::KeyReused),
                    expected => expected,
                };
                assert_eq!(explained.expected, expected, "{operation}");
                let unleased = match expected {
                    Expected::Resume(_) => Expected::Refuse(Kind::StepMismatch),
                    expected => expected,
                };
                assert_eq!(in_transaction.expected, unleased, "{operation}");
                // A run changes the record, so it is asked at last.
                if unleased != Expected::Run {
                    let claimed = <<D as Database>::Tx as Context>::claim(&store, &asked).await.expect("an answer");
                    assert_eq!(answered(&claimed), unleased, "{operation}");
                }
                if is_same || expected != Expected::Run {
                    let resumed = match lease::<D>(&store, &asked).await {
                        Claimed::Run(_) if expected == Expected::Resume(2) => expected,
                        claimed => answered(&claimed),
                    };
                    assert_eq!(resumed, expected, "{operation}");
                }
            }
        }
    }

    async fn r37_explain_tells_the_times_the_steps_and_who_runs_it(db) {
        let (store, elsewhere) = (db.store(4).await, db.store(4).await);
        let asked = request("s1", "pay", "k");
        let explain = async |store: &Store<D>| {
            store.explain(&asked.identity, &Retry::default()).await.expect("an explanation")
        };
        let free = explain(&store).await;
        assert_eq!((free.record, free.holder, free.steps.len()), (None, None, 0));
        let tx = match <<D as Database>::Tx as Context>::claim(&store, &asked).await.expect("an answer") {
            Claimed::Run(tx) => tx,
            claimed => panic!("a free key: {:?}", answered(&claimed)),
        };
        let here = explain(&store).await.holder.expect("a holder");
        assert!(here.is_here);
        let there = explain(&elsewhere).await;
        if D::WRITERS > 1 && locks() == Locks::Advisory {
            let holder = there.holder.expect("a holder");
            let session = holder.session.expect("a session");
            assert!(!holder.is_here);
            assert_eq!(Some(&session), here.session.as_ref());
            assert!(session.pid > 0);
            let began = session.since.expect("a role of one's own sees it");
            assert!(began <= there.now && there.now.0 - began.0 < 60_000_000, "{began:?}, {:?}", there.now);
        } else {
            assert_eq!(there.holder, None, "nothing is visible there");
        }
        tx.release().await.expect("released");
        assert_eq!(explain(&store).await.holder, None);

        let lease = leased::<D>(&store, &asked).await;
        lease.record(None, &step(0)).await.expect("recorded");
        lease.record(None, &Entry::new(1, EntryKind::CALL_STARTED, "mail")).await.expect("recorded");
        for (is_here, store) in [(true, &store), (false, &elsewhere)] {
            let explained = explain(store).await;
            let holder = explained.holder.expect("a holder");
            assert_eq!((holder.is_here, holder.session), (is_here, None));
            let steps: Vec<_> = explained.steps.iter().map(|step| (step.position, step.kind, step.name.as_str())).collect();
            assert_eq!(steps, [(0, EntryKind::CALL, "charge"), (1, EntryKind::CALL_STARTED, "mail")]);
            let seen = explained.record.expect("a record");
            let created = seen.created_at.expect("a time");
            assert!(explained.steps.iter().all(|step| step.at.is_some_and(|at| created <= at && at <= explained.now)));
            assert_eq!(seen.completed_at, None);
        }
        lease.complete(None, &reply()).await.expect("completed");
        let explained = explain(&store).await;
        let seen = explained.record.expect("a record");
        assert_eq!((explained.holder, explained.steps.len()), (None, 0));
        assert!(seen.completed_at >= seen.created_at && seen.completed_at <= Some(explained.now));
        assert_eq!(seen.stage, Stage::Completed(Some(201)));
    }

    async fn r37_explain_agrees_with_the_next_request_where_a_key_is_missing(db) {
        let ring = |id: u8| {
            let key = SealKey::from_bytes([id; 32]);
            Keyring::new(u32::from(id), key)
        };
        let (with_key, without) = (db.sealed_store(ring(1)).await, db.sealed_store(ring(2)).await);
        let (done, begun) = (request("s1", "done", "k"), request("s1", "begun", "k"));
        run::<D>(&with_key, &done, &reply()).await;
        let lease = leased::<D>(&with_key, &begun).await;
        lease.record(None, &step(0)).await.expect("recorded");
        lease.release().await.expect("released");
        let retry = Retry { terms: Some(TERMS), ..Retry::default() };
        let unreadable = Expected::Refuse(Kind::RecordUnreadable);
        for (store, of_done, of_begun) in [
            (&without, unreadable, unreadable),
            (&with_key, Expected::Replay, Expected::Resume(2)),
        ] {
            let explained = store.explain(&done.identity, &retry).await.expect("an explanation");
            assert_eq!(explained.expected, of_done);
            let claimed = <<D as Database>::Tx as Context>::claim(store, &done).await.expect("an answer");
            assert_eq!(answered(&claimed), of_done);
            let explained = store.explain(&begun.identity, &retry).await.expect("an explanation");
            assert_eq!((explained.expected, explained.steps.len()), (of_begun, 1));
            match <D as Database>::Lease::claim(store, &begun, &TERMS, Intent::Run).await {
                Ok(claimed) => assert!(matches!(claimed, Claimed::Run(attempt) if Expected::Resume(attempt.number) == of_begun)),
                Err(error) => assert_eq!(Expected::Refuse(error.kind()), of_begun),
            }
        }
    }

    async fn r37_a_list_has_each_record_once_in_pages_of_any_size(db) {
        let store = db.store(4).await;
        let _held = one_of_each(&db, &store, "s1").await;
        for of in ["s0", "s1", "s2"] {
            for key in ["a", "b", "c"] {
                run::<D>(&store, &request(of, "completed", key), &reply()).await;
            }
        }
        let all = listed(&store, &Query::default()).await;
        assert_eq!(all.len(), conditions().len() + 9);
        assert!(all.is_sorted_by(|one, next| one < next), "in the order of the primary key");
        for limit in [1, 2, 7] {
            assert_eq!(listed(&store, &Query { limit, ..Query::default() }).await, all);
        }
        let of_scope = Query { scope: Some(scope("s1")), ..Query::default() };
        let expected: Vec<_> = all.iter().filter(|at| at.scope == "s1").cloned().collect();
        assert_eq!(listed(&store, &of_scope).await, expected);
        for scope in [of_scope.scope.clone(), None] {
            let query = Query { scope, operation: Some("completed".to_owned()), limit: 2, ..Query::default() };
            let is_asked = |at: &&Cursor| at.operation == "completed" && (query.scope.is_none() || at.scope == "s1");
            let expected: Vec<_> = all.iter().filter(is_asked).cloned().collect();
            assert_eq!(listed(&store, &query).await, expected);
        }
        for (operation, condition) in conditions() {
            let query = Query { conditions: vec![condition], limit: 1, ..of_scope.clone() };
            let found = listed(&store, &query).await;
            assert!(found.iter().any(|at| at.operation == operation), "{operation}");
            assert!(found.iter().all(|at| conditions()[&at.operation] == condition), "{operation}");
            let identity = found[0].identity().expect("an identity");
            assert_eq!(Cursor::of(&identity), found[0]);
        }
        assert_eq!(listed(&store, &Query { older_than: Some(HOUR), ..Query::default() }).await, []);
        let older = if D::WRITERS > 1 { "interval '2 hours'" } else { "7200000000" };
        db.execute(&format!("UPDATE idem_records SET created_at = created_at - {older} WHERE operation = 'held'")).await;
        let old = listed(&store, &Query { older_than: Some(HOUR), ..Query::default() }).await;
        assert_eq!(old.iter().map(|at| at.operation.as_str()).collect::<Vec<_>>(), ["held"]);
    }

    async fn r37_a_page_costs_the_same_however_few_records_it_has(db) {
        let store = db.store(4).await;
        run::<D>(&store, &request("s1", "completed", "k"), &reply()).await;
        let (numbers, hash) = match D::WRITERS > 1 {
            true => ("generate_series(1, 10500) AS n (n)", "decode(lpad(n::text, 64, '0'), 'hex')"),
            false => (
                "(WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10500) SELECT n FROM n) AS n",
                "CAST(printf('%032d', n.n) AS BLOB)",
            ),
        };
        db.execute(&format!(
            "INSERT INTO idem_records (scope, operation, key_hash, fingerprint, state, claim, attempt, format, headers,
                body, created_at, completed_at, expires_at)
            SELECT 's2', 'copied', {hash}, fingerprint, state, claim, attempt, format, headers, body, created_at,
                completed_at, expires_at
            FROM idem_records, {numbers}"
        ))
        .await;
        let mut query = Query { operation: Some("none".to_owned()), ..Query::default() };
        let first = store.list(&query).await.expect("a page");
        assert_eq!(first.records, []);
        query.after = Some(first.next.expect("not all records were looked at"));
        let second = store.list(&query).await.expect("a page");
        assert_eq!((second.records, second.next), (vec![], None));
        let copied = Query { scope: Some(scope("s2")), limit: 3000, ..Query::default() };
        assert_eq!(listed(&store, &copied).await.len(), 10500);
        let forgotten = Operate::forget(&store, &scope("s2"), true).await.expect("counted");
        assert_eq!(forgotten, Forgotten::new(10500, 0, 0));
        assert_eq!(Operate::forget(&store, &scope("s2"), false).await.expect("forgotten"), forgotten);
        assert_eq!(db.records().await, 1);
    }

    async fn r37_the_counts_are_those_of_the_list(db) {
        let store = db.store(4).await;
        let none = store.counts().await.expect("counts");
        assert_eq!(none.counted, []);
        assert!(none.now.0 > 1_700_000_000_000_000, "the time is the database's, also without a record");
        let _held = one_of_each(&db, &store, "s1").await;
        run::<D>(&store, &request("s2", "completed", "k"), &reply()).await;
        let page = store.list(&Query::default()).await.expect("a page");
        let mut expected = BTreeMap::<(String, Condition), u64>::new();
        for record in &page.records {
            *expected.entry((record.at.operation.clone(), record.seen.condition)).or_default() += 1;
        }
        let counts = store.counts().await.expect("counts");
        assert!(counts.is_complete);
        assert!(counts.counted.iter().all(|counted| counted.records == counted.today));
        let counted: BTreeMap<_, _> =
            counts.counted.iter().map(|counted| ((counted.operation.clone(), counted.condition), counted.records)).collect();
        assert_eq!(counted, expected);
        let older = if D::WRITERS > 1 { "interval '25 hours'" } else { "90000000000" };
        db.execute(&format!("UPDATE idem_records SET created_at = created_at - {older} WHERE scope = 's2'")).await;
        let counts = store.counts().await.expect("counts");
        let of_two = counts.counted.iter().find(|counted| counted.operation == "completed").expect("a count");
        assert_eq!((of_two.records, of_two.today), (2, 1));
    }

    async fn r37_forget_removes_what_is_finished_and_keeps_what_protects(db) {
        let store = db.store(4).await;
        let held = one_of_each(&db, &store, "s1").await;
        let _other = one_of_each(&db, &store, "s2").await;
        let before = db.stored().await;
        let expected = Forgotten::new(3, 3, 6);
        assert_eq!(Operate::forget(&store, &scope("s1"), true).await.expect("counted"), expected);
        assert_eq!(db.stored().await, before, "nothing has changed");
        assert_eq!(Operate::forget(&store, &scope("s1"), false).await.expect("forgotten"), expected);
        assert_eq!(
            operations(&store, "s1").await,
            ["abandoned", "given_up", "held", "kept", "late", "poisoned", "swept", "undoing", "unreadable"]
        );
        assert_eq!(operations(&store, "s2").await.len(), conditions().len(), "another scope is untouched");
        let of = |what: &str| format!("SELECT count(*) FROM idem_records WHERE scope = 's1' AND {what}");
        let replies = "(status IS NOT NULL OR body IS NOT NULL) AND state NOT IN (1, 99)";
        assert_eq!(db.number(&of(replies)).await, 0, "no reply is left");
        assert_eq!(db.number(&of("reason IS NOT NULL")).await, 0);
        for (operation, kind) in [
            ("kept", Kind::RetryTooLate),
            ("late", Kind::RetryTooLate),
            ("swept", Kind::RetryTooLate),
            ("given_up", Kind::GivenUp),
            ("poisoned", Kind::TransactionEnded),
        ] {
            let claimed = <<D as Database>::Tx as Context>::claim(&store, &request("s1", operation, "k")).await;
            assert_eq!(answered(&claimed.expect("an answer")), Expected::Refuse(kind), "{operation}");
        }
        assert_eq!(Operate::forget(&store, &scope("s1"), false).await.expect("again"), Forgotten::new(0, 0, 9));
        let entries = db.number("SELECT count(*) FROM idem_journal WHERE scope = 's1'").await;
        assert_eq!(entries, 3, "of the runs that are not over");
        held.complete(None, &reply()).await.expect("the run that was live goes on");
        run::<D>(&store, &request("s1", "completed", "k"), &reply()).await;
    }

    async fn r37_forget_beside_many_live_runs_loses_none_of_them(db) {
        let store = db.store(8).await;
        let finished = |n: u32| request("s1", "finished", &format!("k{n}"));
        for n in 0..20 {
            run::<D>(&store, &finished(n), &reply()).await;
            run::<D>(&store, &request("s2", "finished", &format!("k{n}")), &reply()).await;
        }
        let mut leases = Vec::new();
        for n in 0..8 {
            leases.push(leased::<D>(&store, &request("s1", "leased", &format!("k{n}"))).await);
        }
        let live = match <<D as Database>::Tx as Context>::claim(&store, &request("s1", "live", "k")).await {
            Ok(Claimed::Run(tx)) => tx,
            claimed => panic!("a free key: {:?}", claimed.map(|claimed| answered(&claimed))),
        };
        // On SQLite a transaction keeps all other writers waiting.
        let mut live = Some(live);
        if D::WRITERS == 1 {
            live.take().expect("it is there").complete(&reply()).await.expect("completed");
        }
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..4 {
            let store = store.clone();
            tasks.spawn(async move {
                for n in 0..10 {
                    run::<D>(&store, &request("s3", "beside", &format!("{task}-{n}")), &reply()).await;
                }
                Forgotten::default()
            });
            tasks.spawn({
                let store: Arc<dyn Operate> = Arc::new(db.store(2).await);
                async move { store.forget(&scope("s1"), false).await.expect("forgotten") }
            });
        }
        for lease in leases {
            tasks.spawn(async move {
                for _ in 0..5 {
                    lease.renew().await.expect("held");
                }
                lease.record(None, &step(0)).await.expect("held");
                Forgotten::default()
            });
        }
        let mut removed = 0;
        while let Some(forgotten) = tasks.join_next().await {
            removed += forgotten.expect("no panic").removed;
        }
        let was_live = u64::from(D::WRITERS == 1);
        assert_eq!(removed, 20 + was_live, "each record once");
        if let Some(live) = live {
            live.complete(&reply()).await.expect("completed");
            assert_eq!(operations(&store, "s1").await.last().map(String::as_str), Some("live"));
        }
        let of = |what: &str| format!("SELECT count(*) FROM idem_records WHERE {what}");
        assert_eq!(db.number(&of("scope = 's1' AND operation = 'leased' AND state = 4")).await, 8);
        assert_eq!(db.number(&of("operation = 'finished' AND scope = 's1'")).await, 0);
        assert_eq!(db.number(&of("scope = 's2'")).await, 20);
        assert_eq!(db.number(&of("scope = 's3'")).await, 40);
        assert_eq!(db.number("SELECT count(*) FROM idem_journal").await, 8);
    }

    async fn r37_what_is_given_up_never_runs_again_and_its_holder_changes_nothing(db) {
        let store = db.store(4).await;
        let operator: Arc<dyn Operate> = Arc::new(store.clone());
        let asked = request("s1", "pay", "k");
        let give_up = async || operator.give_up(&asked.identity, &reason()).await.expect("an answer");
        assert_eq!(give_up().await, Change::NoRun);
        let stalled = leased::<D>(&store, &asked).await;
        stalled.record(None, &step(0)).await.expect("recorded");
        assert!(matches!(give_up().await, Change::Held(until) if until.0 > 0));
        assert!(matches!(operator.reset_attempts(&asked.identity).await, Ok(Change::Held(_))));
        end_lease(&db, "pay").await;
        assert_eq!(operator.reset_attempts(&asked.identity).await.expect("an answer"), Change::Made);
        assert_eq!(give_up().await, Change::Made);
        for answer in [
            stalled.renew().await,
            stalled.record(None, &step(1)).await,
            stalled.complete(None, &reply()).await,
            stalled.release().await,
        ] {
            assert_eq!(answer.map_err(|error: Error| error.kind()), Err(Kind::LeaseLost));
        }
        let explained = operator.explain(&asked.identity, &Retry { terms: Some(TERMS), ..Retry::default() }).await;
        let explained = explained.expect("an explanation");
        assert_eq!(explained.expected, Expected::Refuse(Kind::GivenUp));
        assert_eq!(explained.reason.as_ref().map(Reason::as_str), Some("refunded by hand"));
        assert_eq!((explained.steps.len(), explained.holder), (0, None));
        let seen = explained.record.expect("a record");
        assert_eq!((seen.stage, seen.condition), (Stage::GivenUp, Condition::GivenUp));
        assert!(seen.created_at <= seen.completed_at);
        for _ in 0..2 {
            assert_eq!(answered(&lease::<D>(&store, &asked).await), Expected::Refuse(Kind::GivenUp));
            assert_eq!(answered(&lease::<D>(&store, &other(&asked)).await), Expected::Refuse(Kind::KeyReused));
            let in_transaction = <<D as Database>::Tx as Context>::claim(&store, &asked).await.expect("an answer");
            assert_eq!(answered(&in_transaction), Expected::Refuse(Kind::GivenUp));
            assert_eq!(store.sweep(&idem_sqlx::Sweep::default()).await.expect("swept"), 0);
        }
        assert_eq!(give_up().await, Change::NoRun);
        assert_eq!(operator.reset_attempts(&asked.identity).await.expect("an answer"), Change::NoRun);
        assert_eq!(db.number("SELECT count(*) FROM idem_journal").await, 0);
        assert_eq!(store.backlog().await.expect("a backlog").abandoned, 0);
    }

    async fn r37_a_row_that_is_no_record_is_listed_as_unreadable(db) {
        let store = db.store(4).await;
        for key in ["a", "b"] {
            drop(leased::<D>(&store, &request("s1", "pay", key)).await);
        }
        db.execute("UPDATE idem_records SET claim = substr(claim, 1, 3) WHERE key_hash IN (SELECT key_hash FROM idem_records ORDER BY key_hash LIMIT 1)").await;
        let page = store.list(&Query::default()).await.expect("a page");
        let conditions: Vec<_> = page.records.iter().map(|listed| listed.seen.condition).collect();
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions.iter().filter(|condition| **condition == Condition::Unreadable).count(), 1, "{conditions:?}");
    }

    async fn r37_a_run_that_has_expired_is_not_said_to_go_on(db) {
        let store = db.store(4).await;
        let operator: Arc<dyn Operate> = Arc::new(store.clone());
        let asked = request("s1", "pay", "k");
        drop(leased::<D>(&store, &asked).await);
        end_lease(&db, "pay").await;
        db.expire().await;
        // A retry would begin anew, and make the calls of the run again.
        assert_eq!(operator.reset_attempts(&asked.identity).await.expect("an answer"), Change::NoRun);
        assert_eq!(operator.give_up(&asked.identity, &reason()).await.expect("an answer"), Change::NoRun);
    }

    async fn r37_an_operator_ends_a_rejection_that_is_not_undone(db) {
        let store = db.store(4).await;
        let asked = request("s1", "pay", "k");
        let lease = leased::<D>(&store, &asked).await;
        lease.record(None, &step(0)).await.expect("recorded");
        lease.record(None, &rejection(1)).await.expect("recorded");
        end_lease(&db, "pay").await;
        assert_eq!(store.give_up(&asked.identity, &reason()).await.expect("an answer"), Change::Made);
        assert_eq!(answered(&super::lease::<D>(&store, &asked).await), Expected::Refuse(Kind::GivenUp));
        // When it has expired, the row is as good as none, and nothing of it is left.
        db.execute("UPDATE idem_records SET expires_at = created_at").await;
        run::<D>(&store, &asked, &reply()).await;
        assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE reason IS NULL").await, 1);
    }

    async fn r37_of_an_operator_and_retries_one_gets_the_run(db) {
        let store = db.store(8).await;
        for round in 0..8 {
            let asked = request("s1", "pay", &format!("k{round}"));
            let stalled = leased::<D>(&store, &asked).await;
            end_lease(&db, "pay").await;
            let mut tasks = tokio::task::JoinSet::new();
            let barrier = Arc::new(tokio::sync::Barrier::new(12));
            for n in 0..12 {
                let (store, asked, barrier) = (store.clone(), asked.clone(), Arc::clone(&barrier));
                let stalled = stalled.clone();
                tasks.spawn(async move {
                    barrier.wait().await;
                    match n % 3 {
                        0 => {
                            // An operator looks first, and asks again, also after others have got the run.
                            store.explain(&asked.identity, &Retry::default()).await.expect("an explanation");
                            let mut made = 0;
                            for _ in 0..5 {
                                let change = store.give_up(&asked.identity, &reason()).await;
                                made += u32::from(matches!(change, Ok(Change::Made)));
                            }
                            if made > 0 { "given up" } else { "" }
                        }
                        1 => match <D as Database>::Lease::claim(&store, &asked, &TERMS, Intent::Run).await {
                            Ok(Claimed::Run(_)) => "taken over",
                            _ => "",
                        },
                        // In every other round the stalled holder is the fastest, unless it says nothing.
                        _ if round % 2 == 0 => "",
                        _ => if stalled.complete(None, &reply()).await.is_ok() { "completed" } else { "" },
                    }
                });
            }
            let mut winners = Vec::new();
            while let Some(won) = tasks.join_next().await {
                winners.push(won.expect("no panic"));
            }
            winners.retain(|won| !won.is_empty());
            assert_eq!(winners.len(), 1, "{winners:?}");
            let explained = store.explain(&asked.identity, &Retry::default()).await.expect("an explanation");
            let condition = explained.record.expect("a record").condition;
            let expected = match winners[0] {
                "given up" => Condition::GivenUp,
                "taken over" => Condition::Held,
                _ => Condition::Completed,
            };
            assert_eq!(condition, expected);
        }
    }

    async fn r37_the_console_changes_what_its_operator_confirms(db) {
        let store = db.store(4).await;
        let _held = one_of_each(&db, &store, "s1").await;
        let before = db.stored().await;
        let app: axum::Router = idem_core::console::router_with_changes(Arc::new(store.clone()));
        let at = |operation: &str| {
            let Cursor { scope, operation, key_hash } = Cursor {
                operation: operation.to_owned(),
                ..Cursor::of(&request("s1", "pay", "k").identity)
            };
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (scope, operation) = (hex(scope.as_bytes()), hex(operation.as_bytes()));
            format!("at_scope={scope}&at_operation={operation}&at_key={}", hex(&key_hash))
        };
        // As a browser sends it from a page of the console, or as another site has it sent.
        let send = async |path: &str, fields: String, site: &'static str| {
            let form = http::Request::post(path)
                .header("content-type", "application/x-www-form-urlencoded")
                .header("sec-fetch-site", site);
            let form = form.body(axum::body::Body::from(fields)).expect("a request");
            let answer = app.clone().oneshot(form).await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        let reason = |operation| format!("{}&reason=settled", at(operation));
        for (path, fields, status, words) in [
            ("/reset", at("abandoned"), 200, "The next retry resumes the run at once"),
            ("/give-up", at("undoing"), 200, "Nothing is undone"),
            ("/forget", "scope=s1".to_owned(), 200, "<dt>Removed</dt>"),
            ("/reset/confirmed", at("held"), 409, "A process holds the run"),
            ("/give-up/confirmed", reason("held"), 409, "A process holds the run"),
            ("/give-up/confirmed", reason("completed"), 409, "no leased run"),
        ] {
            let (got, text) = send(path, fields, "same-origin").await;
            assert!(got == status && text.contains(words), "{path}: {got} {text}");
        }
        for (path, fields) in [
            ("/reset/confirmed", at("abandoned")),
            ("/give-up/confirmed", reason("undoing")),
            ("/forget/confirmed", "scope=s1".to_owned()),
        ] {
            assert_eq!(send(path, fields, "cross-site").await.0, 403, "{path}");
        }
        assert_eq!(db.stored().await, before, "nothing has changed so far");
        let condition = async |operation: &'static str| {
            let identity = request("s1", operation, "k").identity;
            let explained = store.explain(&identity, &Retry { terms: Some(TERMS), ..Retry::default() }).await;
            let explained = explained.expect("an explanation");
            (explained.record.map(|seen| seen.condition), explained.reason.map(|reason| reason.as_str().to_owned()))
        };
        assert_eq!(send("/reset/confirmed", at("abandoned"), "same-origin").await.0, 200);
        assert_eq!(condition("abandoned").await, (Some(Condition::Abandoned), None));
        assert_eq!(send("/give-up/confirmed", reason("undoing"), "same-origin").await.0, 200);
        assert_eq!(condition("undoing").await, (Some(Condition::GivenUp), Some("settled".to_owned())));
        assert_eq!(send("/forget/confirmed", "scope=s1".to_owned(), "same-origin").await.0, 200);
        assert_eq!(condition("completed").await, (None, None));
        assert_eq!(condition("abandoned").await, (Some(Condition::Abandoned), None), "it is not over");
        assert_eq!(condition("undoing").await, (Some(Condition::GivenUp), None), "without its reason");
    }
}

/// Each page of the console, over a store whose connections cannot write.
async fn read_all_pages(store: Arc<dyn Inspect>) {
    let app: axum::Router = idem_core::console::router(store);
    let form = |path: &str, fields: &str| {
        let form = http::Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        form.body(axum::body::Body::from(fields.to_owned())).expect("a request")
    };
    for (request, words) in [
        (http::Request::get("/").body(axum::body::Body::empty()).expect("a request"), "undoing: it was rejected"),
        (form("/key", "scope=s1&operation=completed&key=k"), "It gets the stored reply."),
        (form("/key", "scope=s1&operation=undoing&key=k&attempts=10"), "It resumes"),
        (form("/key", "scope=s1&operation=none&key=k"), "It runs, from the beginning."),
        (form("/records", "scopes=one&scope=s1&condition=given_up"), "given_up: an operator has given it up"),
    ] {
        let answer = app.clone().oneshot(request).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(status.is_success() && text.contains(words), "{words}: {status} {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r37_no_page_of_the_console_writes_on_postgres() {
    let db = Postgres::create().await;
    let _held = one_of_each(&db, &db.store(4).await, "s1").await;
    let before = db.stored().await;
    // The server refuses each statement that writes.
    db.by_default("default_transaction_read_only = on").await;
    let store = db.store(4).await;
    let refused = store.give_up(&request("s1", "undoing", "k").identity, &reason()).await.expect_err("it only reads");
    assert_eq!(refused.kind(), Kind::StoreUnavailable);
    read_all_pages(Arc::new(store)).await;
    assert_eq!(db.stored().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r37_no_page_of_the_console_writes_on_sqlite() {
    let db = Sqlite::create().await;
    let store = db.store(4).await;
    let _held = one_of_each(&db, &store, "s1").await;
    let before = db.stored().await;
    let options = store.pool().connect_options().as_ref().clone().read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("a pool that only reads");
    let store = idem_sqlx::SqliteStore::new(pool);
    store.give_up(&request("s1", "undoing", "k").identity, &reason()).await.expect_err("it only reads");
    read_all_pages(Arc::new(store)).await;
    assert_eq!(db.stored().await, before);
}

#[tokio::test]
async fn r37_sqlite_forget_ends_at_a_row_that_somebody_has_damaged() {
    let db = Sqlite::create().await;
    let store = db.store(2).await;
    let asked = request("s1", "pay", "k");
    drop(leased::<Sqlite>(&store, &asked).await);
    db.execute("UPDATE idem_records SET operation = CAST('pay' AS BLOB)").await;
    let operator: Arc<dyn Operate> = Arc::new(store);
    let scope = asked.identity.scope.clone();
    let forgotten = tokio::time::timeout(std::time::Duration::from_secs(10), operator.forget(&scope, false)).await;
    assert!(forgotten.expect("it ends").map_or(true, |forgotten| forgotten.removed == 0));
}
