//! What an operator asks and changes, and abandoned runs, on one server and on a cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use idem_core::machine::{Expected, Retry};
use idem_core::operate::{Change, Condition, Inspect, Operate, Query, Reason};
use idem_core::store::LeaseTerms;
use idem_core::{Error, Identity, Kind, Scope, ToScope, idempotent};
use idem_redis::RedisSteps;

use crate::support::{Clustered, Fresh, Server, Single};

const MINUTE: Duration = Duration::from_secs(60);

/// What the handlers do.
#[derive(Debug, Default)]
struct Plan {
    fails: AtomicBool,
    /// Calls, and undos.
    calls: AtomicU32,
    undone: AtomicU32,
}

#[idempotent(
    key = id, scope = scope, operation = "operate.run", ttl = "1h", fingerprint = none, record_input = (scope, id)
)]
async fn run(steps: &mut RedisSteps, scope: &str, id: &str, plan: &Plan) -> Result<String, Error> {
    steps.call("one", async |_key| Ok::<_, Error>(plan.calls.fetch_add(1, Ordering::SeqCst))).await?;
    if plan.fails.load(Ordering::SeqCst) {
        return Err(Error::new(Kind::DataRefused));
    }
    Ok(format!("{scope} {id}"))
}

#[idempotent(key = id, scope = scope, operation = "operate.kept", ttl = "1h", then = refuse("30d"))]
async fn kept(steps: &mut RedisSteps, scope: &str, id: &str) -> Result<u32, Error> {
    steps.call("one", async |_key| Ok::<_, Error>(1)).await
}

fn identity(scope: &str, operation: &'static str, id: &str) -> Identity {
    Identity::new(scope, operation, id).expect("an identity")
}

fn leased() -> Retry {
    Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() }
}

async fn conditions(fresh: &Fresh) -> Vec<(String, String, Condition)> {
    let page = fresh.store.list(&Query::default()).await.expect("a page");
    page.records.into_iter().map(|listed| (listed.at.scope, listed.at.operation, listed.seen.condition)).collect()
}

