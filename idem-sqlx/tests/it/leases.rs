//! Rules 25 and 26: who holds the lease runs, and who has lost it changes nothing.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use idem_core::{Error, Kind, idempotent, observe};
use idem_sqlx::{PgSteps, PgTx};
use sqlx::Executor;

use crate::client::eventually;
use crate::pay::{Failed, Paid, kind, paid};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};

/// For runs that stand still until they are given up.
async fn in_time<T>(runs: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), runs).await.expect("given up in 30 s")
}

/// Lets the lease of every record end.
async fn end_leases<D: Database>(db: &D) {
    db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
}

/// Waits until the one record was claimed this long ago.
async fn until_claimed_for<D: Database>(db: &D, seconds: f64) {
    eventually("time passes", async || db.seconds_since_claim().await > seconds).await;
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
        assert_eq!((db.effects().await, db.records().await, db.number("SELECT count(*) FROM idem_journal").await), (2, 1, 0));
    }

    async fn r25_duplicates_see_the_claim_while_it_runs(db) {
        let (store, script) = (db.store(8).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay(&store, "u1", "k", "order", &script);
        let duplicates = async {
            script.until_entered("charge").await;
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
            script.until_entered("charge").await;
            // The lease is two seconds long.
            until_claimed_for(&db, 4.0).await;
            let duplicate = steps::pay_briefly(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&duplicate), Some(Kind::KeyInFlight));
            until_claimed_for(&db, 6.0).await;
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
            script.until_entered("reserve").await;
            until_claimed_for(&db, 6.0).await;
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicate);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!((script.attempts(), db.effects().await), (vec![1], 2));
    }

    async fn r26_of_many_who_come_to_an_abandoned_run_one_goes_on(db) {
        let store = db.store(8).await;
        for round in 0..20 {
            let (script, id) = (Script::default(), format!("k{round}"));
            script.act("charge", Act::Fail);
            assert!(steps::pay(&store, "u1", &id, "order", &script).await.is_err());
            let all = join_all((0..16).map(|_| steps::pay(&store, "u1", &id, "order", &script))).await;
            for one in all {
                assert!(one.is_ok() || kind(&one) == Some(Kind::KeyInFlight), "{one:?}");
            }
            assert_eq!((script.attempts(), script.times("charge"), script.times("confirm")), (vec![1, 2], 2, 1));
        }
    }

    async fn r32_of_many_who_come_to_an_expired_run_one_begins_anew(db) {
        let store = db.store(8).await;
        for round in 0..20 {
            let (script, id) = (Script::default(), format!("k{round}"));
            script.act("charge", Act::Fail);
            assert!(steps::pay(&store, "u1", &id, "order", &script).await.is_err());
            db.expire().await;
            let all = join_all((0..16).map(|_| steps::pay(&store, "u1", &id, "order", &script))).await;
            for one in all {
                assert!(one.is_ok() || kind(&one) == Some(Kind::KeyInFlight), "{one:?}");
            }
            assert_eq!((script.attempts(), script.times("reserve"), script.times("confirm")), (vec![1, 1], 2, 1));
        }
    }

    async fn r13_a_shutdown_waits_for_the_lease_of_a_dropped_run(db) {
        let (store, script) = (db.store(4).await, Script::default());
        for round in 0..20 {
            let id = format!("k{round}");
            script.act("charge", Act::Hang);
            let dropped = tokio::select! {
                result = steps::pay(&store, "u1", &id, "order", &script) => Some(result),
                () = eventually("it hangs", async || script.is_hanging()) => None,
            };
            assert!(dropped.is_none(), "{dropped:?}");
            assert!(store.drain(Duration::from_secs(30)).await);
            assert_eq!(steps::pay(&store, "u1", &id, "order", &script).await.expect("given back"), paid());
        }
    }

    async fn r26_who_has_lost_the_lease_changes_nothing(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let thief = async {
            script.until_entered("charge").await;
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
            stale.until_entered("charge").await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &successor).await
        };
        let second = async {
            successor.until_entered("charge").await;
            stale.open();
        };
        let run = async {
            let result = steps::pay_briefly(&store, "u1", "k", "order", &stale).await;
            successor.open();
            result
        };
        let (stale_result, taken, ()) = in_time(async { tokio::join!(run, thief, second) }).await;
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
            stale.until_entered("charge").await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &successor).await
        };
        let run = async {
            let stale_result = steps::pay_briefly(&store, "u1", "k", "order", &stale).await;
            // It was given up, and has tried to release what is not its own any more.
            assert_eq!(kind(&stale_result), Some(Kind::LeaseLost));
            let third = steps::pay_briefly(&store, "u1", "k", "order", &Script::default()).await;
            assert_eq!(kind(&third), Some(Kind::KeyInFlight));
            successor.open();
        };
        let ((), taken) = in_time(async { tokio::join!(run, thief) }).await;
        assert_eq!(taken.expect("paid"), paid());
    }

    async fn r26_a_body_that_stands_still_is_given_up_with_its_lease(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Hang);
        // Boxed: without optimization, a test has every future that it joins on its stack several times.
        let run = Box::pin(steps::pay_briefly(&store, "u1", "k", "order", &script));
        let thief = Box::pin(async {
            script.until_entered("charge").await;
            end_leases(&db).await;
            steps::pay_briefly(&store, "u1", "k", "order", &script).await
        });
        let (result, successor) = in_time(async { tokio::join!(run, thief) }).await;
        assert_eq!(kind(&result), Some(Kind::LeaseLost));
        assert_eq!(successor.expect("paid"), paid());
    }

    async fn a_handlers_future_is_small_whatever_its_body_is(db) {
        let (store, script) = (db.store(1).await, Script::default());
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        // Without optimization each caller has it on its stack several times, and a request in flight keeps it.
        let size = size_of_val(&run);
        assert!(size < 14_000, "{size} bytes");
    }

    async fn r25_a_run_outlives_a_ttl_that_is_shorter_than_its_lease(db) {
        let (store, script) = (db.store(4).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_shortly(&store, "u1", "k", "order", &script);
        let duplicate = async {
            script.until_entered("charge").await;
            until_claimed_for(&db, 1.0).await;
            let duplicate = steps::pay_shortly(&store, "u1", "k", "order", &script).await;
            assert_eq!(kind(&duplicate), Some(Kind::KeyInFlight));
            script.open();
        };
        let (result, ()) = tokio::join!(run, duplicate);
        assert_eq!(result.expect("paid"), paid());
        assert_eq!((script.attempts(), script.times("reserve")), (vec![1], 1));
    }

    async fn r26_a_lost_lease_is_nobodys_final_error(db) {
        let (store, script) = (db.store(1).await, Script::default());
        script.act("charge", Act::Hang);
        let run = steps::reject(&store, "k", &script);
        let other = async {
            script.until_entered("charge").await;
            // By the database nobody else has the lease.
            db.refuse_completions("no renewal").await;
            eventually("the run is given up", async || !script.is_hanging()).await;
            db.refuse_no_completions().await;
        };
        let (result, ()) = in_time(async { tokio::join!(run, other) }).await;
        assert_eq!(result.expect_err("lost").0, "lease_lost");
        assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE completed_at IS NOT NULL").await, 0);
        end_leases(&db).await;
        assert_eq!(steps::reject(&store, "k", &script).await.expect("it goes on"), paid());
        assert_eq!((script.attempts(), script.times("reserve"), db.effects().await), (vec![1, 2], 1, 2));
    }
}

