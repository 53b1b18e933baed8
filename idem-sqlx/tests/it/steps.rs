//! Rules 25 to 29: leased runs, in recorded steps.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use idem_core::{Error, Identity, Kind, Scope, ToScope, observe};
use serde::{Deserialize, Serialize};

use crate::cancel::{GivenUp, polled};
use crate::client::eventually;
use crate::support::Database;

/// What the steps of a test do, and what they did.
#[derive(Debug, Default)]
pub struct Script {
    /// What happens in a step, by its name, once.
    acts: Mutex<HashMap<&'static str, Act>>,
    /// The steps that were entered, with the key of those that call.
    entered: Mutex<Vec<(String, String)>>,
    attempts: Mutex<Vec<u32>>,
    open: AtomicBool,
    pub fails_after: AtomicBool,
    /// Another release of the handler has no second step.
    pub left_out: AtomicBool,
    /// Another release of the handler has another second step.
    pub changed: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Fail,
    Panic,
    /// Stands still until the test opens the gate.
    Wait,
    /// Stands still for ever.
    Hang,
    /// Ends the transaction by itself.
    Commit,
    /// The same, and then fails.
    CommitAndFail,
}

impl Script {
    pub fn act(&self, step: &'static str, act: Act) {
        self.acts.lock().expect("acts").insert(step, act);
    }

    pub fn begin(&self, attempt: u32) {
        self.attempts.lock().expect("attempts").push(attempt);
    }

    /// What the step is to do in its transaction, if anything.
    pub async fn enter(&self, step: &'static str, key: &str) -> Result<Option<&'static str>, Failed> {
        self.entered.lock().expect("entered").push((step.to_owned(), key.to_owned()));
        let act = self.acts.lock().expect("acts").remove(step);
        match act {
            None => Ok(None),
            Some(Act::Fail) => Err(Failed::Told),
            Some(Act::Panic) => panic!("told to"),
            Some(Act::Commit | Act::CommitAndFail) => {
                self.fails_after.store(act == Some(Act::CommitAndFail), Ordering::SeqCst);
                Ok(Some("COMMIT"))
            }
            Some(Act::Wait) => {
                while !self.open.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(None)
            }
            Some(Act::Hang) => pending().await,
        }
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    pub fn steps(&self) -> Vec<String> {
        self.entered.lock().expect("entered").iter().map(|(step, _)| step.clone()).collect()
    }

    pub fn times(&self, step: &str) -> usize {
        self.steps().iter().filter(|entered| *entered == step).count()
    }

    pub fn keys(&self) -> Vec<String> {
        let entered = self.entered.lock().expect("entered");
        entered.iter().filter(|(_, key)| !key.is_empty()).map(|(_, key)| key.clone()).collect()
    }

    pub fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().expect("attempts").clone()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    pub reserved: u32,
    pub charge: String,
}

fn paid() -> Paid {
    Paid { reserved: 7, charge: "ch_1".to_owned() }
}

#[derive(Debug)]
pub enum Failed {
    Told,
    Idem(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Idem(error)
    }
}

impl Failed {
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Told => None,
            Self::Idem(error) => Some(error.kind()),
        }
    }
}

fn kind<T: std::fmt::Debug>(result: &Result<T, Failed>) -> Option<Kind> {
    result.as_ref().expect_err("refused").kind()
}

/// An error that is always stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Final(pub String);

impl From<Error> for Final {
    fn from(error: Error) -> Self {
        Self(error.code().to_owned())
    }
}

/// Whoever calls over HTTP.
#[derive(Debug, Clone)]
pub struct Caller(pub String);