async fn on<S: Server>() {
    let (fresh, plan) = (Fresh::on::<S>().await, Plan::default());
    let store = &fresh.store;
    let backlog = async || Inspect::backlog(store).await.expect("an answer").abandoned;
    assert_eq!(run(store, "u1", "done", &plan).await.expect("done"), "u1 done");
    assert_eq!(kept(store, "u1", "kept").await.expect("kept"), 1);
    plan.fails.store(true, Ordering::SeqCst);
    for id in ["failed", "failed too"] {
        assert_eq!(run(store, "u2", id, &plan).await.expect_err("told").kind(), Kind::DataRefused);
    }
    let all = |u1: Condition, kept: Condition, u2: [Condition; 2]| {
        let record = |scope: &str, operation: &str, condition| (scope.to_owned(), operation.to_owned(), condition);
        vec![
            record("u1", "operate.kept", kept),
            record("u1", "operate.run", u1),
            record("u2", "operate.run", u2[0]),
            record("u2", "operate.run", u2[1]),
        ]
    };
    let abandoned = [Condition::Abandoned; 2];
    assert_eq!(conditions(&fresh).await, all(Condition::Completed, Condition::Completed, abandoned));
    assert_eq!(backlog().await, 2);

    let failed = identity("u2", "operate.run", "failed");
    let explained = store.explain(&failed, &leased()).await.expect("an answer");
    assert_eq!((explained.expected, explained.steps.len()), (Expected::Resume(2), 1));
    assert_eq!((explained.steps[0].name.as_str(), explained.steps[0].at.is_some()), ("one", true));
    assert!(explained.record.expect("a record").created_at.is_some());
    let done = store.explain(&identity("u1", "operate.run", "done"), &leased()).await.expect("an answer");
    assert_eq!(done.expected, Expected::Replay);
    let none = store.explain(&identity("u1", "operate.run", "none"), &leased()).await.expect("an answer");
    assert_eq!((none.expected, none.record), (Expected::Run, None));

    // A reset lets the next attempt run at once, as the first.
    for _ in 0..3 {
        run(store, "u2", "failed", &plan).await.expect_err("told, or too soon");
    }
    assert!(matches!(store.explain(&failed, &leased()).await.expect("an answer").expected, Expected::TooSoon(_)));
    assert_eq!(Operate::reset_attempts(store, &failed).await.expect("an answer"), Change::Made);
    assert_eq!(store.explain(&failed, &leased()).await.expect("an answer").expected, Expected::Resume(1));
    assert_eq!(
        Operate::reset_attempts(store, &identity("u2", "operate.run", "x")).await.expect("an answer"),
        Change::NoRun
    );

    // What is given up is over.
    let reason = Reason::new("by hand").expect("a reason");
    assert_eq!(store.give_up(&failed, &reason).await.expect("an answer"), Change::Made);
    assert_eq!(store.give_up(&failed, &reason).await.expect("an answer"), Change::NoRun);
    assert_eq!(run(store, "u2", "failed", &plan).await.expect_err("over").kind(), Kind::GivenUp);
    let explained = store.explain(&failed, &leased()).await.expect("an answer");
    assert_eq!((explained.expected, explained.reason), (Expected::Refuse(Kind::GivenUp), Some(reason)));
    assert_eq!(backlog().await, 1);

    // The other one is resumed by its input, and by nobody else's.
    plan.fails.store(false, Ordering::SeqCst);
    let calls = plan.calls.load(Ordering::SeqCst);
    let resumed = store
        .resume_abandoned("operate.run", async |(scope, id): (String, String)| run(store, &scope, &id, &plan).await)
        .await
        .expect("an answer");
    assert_eq!((resumed.succeeded, resumed.failed), (1, 0));
    assert_eq!(plan.calls.load(Ordering::SeqCst), calls, "its step was finished");
    assert_eq!(backlog().await, 0);
    let counts = store.counts().await.expect("an answer");
    let counted: Vec<_> =
        counts.counted.iter().map(|counted| (counted.condition, counted.records, counted.today)).collect();
    assert_eq!(counted, [(Condition::Completed, 1, 1), (Condition::Completed, 2, 2), (Condition::GivenUp, 1, 1)]);

    // Pages are in their order, whatever Redis returns first.
    for number in 0..25 {
        run(store, "u3", &number.to_string(), &plan).await.expect("done");
    }
    let mut query = Query { scope: Some("u3".to_scope().expect("a scope")), limit: 10, ..Query::default() };
    let mut found = Vec::new();
    loop {
        let page = store.list(&query).await.expect("a page");
        found.extend(page.records.into_iter().map(|listed| listed.at.key_hash));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!((found.len(), found.iter().collect::<BTreeSet<_>>().len()), (25, 25));
    assert!(found.is_sorted());

    // A scope that is forgotten.
    let scope = |name: &str| -> Scope { name.to_scope().expect("a scope") };
    let numbers = async |name: &str, is_dry| {
        let forgotten = store.forget(&scope(name), is_dry).await.expect("an answer");
        (forgotten.removed, forgotten.emptied, forgotten.kept)
    };
    assert_eq!(numbers("u1", true).await, (1, 1, 0));
    assert_eq!(kept(store, "u1", "kept").await.expect("a replay"), 1);
    assert_eq!(numbers("u1", false).await, (1, 1, 0));
    assert_eq!(numbers("u1", false).await, (0, 0, 1));
    assert_eq!(kept(store, "u1", "kept").await.expect_err("emptied").kind(), Kind::RetryTooLate);
    assert_eq!(numbers("u2", false).await, (1, 1, 0));
    assert_eq!(run(store, "u2", "failed", &plan).await.expect_err("over").kind(), Kind::GivenUp);
    assert_eq!(numbers("u3", true).await, (25, 0, 0));
}

#[tokio::test]
async fn r37_redis_single_an_operator_looks_and_mends() {
    on::<Single>().await;
}

#[tokio::test]
async fn r37_redis_cluster_an_operator_looks_and_mends() {
    on::<Clustered>().await;
}

/// The reply of a record that refuses retries is removed by Redis at the end of its `ttl`.
#[tokio::test]
async fn r36_redis_removes_the_reply_at_the_end_of_the_ttl() {
    let fresh = Fresh::on::<Single>().await;
    assert_eq!(kept(&fresh.store, "u1", "kept").await.expect("kept"), 1);
    let has_reply = async || fresh.names().await.iter().any(|(_, name)| name.ends_with(":reply"));
    assert!(has_reply().await);
    fresh.pass(61 * MINUTE).await;
    assert!(!has_reply().await);
    assert_eq!(kept(&fresh.store, "u1", "kept").await.expect_err("late").kind(), Kind::RetryTooLate);
    assert_eq!(conditions(&fresh).await[0].2, Condition::Late);
    // Without its reply in time, a record is damaged.
    assert_eq!(kept(&fresh.store, "u1", "damaged").await.expect("kept"), 1);
    let (mut connection, name) =
        fresh.names().await.into_iter().find(|(_, name)| name.ends_with(":reply")).expect("a reply");
    let _: i32 = redis::cmd("DEL").arg(name).query_async(&mut connection).await.expect("gone");
    assert_eq!(kept(&fresh.store, "u1", "damaged").await.expect_err("damaged").kind(), Kind::RecordUnreadable);
}

/// Every key has an end, whatever becomes of its run.
#[tokio::test]
async fn r32_redis_every_key_expires() {
    let (fresh, plan) = (Fresh::on::<Single>().await, Plan::default());
    run(&fresh.store, "u1", "done", &plan).await.expect("done");
    kept(&fresh.store, "u1", "kept").await.expect("kept");
    plan.fails.store(true, Ordering::SeqCst);
    run(&fresh.store, "u1", "failed", &plan).await.expect_err("told");
    run(&fresh.store, "u1", "given up", &plan).await.expect_err("told");
    let reason = Reason::new("by hand").expect("a reason");
    fresh.store.give_up(&identity("u1", "operate.run", "given up"), &reason).await.expect("an answer");
    let names = fresh.names().await;
    assert!(names.len() >= 6, "{}", names.len());
    for (mut connection, name) in names {
        let left: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.expect("a time");
        assert!(left > 0, "{name}: {left}");
    }
    // An index whose runs have gone without a word is tidied by its readers, and goes at last by itself.
    fresh.pass(2 * 60 * MINUTE).await;
    assert_eq!(fresh.names().await.iter().filter(|(_, name)| name.ends_with(":runs")).count(), 0);
}

/// A run that Redis has removed leaves the index when somebody reads it.
#[tokio::test]
async fn r32_redis_the_index_is_tidied_by_its_readers() {
    let (fresh, plan) = (Fresh::on::<Single>().await, Plan::default());
    plan.fails.store(true, Ordering::SeqCst);
    run(&fresh.store, "u1", "gone", &plan).await.expect_err("told");
    let (mut connection, record) = fresh.record().await;
    let _: i32 = redis::cmd("DEL").arg(record).query_async(&mut connection).await.expect("gone");
    assert_eq!(fresh.names().await.len(), 1, "the index");
    assert_eq!(Inspect::backlog(&fresh.store).await.expect("an answer").abandoned, 0);
    assert_eq!(fresh.names().await.len(), 0);
}

/// A rejected run is undone, by this attempt or by a later one.
#[tokio::test]
async fn r28_redis_a_rejected_run_is_undone_once() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Refused {
        Declined,
        Failed(String),
    }
    impl From<Error> for Refused {
        fn from(error: Error) -> Self {
            Self::Failed(error.code().to_owned())
        }
    }
    #[idempotent(
        key = id, scope = "undo", operation = "operate.undo", ttl = "1h", fingerprint = none,
        rejects = |refused| *refused == Refused::Declined
    )]
    async fn order(steps: &mut RedisSteps, id: &str, plan: &std::sync::Arc<Plan>) -> Result<u32, Refused> {
        let calls =
            steps.call("reserve", async |_key| Ok::<_, Refused>(plan.calls.fetch_add(1, Ordering::SeqCst))).await?;
        let undoing = std::sync::Arc::clone(plan);
        steps.undo_call("reserve", async move |_key| {
            undoing.undone.fetch_add(1, Ordering::SeqCst);
            if undoing.fails.load(Ordering::SeqCst) { Err("not now") } else { Ok(()) }
        });
        _ = calls;
        Err(Refused::Declined)
    }

    let (fresh, plan) = (Fresh::on::<Single>().await, std::sync::Arc::new(Plan::default()));
    plan.fails.store(true, Ordering::SeqCst);
    let refused = order(&fresh.store, "k", &plan).await.expect_err("the undo fails");
    assert_eq!(refused, Refused::Failed("undo_failed".to_owned()));
    assert_eq!(conditions(&fresh).await[0].2, Condition::Undoing);
    plan.fails.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(order(&fresh.store, "k", &plan).await.expect_err("declined"), Refused::Declined);
    }
    assert_eq!((plan.calls.load(Ordering::SeqCst), plan.undone.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(conditions(&fresh).await[0].2, Condition::Completed);
}

/// Over HTTP, as with every store.
#[tokio::test]
async fn r19_redis_an_axum_handler_is_replayed() {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::post;
    use tower::ServiceExt;

    #[idempotent(scope = "web", ttl = "1h")]
    async fn create(steps: &mut RedisSteps, body: String) -> Result<(StatusCode, String), Error> {
        let number = steps.call("one", async |_key| Ok::<_, Error>(7)).await?;
        Ok((StatusCode::CREATED, format!("{body} {number}")))
    }

    let fresh = Fresh::on::<Single>().await;
    let app = axum::Router::new().route("/", post(create)).with_state(fresh.store.clone());
    let send = async |body: &'static str| {
        let request = Request::post("/").header("idempotency-key", "k").body(Body::from(body)).expect("a request");
        let response = app.clone().oneshot(request).await.expect("a response");
        let replayed = response.headers().contains_key("idempotent-replayed");
        (response.status(), replayed)
    };
    assert_eq!(send("a").await, (StatusCode::CREATED, false));
    assert_eq!(send("a").await, (StatusCode::CREATED, true));
    assert_eq!(send("b").await, (StatusCode::UNPROCESSABLE_ENTITY, false));
    let fresh = Fresh::on::<Clustered>().await;
    let (one, other) = (fresh.store.clone(), fresh.store.clone());
    let callee = crate::callee::Callee::default();
    let both = tokio::join!(crate::callee::change(&one, "k", &callee), crate::callee::change(&other, "k", &callee));
    assert!(both.0.is_ok() || both.1.is_ok());
    assert_eq!(callee.effects(), [1, 1]);
}