/// The limitation that `PgSteps` names: the renewal has changed the record meanwhile. Nothing is lost by it.
#[tokio::test]
async fn r17_postgres_a_long_step_under_a_stricter_isolation_keeps_nothing_and_may_come_again() {
    use crate::pay::postgres_steps as steps;
    let db = crate::support::Postgres::create().await;
    let store = db.builder(4).await.isolation(idem_sqlx::Isolation::Serializable).build();
    let script = Script::default();
    script.act("reserve", Act::Wait);
    let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
    let renewed = async {
        script.until_entered("reserve").await;
        until_claimed_for(&db, 1.5).await;
        script.open();
    };
    let (result, ()) = tokio::join!(run, renewed);
    assert_eq!(kind(&result), Some(Kind::RetryLater));
    assert_eq!(db.effects().await, 0);
    assert_eq!(steps::pay_briefly(&store, "u1", "k", "order", &script).await.expect("paid"), paid());
    assert_eq!((script.times("reserve"), db.effects().await), (2, 2));
}

/// A statement of four seconds that goes on when it is cancelled.
const STUBBORN: &str = "DO $$ BEGIN
    PERFORM pg_sleep(4);
EXCEPTION WHEN query_canceled THEN
    PERFORM pg_sleep(3.5);
END $$";

#[idempotent(key = id, scope = "test", operation = "leases.slow", fingerprint = id, lease = "1s")]
async fn slow(steps: &mut PgSteps, id: &str, statement: &'static str) -> Result<(), Error> {
    let write = async |tx: &mut PgTx| {
        tx.execute("INSERT INTO effects VALUES ('step', 'slow')").await.map_err(idem_sqlx::into_idem_error)?;
        sqlx::raw_sql(statement).execute(tx).await.map(|_| ()).map_err(idem_sqlx::into_idem_error)
    };
    steps.transaction("write", write).await
}