impl ToScope for Caller {
    fn to_scope(&self) -> Result<Scope, Error> {
        self.0.to_scope()
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, StatusCode> {
        let name = parts.headers.get("x-caller").and_then(|name| name.to_str().ok());
        name.map(|name| Self(name.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
    }
}

macro_rules! handlers {
    ($module:ident, $Store:ident, $Steps:ident, $Tx:ident) => {
        pub mod $module {
            use std::sync::Arc;
            use std::sync::atomic::Ordering;

            use axum::extract::{Extension, FromRef};
            use axum::http::StatusCode;
            use axum::{Json, Router};
            use idem_core::idempotent;
            use idem_sqlx::{$Steps, $Store, $Tx};
            use sqlx::Executor;

            use super::{Caller, Failed, Paid, Script};

            async fn note(tx: &mut $Tx, what: &str, told: Option<&'static str>) {
                let query = sqlx::query("INSERT INTO effects VALUES ('step', $1)").bind(what.to_owned());
                query.execute(&mut *tx).await.expect("an effect");
                if let Some(told) = told {
                    tx.execute(told).await.expect("as told");
                }
            }

            async fn run(steps: &mut $Steps, script: &Script) -> Result<Paid, Failed> {
                script.begin(steps.attempt());
                let reserve = async |tx: &mut $Tx| {
                    let told = script.enter("reserve", "").await?;
                    note(tx, "reserve", told).await;
                    if script.fails_after.load(Ordering::SeqCst) { Err(Failed::Told) } else { Ok::<u32, Failed>(7) }
                };
                let reserved = steps.transaction("reserve", reserve).await?;
                let charge = if script.changed.load(Ordering::SeqCst) { "charge twice" } else { "charge" };
                let call = async |key: idem_core::StepKey| {
                    script.enter("charge", key.as_str()).await?;
                    Ok::<_, Failed>("ch_1".to_owned())
                };
                let charge = if script.left_out.load(Ordering::SeqCst) {
                    String::new()
                } else {
                    steps.call(charge, call).await?
                };
                let confirm = async |tx: &mut $Tx| {
                    let told = script.enter("confirm", "").await?;
                    note(tx, "confirm", told).await;
                    Ok::<_, Failed>(())
                };
                steps.finish(confirm).await?;
                Ok(Paid { reserved, charge })
            }

            #[idempotent(
                        key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order, attempts = 3
                    )]
            pub async fn pay(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// The same, for tests that wait for the lease.
            #[idempotent(
                        key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order, lease = "2s"
                    )]
            pub async fn pay_briefly(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Its records are kept for less time than its lease lasts.
            #[idempotent(
                key = id, scope = scope, ttl = "1s", operation = "steps.short", fingerprint = order, lease = "30s"
            )]
            pub async fn pay_shortly(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Every error is final, as far as it can say so.
            #[idempotent(
                key = id, scope = "test", operation = "steps.rejecting", fingerprint = id, lease = "2s",
                rejects = |_: &super::Final| true
            )]
            pub async fn reject(steps: &mut $Steps, id: &str, script: &Script) -> Result<Paid, super::Final> {
                run(steps, script).await.map_err(|error| super::Final(format!("{error:?}")))
            }

            /// A name for two steps.
            #[idempotent(key = id, scope = "test", operation = "steps.twice")]
            pub async fn twice(steps: &mut $Steps, id: &str) -> Result<u32, idem_core::Error> {
                let one: u32 = steps.call("one", async |_| Ok::<_, idem_core::Error>(1)).await?;
                let two: u32 = steps.call("one", async |_| Ok::<_, idem_core::Error>(2)).await?;
                Ok(one + two)
            }

            #[derive(Clone, FromRef)]
            struct App {
                store: $Store,
            }

            #[idempotent(scope = caller, ttl = "1h", lease = "5s")]
            async fn checkout(
                caller: Caller,
                Extension(script): Extension<Arc<Script>>,
                steps: &mut $Steps,
            ) -> (StatusCode, Json<Option<Paid>>) {
                assert!(!caller.0.is_empty());
                match run(steps, &script).await {
                    Ok(paid) => (StatusCode::CREATED, Json(Some(paid))),
                    Err(_) => (StatusCode::BAD_GATEWAY, Json(None)),
                }
            }

            pub fn app(store: $Store, script: Arc<Script>) -> Router {
                let route = axum::routing::post(checkout).get(checkout);
                Router::new().route("/checkout", route).layer(Extension(script)).with_state(App { store })
            }
        }
    };
}

