//! Rules 30a and 25a: a pool without a free connection.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use idem_core::store::{Claimed, Intent, Lease};
use idem_core::{Fingerprint, Identity, Kind, Request};

use crate::client::{Answer, Call, eventually};
use crate::pay::{kind, paid};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres, Sqlite};

/// Much less than the 30 seconds for which the pool lets its callers wait.
async fn promptly<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = tokio::time::timeout(Duration::from_secs(25), work).await.expect(what);
    assert!(began.elapsed() < Duration::from_secs(3), "{what} took {:?}", began.elapsed());
    done
}

/// Sends the call in a task of its own, as a server would.
fn start(call: &Call, app: &axum::Router) -> tokio::task::JoinHandle<Answer> {
    let (call, app) = (call.clone(), app.clone());
    tokio::spawn(async move { call.send(&app).await })
}

both! {
    async fn r30a_a_duplicate_needs_no_connection(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        for (path, status) in [("/act", 409), ("/accepted", 202), ("/impatient", 409)] {
            let (call, before) = (Call::to(path, "wait"), gauge.waited());
            let first = start(&call, &app);
            eventually("it runs", async || gauge.waited() == before + 1).await;
            for answer in promptly("duplicates", join_all((0..20).map(|_| start(&call, &app)))).await {
                let answer = answer.expect("no panic");
                answer.expect(status, "key_in_flight");
                assert_eq!(answer.headers["retry-after"], "1");
            }
            promptly("a reuse", Call::to(path, "insert").send(&app)).await.expect(422, "key_reused");
            gauge.open(1);
            first.await.expect("no panic").expect_fresh(201);
        }
        let (call, before) = (Call::to("/wait", "wait"), gauge.waited());
        let all: Vec<_> = (0..10).map(|_| start(&call, &app)).collect();
        eventually("one runs", async || gauge.waited() == before + 1).await;
        gauge.open(1);
        let answers = promptly("their answers", join_all(all)).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 201)), "{answers:?}");
        assert_eq!(db.effects().await, 4);
    }

    async fn r30a_duplicates_that_wait_for_a_connection_wait_no_longer_than_for_the_claim(db) {
        let store = db.store(1).await;
        let (app, gauge) = db.app_over(store.clone());
        let only = store.pool().acquire().await.expect("the only connection");
        let all: Vec<_> = (0..20).map(|_| start(&Call::act("wait"), &app)).collect();
        drop(only);
        eventually("one runs", async || gauge.waited() == 1).await;
        let refused = eventually_all_but_one(&all);
        promptly("the duplicates", refused).await;
        gauge.open(1);
        let answers = promptly("the answers", join_all(all)).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.as_ref().expect("no panic").status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!((statuses[0], &statuses[1..]), (201, &[409; 19][..]));
    }

    async fn r30a_a_duplicate_of_a_leased_run_needs_no_connection(db) {
        let (store, script) = (db.store(1).await, Script::default());
        script.act("reserve", Act::Wait);
        let run = steps::pay(&store, "u1", "k", "order", &script);
        let duplicates = async {
            script.until_entered("reserve").await;
            let same = join_all((0..20).map(|_| steps::pay(&store, "u1", "k", "order", &script)));
            for result in promptly("duplicates", same).await {
                assert_eq!(kind(&result), Some(Kind::KeyInFlight), "{result:?}");
            }
            let other = promptly("a reuse", steps::pay(&store, "u1", "k", "another order", &script)).await;
            assert_eq!(kind(&other), Some(Kind::KeyReused));
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicates);
        assert_eq!((result.expect("paid"), script.attempts()), (paid(), vec![1]));
    }

    async fn r30a_a_refusal_ends_with_the_run(db) {
        let (app, gauge) = db.app_over(db.store(1).await);
        for (act, status) in [("wait_and_fail", 502), ("wait", 201), ("wait_and_reject", 402)] {
            let call = Call::act(act).key(act);
            let first = start(&call, &app);
            eventually("it runs", async || gauge.waited() > 0).await;
            gauge.open(1);
            assert_eq!(first.await.expect("no panic").status, status);
            // At once, on a key that is free or finished.
            gauge.open(1);
            assert_eq!(call.send(&app).await.status, status);
            gauge.close();
        }
    }

    async fn r25a_a_release_does_not_queue_behind_the_work_of_others(db) {
        let (store, script) = (db.store(1).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let full = async {
            script.until_entered("charge").await;
            let only = store.pool().acquire().await.expect("the only connection");
            script.fail_when_opened();
            script.open();
            eventually("it is released", async || db.number("SELECT coalesce(sum(released), 0) FROM idem_records").await == 1).await;
            drop(only);
        };
        let (result, ()) = tokio::join!(run, full);
        assert_eq!(kind(&result), None, "its own failure: {result:?}");
    }

    async fn r30a_a_process_that_resumes_is_not_compared(db) {
        let (store, lease) = (db.store(1).await, idem_core::store::LeaseTerms::DEFAULT);
        let asked = |fingerprint: u8| {
            let identity = Identity::new("test", "exhausted", "k").expect("an identity");
            let fingerprint = Fingerprint::of_value(&fingerprint).expect("a fingerprint");
            Request::new(identity, fingerprint, Duration::from_secs(60)).expect("a request")
        };
        let claim = async |fingerprint, intent| {
            <D as Database>::Lease::claim(&store, &asked(fingerprint), &lease, intent).await.expect("an answer")
        };
        let Claimed::Run(first) = claim(1, Intent::Run).await else { panic!("a new key") };
        first.lease.release().await.expect("released");
        drop(first);
        // The resumed run keeps the fingerprint of the record.
        let Claimed::Run(resumed) = claim(2, Intent::Resume).await else { panic!("it is resumed") };
        let _only = store.pool().acquire().await.expect("the only connection");
        for (fingerprint, intent, kind) in [
            (1, Intent::Run, Kind::KeyInFlight),
            (2, Intent::Run, Kind::KeyReused),
            (3, Intent::Resume, Kind::KeyInFlight),
        ] {
            let claimed = promptly("the answer", claim(fingerprint, intent)).await;
            assert!(matches!(claimed, Claimed::Refuse(refused) if refused == kind), "{fingerprint}, {intent:?}");
        }
        drop(resumed);
    }

    async fn r25a_a_step_that_is_longer_than_its_lease_keeps_it(db) {
        let (store, script) = (db.store(1).await, Script::default());
        script.act("reserve", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let waiting = async {
            script.until_entered("reserve").await;
            eventually("two leases", async || db.seconds_since_claim().await > 4.2).await;
            let elsewhere = db.store(1).await;
            // On SQLite the step keeps every writer out.
            if D::WRITERS > 1 {
                let other = steps::pay_briefly(&elsewhere, "u1", "k", "order", &script).await;
                assert_eq!(kind(&other), Some(Kind::KeyInFlight), "{other:?}");
            }
            script.open();
        };
        let (result, ()) = tokio::join!(run, waiting);
        assert_eq!((result.expect("paid"), script.attempts(), db.effects().await), (paid(), vec![1], 2));
    }

    async fn r25a_a_pool_that_is_full_of_work_loses_no_lease(db) {
        let (store, script) = (db.store(2).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let full = async {
            script.until_entered("charge").await;
            let all = [store.pool().acquire().await.expect("one"), store.pool().acquire().await.expect("the other")];
            eventually("two leases", async || db.seconds_since_claim().await > 4.2).await;
            let other = steps::pay_briefly(&db.store(1).await, "u1", "k", "order", &script).await;
            assert_eq!(kind(&other), Some(Kind::KeyInFlight), "{other:?}");
            script.open();
            drop(all);
        };
        let (result, ()) = tokio::join!(run, full);
        assert_eq!((result.expect("paid"), script.attempts(), db.effects().await), (paid(), vec![1], 2));
    }
}

async fn eventually_all_but_one(all: &[tokio::task::JoinHandle<Answer>]) {
    eventually("all but one are answered", async || all.iter().filter(|task| !task.is_finished()).count() == 1).await;
}

/// The release of a failed attempt meets a busy database for a while. It is no crash all the same.
macro_rules! busy_for_a_while {
    ($name:ident, $db:ident, $steps:ident, $store:expr, $busy:expr, $free:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            use crate::pay::$steps as steps;
            let db = $db::create().await;
            let (store, script) = (($store)(&db).await, Script::default());
            script.act("charge", Act::Wait);
            let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
            let others = async {
                script.until_entered("charge").await;
                let busy = ($busy)(&db).await;
                script.fail_when_opened();
                script.open();
                busy
            };
            let (result, busy) = tokio::join!(run, others);
            assert_eq!(kind(&result), None, "its own failure: {result:?}");
            assert!(!store.drain(Duration::from_millis(700)).await, "it is released again and again");
            ($free)(&db, busy).await;
            assert!(store.drain(Duration::from_secs(30)).await);
            assert_eq!(db.number("SELECT sum(released) FROM idem_records").await, 1);
        }
    };
}

busy_for_a_while!(
    r25a_a_release_is_repeated_while_postgres_is_busy,
    Postgres,
    postgres_steps,
    async |db: &Postgres| db.store(4).await,
    async |db: &Postgres| db.refuse_updates("busy", "55P03").await,
    async |db: &Postgres, ()| db.refuse_no_completions().await
);
busy_for_a_while!(
    r25a_a_release_is_repeated_while_sqlite_is_busy,
    Sqlite,
    sqlite_steps,
    async |db: &Sqlite| {
        let options = db.options().busy_timeout(Duration::from_millis(50));
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(4).connect_with(options);
        idem_sqlx::SqliteStore::new(pool.await.expect("a pool"))
    },
    async |db: &Sqlite| db.pool.begin_with("BEGIN IMMEDIATE").await.expect("the write lock"),
    async |_: &Sqlite, writer: sqlx::Transaction<'static, sqlx::Sqlite>| writer
        .rollback()
        .await
        .expect("the end of it")
);