/// Until the server has ended it, nobody knows what it keeps.
#[tokio::test]
async fn r26_postgres_the_lease_of_a_step_that_was_given_up_lives_until_it_has_ended() {
    let db = crate::support::Postgres::create().await;
    let store = db.store(4).await;
    let given_up = tokio::time::timeout(Duration::from_millis(500), slow(&store, "k", STUBBORN)).await;
    assert!(given_up.is_err());
    let retry = async || {
        let answer = slow(&store, "k", "SELECT 1").await;
        assert!(answer.is_ok() || answer.as_ref().is_err_and(|error| error.kind() == Kind::KeyInFlight), "{answer:?}");
        answer.is_ok()
    };
    eventually("the retry ran", retry).await;
    assert!(db.seconds_since_claim().await > 3.5, "the statement was still running");
    assert_eq!(db.effects().await, 1);
}

/// What a step has committed is known, even if nothing can be asked of its connection but the time.
#[tokio::test]
async fn r16_postgres_a_step_that_ends_its_transaction_and_ruins_the_connection_never_runs_again() {
    let db = Postgres::create().await;
    let store = db.store(4).await;
    for statement in ["COMMIT; SET default_transaction_read_only = on", "SELECT 1"] {
        let ended = slow(&store, "k", statement).await.map_err(|error| error.kind());
        assert_eq!(ended, Err(Kind::TransactionEnded), "{statement}");
    }
    assert_eq!(db.effects().await, 1);
}

/// A holder that is just writing has the row. To insert would wait for it; whoever comes looks instead.
#[tokio::test]
async fn r07_postgres_who_comes_while_the_row_is_being_written_is_answered_all_the_same() {
    use crate::pay::postgres_steps as steps;
    let db = crate::support::Postgres::create().await;
    let (store, script) = (db.store(8).await, Script::default());
    script.act("charge", Act::Wait);
    let run = steps::pay(&store, "u1", "k", "order", &script);
    let others = async {
        script.until_entered("charge").await;
        let mut writer = store.pool().begin().await.expect("a transaction");
        writer.execute("UPDATE idem_records SET attempt = attempt").await.expect("the row");
        let same = steps::pay(&store, "u1", "k", "order", &script).await;
        let other = steps::pay(&store, "u1", "k", "another order", &script).await;
        assert_eq!((kind(&same), kind(&other)), (Some(Kind::KeyInFlight), Some(Kind::KeyReused)));
        writer.rollback().await.expect("a rollback");
        script.open();
    };
    let (result, ()) = tokio::join!(run, others);
    assert_eq!(result.expect("paid"), paid());
}

/// The statement that claims may still be waiting when nobody waits for it any more.
#[tokio::test]
async fn r13_postgres_a_claim_that_is_dropped_while_it_waits_bars_no_key() {
    use crate::pay::postgres_steps as steps;
    let db = crate::support::Postgres::create().await;
    // A store that has not run it begins with an insert.
    let (first, store, script) = (db.store(2).await, db.store(8).await, Script::default());
    steps::pay(&first, "u1", "k", "order", &script).await.expect("paid");
    let mut other = store.pool().begin().await.expect("a transaction");
    other.execute("DELETE FROM idem_records").await.expect("a deletion that is not committed");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // A claim waits for half a second, and then it looks, and sees what is not yet deleted.
    let claim = async {
        while let Ok(claimed) = steps::pay(&store, "u1", "k", "order", &script).await {
            assert_eq!(claimed, paid());
        }
    };
    tokio::select! {
        () = claim => panic!("refused"),
        () = eventually("the claim waits", async || db.number(waits).await == 1) => {}
    }
    other.commit().await.expect("a commit");
    // Far less than a lease.
    let retried = async || steps::pay(&store, "u1", "k", "order", &script).await.is_ok();
    tokio::time::timeout(Duration::from_secs(10), eventually("the retry ran", retried)).await.expect("not barred");
}

/// Where the database's own level lets a statement see less than the primary key does.
#[tokio::test]
async fn r08_postgres_of_many_one_claims_under_every_level_of_the_database() {
    use crate::pay::postgres_steps as steps;
    for level in ["read committed", "repeatable read", "serializable"] {
        let db = Postgres::create().await;
        db.by_default(&format!("default_transaction_isolation = '{level}'")).await;
        let store = db.store(8).await;
        for round in 0..20 {
            let (script, id) = (Script::default(), format!("{level} {round}"));
            let all = join_all((0..16).map(|_| steps::pay(&store, "u1", &id, "order", &script))).await;
            for one in all {
                assert!(one.is_ok() || kind(&one) == Some(Kind::KeyInFlight), "{one:?}");
            }
            assert_eq!((script.attempts(), script.times("charge")), (vec![1], 1), "{id}");
        }
    }
}