#[rustfmt::skip]
handlers!(postgres_steps, PgStore, PgSteps, PgTx);
#[rustfmt::skip]
handlers!(sqlite_steps, SqliteStore, SqliteSteps, SqliteTx);

const EFFECTS: &str = "SELECT count(*) FROM effects";
const STEPS: &str = "SELECT count(*) FROM idem_steps";

/// For runs that stand still until they are given up.
pub async fn in_time<T>(runs: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), runs).await.expect("given up in 30 s")
}

/// Lets the lease of every record end.
async fn end_leases<D: Database>(db: &D) {
    db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
}

both! {
    async fn r25_a_leased_run_ends_in_one_record_and_is_replayed(db) {
        let (store, script) = (db.store(4).await, Script::default());
        let first = observe(steps::pay(&store, "u1", "k", "order", &script)).await;
        assert!(!first.replayed);
        assert_eq!(first.result.expect("paid"), paid());
        let again = observe(steps::pay(&store, "u1", "k", "order", &script)).await;
        assert!(again.replayed);
        assert_eq!(again.result.expect("paid"), paid());
        assert_eq!(script.steps(), ["reserve", "charge", "confirm"]);
        assert_eq!((db.effects().await, db.records().await, db.number(STEPS).await), (2, 1, 0));
    }

    async fn r25_duplicates_see_the_claim_while_it_runs(db) {
        let (store, script) = (db.store(8).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay(&store, "u1", "k", "order", &script);
        let duplicates = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            assert_eq!(db.effects().await, 1, "a finished step is committed");
            let same = join_all((0..20).map(|_| steps::pay(&store, "u1", "k", "order", &script))).await;
            assert!(same.iter().all(|result| kind(result) == Some(Kind::KeyInFlight)), "{same:?}");
            let other = steps::pay(&store, "u1", "k", "another order", &script).await;
            assert_eq!(kind(&other), Some(Kind::KeyReused), "422 wins over 409");
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicates);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!(script.attempts(), [1]);
    }

    async fn r25_of_many_at_once_one_runs(db) {
        let (store, script) = (db.store(8).await, Script::default());
        for round in 0..10 {
            let id = format!("k{round}");
            let results = join_all((0..20).map(|_| steps::pay(&store, "u1", &id, "order", &script))).await;
            let refused = |result: &Result<Paid, Failed>| kind(result) == Some(Kind::KeyInFlight);
            let won = results.iter().filter(|result| result.is_ok()).count();
            assert!(won > 0 && results.iter().all(|result| result.is_ok() || refused(result)), "{results:?}");
        }
        assert_eq!((script.times("reserve"), script.times("charge"), db.effects().await), (10, 10, 20));
    }

    async fn r25_a_body_of_three_leases_is_renewed(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let duplicate = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            // The lease is two seconds long.
            tokio::time::sleep(Duration::from_millis(4200)).await;
            let duplicate = steps::pay_briefly(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&duplicate), Some(Kind::KeyInFlight));
            tokio::time::sleep(Duration::from_millis(2000)).await;
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicate);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!((script.attempts(), script.times("charge")), (vec![1], 1));
    }

    async fn r25_a_step_of_three_leases_is_not_taken_over(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("reserve", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let duplicate = async {
            eventually("reserve is entered", async || script.times("reserve") == 1).await;
            tokio::time::sleep(Duration::from_millis(6200)).await;
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicate);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!((script.attempts(), db.effects().await), (vec![1], 2));
    }

    async fn r26_who_has_lost_the_lease_changes_nothing(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let thief = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            // A successor has come, seen nothing of us, and is done.
            end_leases(&db).await;
            let successor = steps::pay_briefly(&store, "u1", "k", "order", &script).await;
            assert_eq!(successor.expect("paid"), paid());
            script.open();
        };
        let (result, ()) = tokio::join!(run, thief);
        assert_eq!(kind(&result), Some(Kind::LeaseLost));
        assert_eq!((script.attempts(), script.times("reserve"), script.times("confirm")), (vec![1, 2], 1, 1));
        assert_eq!((db.effects().await, db.records().await), (2, 1));
        assert_eq!(steps::pay_briefly(&store, "u1", "k", "order", &script).await.expect("the successor's"), paid());
    }

    async fn r26_who_has_lost_the_lease_changes_nothing_while_the_successor_runs(db) {
        let (store, stale, successor) = (db.store(8).await, Script::default(), Script::default());
        stale.act("charge", Act::Wait);
        successor.act("charge", Act::Wait);
        let thief = async {
            eventually("charge is entered", async || stale.times("charge") == 1).await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &successor).await
        };
        let second = async {
            eventually("the successor has entered", async || successor.times("charge") == 1).await;
            // Longer than a renewal: a stale holder must not steal the lease back.
            stale.open();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            successor.open();
        };
        let run = steps::pay_briefly(&store, "u1", "k", "order", &stale);
        let (stale_result, taken, ()) = tokio::join!(run, thief, second);
        assert_eq!(kind(&stale_result), Some(Kind::LeaseLost));
        assert_eq!(taken.expect("paid"), paid());
        assert_eq!((stale.steps(), successor.steps()), (
            vec!["reserve".to_owned(), "charge".to_owned()],
            vec!["charge".to_owned(), "confirm".to_owned()],
        ));
        assert_eq!((db.effects().await, db.records().await), (2, 1));
    }

    async fn r26_a_release_of_a_stale_holder_leaves_the_successors_lease(db) {
        let (store, stale, successor) = (db.store(8).await, Script::default(), Script::default());
        stale.act("charge", Act::Hang);
        successor.act("charge", Act::Wait);
        let thief = async {
            eventually("charge is entered", async || stale.times("charge") == 1).await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &successor).await
        };
        let third = async {
            eventually("the successor has entered", async || successor.times("charge") == 1).await;
            // By then the stale holder is given up, and has tried to release what is not its own any more.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let third = steps::pay_briefly(&store, "u1", "k", "order", &Script::default()).await;
            assert_eq!(kind(&third), Some(Kind::KeyInFlight));
            successor.open();
        };
        let run = steps::pay_briefly(&store, "u1", "k", "order", &stale);
        let (stale_result, taken, ()) = in_time(async { tokio::join!(run, thief, third) }).await;
        assert_eq!(kind(&stale_result), Some(Kind::LeaseLost));
        assert_eq!(taken.expect("paid"), paid());
    }

    async fn r26_a_body_that_stands_still_is_given_up_with_its_lease(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Hang);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let thief = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &script).await
        };
        let (result, successor) = in_time(async { tokio::join!(run, thief) }).await;
        assert_eq!(kind(&result), Some(Kind::LeaseLost));
        assert_eq!(successor.expect("paid"), paid());
    }

    async fn r27_a_key_stays_the_same_over_attempts_and_is_no_other_calls(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        steps::pay(&store, "u1", "k", "order", &script).await.expect("paid");
        steps::pay(&store, "u2", "k", "order", &script).await.expect("paid");
        steps::pay(&store, "u1", "k2", "order", &script).await.expect("paid");
        let keys = script.keys();
        assert_eq!(keys.len(), 4);
        assert_eq!(keys[0], keys[1]);
        assert!(keys[1] != keys[2] && keys[2] != keys[3] && keys[1] != keys[3], "{keys:?}");
    }

    async fn r28_a_retry_goes_on_behind_the_finished_steps(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for (step, act) in [("reserve", Act::Fail), ("charge", Act::Fail)] {
            script.act(step, act);
            assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        }
        let other = steps::pay(&store, "u1", "k", "another order", &script).await;
        assert_eq!(kind(&other), Some(Kind::KeyReused), "the record keeps its fingerprint");
        let retry = observe(steps::pay(&store, "u1", "k", "order", &script)).await;
        assert!(!retry.replayed);
        assert_eq!(retry.result.expect("paid"), paid());
        assert_eq!(script.steps(), ["reserve", "reserve", "charge", "charge", "confirm"]);
        assert_eq!((script.attempts(), db.effects().await), (vec![1, 2, 3], 2));
    }

    async fn r28_the_last_writes_are_kept_with_the_reply_or_not_at_all(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        assert_eq!(db.effects().await, 1);
        steps::pay(&store, "u1", "k", "order", &script).await.expect("paid");
        assert_eq!((script.times("charge"), script.times("confirm"), db.effects().await), (1, 2, 2));
    }

    async fn r28_a_panic_releases_and_the_retry_goes_on(db) {
        let (store, script) = (db.store(4).await, std::sync::Arc::new(Script::default()));
        script.act("charge", Act::Panic);
        let (of_run, of_store) = (script.clone(), store.clone());
        let run = tokio::spawn(async move { steps::pay(&of_store, "u1", "k", "order", &of_run).await });
        assert!(run.await.expect_err("a panic").is_panic());
        let retry = async || steps::pay(&store, "u1", "k", "order", &script).await.is_ok();
        eventually("the retry ran", retry).await;
        assert_eq!((script.times("reserve"), db.effects().await), (1, 2));
    }

    async fn r28_other_steps_than_before_are_an_error_before_they_run(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        script.changed.store(true, Ordering::SeqCst);
        let changed = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&changed), Some(Kind::StepMismatch));
        assert_eq!((script.times("charge"), script.times("confirm"), db.effects().await), (1, 1, 1));
        // The release that began it can still end it.
        script.changed.store(false, Ordering::SeqCst);
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        let twice = steps::twice(&store, "k").await;
        assert_eq!(twice.expect_err("a name for two steps").kind(), Kind::StepMismatch);
    }

    async fn r22_a_step_that_cannot_be_read_is_an_error_and_does_not_run_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        db.execute("UPDATE idem_steps SET body = tag WHERE position = 1").await;
        let unreadable = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&unreadable), Some(Kind::RecordUnreadable));
        assert_eq!((script.times("charge"), script.times("confirm")), (1, 1));
    }

    async fn r16_a_step_that_ends_its_transaction_is_found_out_and_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("reserve", Act::Commit);
        let ended = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&ended), Some(Kind::TransactionEnded));
        let retry = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&retry), Some(Kind::TransactionEnded));
        assert_eq!((script.steps(), db.effects().await), (vec!["reserve".to_owned()], 1));
    }

    async fn r16_a_step_that_ends_its_transaction_and_fails_never_runs_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("reserve", Act::CommitAndFail);
        for _ in 0..2 {
            let ended = steps::pay(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&ended), Some(Kind::TransactionEnded));
        }
        assert_eq!((script.times("reserve"), db.effects().await), (1, 1));
    }

    async fn r28_a_step_that_is_left_out_is_an_error(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("confirm", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        script.left_out.store(true, Ordering::SeqCst);
        let changed = steps::pay(&store, "u1", "k", "order", &script).await;
        assert_eq!(kind(&changed), Some(Kind::StepMismatch));
        assert_eq!((script.times("confirm"), db.effects().await), (1, 1));
        script.left_out.store(false, Ordering::SeqCst);
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
    }

    async fn r25_a_run_outlives_a_ttl_that_is_shorter_than_its_lease(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_shortly(&store, "u1", "k", "order", &script);
        let duplicate = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            tokio::time::sleep(Duration::from_millis(2000)).await;
            let duplicate = steps::pay_shortly(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&duplicate), Some(Kind::KeyInFlight));
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicate);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!((script.attempts(), script.times("reserve")), (vec![1], 1));
    }

    async fn r26_a_lost_lease_is_nobodys_final_error(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Hang);
        let run = steps::reject(&store, "k", &script);
        let thief = async {
            eventually("charge is entered", async || script.times("charge") == 1).await;
            db.execute("UPDATE idem_records SET claim = fingerprint").await;
        };
        let (result, ()) = in_time(async { tokio::join!(run, thief) }).await;
        assert_eq!(result.expect_err("lost").0, "lease_lost");
        assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE completed_at IS NOT NULL").await, 0);
    }

    async fn attempts_end_and_an_operator_lets_them_begin_again(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for _ in 0..3 {
            script.act("charge", Act::Fail);
            assert!(matches!(steps::pay(&store, "u1", "k", "order", &script).await, Err(Failed::Told)));
        }
        for _ in 0..2 {
            let exhausted = steps::pay(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&exhausted), Some(Kind::AttemptsExhausted));
        }
        assert_eq!(script.times("charge"), 3);
        let identity = Identity::new("u1", "steps.pay", "k").expect("an identity");
        assert!(store.release_exhausted(&identity).await.expect("an answer"));
        assert_eq!(steps::pay(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
        assert!(!store.release_exhausted(&identity).await.expect("an answer"), "it is over");
        assert_eq!(script.times("reserve"), 1);
    }

    async fn r25_a_dead_process_is_taken_over_when_its_lease_ends(db) {
        let (store, script) = (db.store(4).await, Script::default());
        let dead = std::sync::Arc::new(Script::default());
        dead.act("charge", Act::Hang);
        let (of_dead, reserved) = (dead.clone(), db.store(2).await);
        // A runtime that ends takes its tasks along: nobody renews, and nobody releases.
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        process.spawn(async move { steps::pay_briefly(&reserved, "u1", "k", "order", &of_dead).await });
        eventually("charge is entered", async || dead.times("charge") == 1).await;
        process.shutdown_background();
        let first = steps::pay_briefly(&store, "u1", "k", "order", &script).await;
        assert!(first.is_ok() || kind(&first) == Some(Kind::KeyInFlight), "its lease lives on for a while");
        eventually("it is taken over", async || steps::pay_briefly(&store, "u1", "k", "order", &script).await.is_ok()).await;
        assert_eq!((script.attempts(), script.steps()), (vec![2], vec!["charge".to_owned(), "confirm".to_owned()]));
        assert_eq!((dead.keys(), db.effects().await), (script.keys(), 2));
    }

    async fn r13_dropped_at_every_await_each_step_takes_effect_once(db) {
        let store = db.store(4).await;
        for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
            for polls in 1.. {
                let (script, id) = (Script::default(), format!("{given_up:?} {polls}"));
                let before = db.effects().await;
                let dropped = polled(steps::pay(&store, "u1", &id, "order", &script), polls, given_up).await;
                let retried = async || steps::pay(&store, "u1", &id, "order", &script).await.is_ok();
                eventually("the retry ran", retried).await;
                assert_eq!(db.effects().await - before, 2, "{given_up:?} after {polls} polls: {:?}", script.steps());
                assert!(script.keys().windows(2).all(|keys| keys[0] == keys[1]));
                if dropped.is_some() {
                    break;
                }
            }
        }
        assert_eq!(db.number("SELECT count(*) FROM idem_steps").await, 0);
    }

    async fn r32_an_expired_run_begins_anew_without_its_steps(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
        db.expire().await;
        assert_eq!(steps::pay(&store, "u1", "k", "another order", &script).await.expect("paid"), paid());
        assert_eq!((script.times("reserve"), script.attempts(), db.number(EFFECTS).await), (2, vec![1, 1], 3));
    }

    async fn r14_over_http_a_failure_releases_and_the_retry_goes_on(db) {
        use tower::ServiceExt;
        let (store, script) = (db.store(4).await, std::sync::Arc::new(Script::default()));
        script.act("charge", Act::Fail);
        let app = steps::app(store, script.clone());
        let send = async |method: &str| {
            let request = axum::http::Request::builder().method(method).uri("/checkout").header("x-caller", "u1");
            let request = request.header("Idempotency-Key", "k").body(axum::body::Body::empty()).expect("a request");
            let response = app.clone().oneshot(request).await.expect("a response");
            (response.status(), response.headers().contains_key("idempotent-replayed"))
        };
        assert_eq!(send("POST").await, (StatusCode::BAD_GATEWAY, false));
        assert_eq!(send("POST").await, (StatusCode::CREATED, false));
        assert_eq!(send("POST").await, (StatusCode::CREATED, true));
        assert_eq!(script.steps(), ["reserve", "charge", "charge", "confirm"]);
        assert_eq!(db.effects().await, 2);
        // Rule 9: what changes nothing is not recorded.
        assert_eq!(send("GET").await, (StatusCode::CREATED, false));
        assert_eq!((db.records().await, db.effects().await), (1, 4));
    }
}
