//! A shop that is stopped past its lease, and goes on beside its successor.

use axum::http::StatusCode;
use tokio::sync::Mutex;

use crate::Failure;
use crate::demo::client::{Answer, order};
use crate::demo::program::Program;
use crate::shop::{Sent, Town, begin, send, signal, until, when_free};
use crate::standin::Mood;

#[tokio::test]
async fn who_is_stopped_while_it_charges_has_lost_its_lease() {
    let town = Town::build().await;
    let (holder, successor) = (town.open().await, town.open().await);

    town.provider_is(Mood::Slow).await;
    let stale = begin(&holder, order("ada", "k", "visa"));
    town.charged(1).await;
    signal(&holder, "STOP").await;
    town.provider_is(Mood::Well).await;
    let placed = when_free(&successor, "k", "visa").await;
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");

    signal(&holder, "CONT").await;
    assert_lost(stale.await.expect("no panic"));
    assert_the_order_is(&placed, [&holder, &successor]).await;
    assert_eq!(town.charges().await[0].times, 2);
    town.assert_state(1, 98, 1, 0).await;
}

#[tokio::test]
async fn who_is_stopped_has_lost_its_lease_while_its_successor_charges_too() {
    let town = Town::build().await;
    let (holder, successor) = (town.open().await, town.open().await);

    town.provider_is(Mood::Slow).await;
    let stale = begin(&holder, order("ada", "k", "visa"));
    town.charged(1).await;
    signal(&holder, "STOP").await;
    let placed = begin_when_free(&successor, async || town.charges().await[0].times == 2).await;

    signal(&holder, "CONT").await;
    assert_lost(stale.await.expect("no panic"));
    town.provider_is(Mood::Well).await;
    let placed = placed.await.expect("no panic").expect("an answer");
    assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
    assert_the_order_is(&placed, [&holder, &successor]).await;
    town.assert_state(1, 98, 1, 0).await;
}

/// On SQLite, who is stopped in a transaction stops everybody else, too, and has lost nothing when it goes on.
#[cfg(feature = "postgres")]
mod in_a_transaction {
    use sqlx::{Connection, PgConnection, PgTransaction};

    use super::*;

    #[tokio::test]
    async fn who_is_stopped_in_its_first_step_has_lost_its_lease() {
        let town = Town::build().await;
        let (holder, successor) = (town.open().await, town.open().await);
        let (mut watcher, mut locker) = (connect(&town).await, connect(&town).await);

        let lock = lock_lamps(&mut locker).await;
        let stale = begin(&holder, order("ada", "k", "visa"));
        wait_for_lamps(&mut watcher, 1).await;
        signal(&holder, "STOP").await;
        // Its update is done, and its transaction stays open.
        lock.rollback().await.expect("an end");
        wait_for_lamps(&mut watcher, 0).await;
        let watcher = Mutex::new(watcher);
        let is_taken_over = async || waiting(&mut *watcher.lock().await).await == 1;
        let placed = begin_when_free(&successor, is_taken_over).await;

        signal(&holder, "CONT").await;
        assert_lost(stale.await.expect("no panic"));
        let placed = placed.await.expect("no panic").expect("an answer");
        assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");
        assert_the_order_is(&placed, [&holder, &successor]).await;
        town.assert_state(1, 98, 1, 0).await;
    }

    #[tokio::test]
    async fn who_is_stopped_in_its_last_commit_has_lost_its_lease() {
        let town = Town::build().await;
        let (holder, successor) = (town.open().await, town.open().await);
        let (mut watcher, mut locker) = (connect(&town).await, connect(&town).await);

        town.provider_is(Mood::Slow).await;
        let stale = begin(&holder, order("ada", "k", "visa"));
        town.charged(1).await;
        let lock = lock_lamps(&mut locker).await;
        town.provider_is(Mood::Well).await;
        wait_for_lamps(&mut watcher, 1).await;
        signal(&holder, "STOP").await;
        // Its order is written, and not committed.
        lock.rollback().await.expect("an end");
        wait_for_lamps(&mut watcher, 0).await;
        let placed = when_free(&successor, "k", "visa").await;
        assert!(placed.is_fresh(StatusCode::CREATED), "{placed:?}");

        signal(&holder, "CONT").await;
        assert_lost(stale.await.expect("no panic"));
        assert_the_order_is(&placed, [&holder, &successor]).await;
        assert_eq!(town.charges().await[0].times, 1);
        town.assert_state(1, 98, 1, 0).await;
    }

    async fn connect(town: &Town) -> PgConnection {
        PgConnection::connect(&town.database.url).await.expect("a connection")
    }

    async fn lock_lamps(connection: &mut PgConnection) -> PgTransaction<'_> {
        let mut tx = connection.begin().await.expect("a transaction");
        let lock = "SELECT FROM stock WHERE item = 'lamp' FOR UPDATE";
        sqlx::query(lock).execute(&mut *tx).await.expect("a lock");
        tx
    }

    /// Waits until so many statements wait for them.
    async fn wait_for_lamps(watcher: &mut PgConnection, number: i64) {
        let watcher = Mutex::new(watcher);
        until("so many wait", async || waiting(&mut **watcher.lock().await).await == number).await;
    }

    async fn waiting(watcher: &mut PgConnection) -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%stock%'";
        sqlx::query_scalar(waiting).fetch_one(watcher).await.expect("a number")
    }
}

/// Sends the order until it is taken over, which the condition tells.
async fn begin_when_free(server: &Program, is_taken_over: impl AsyncFn() -> bool) -> Sent {
    let sent = Mutex::new(begin(server, order("ada", "k", "visa")));
    until("the order is taken over", async || {
        let mut sent = sent.lock().await;
        if sent.is_finished() {
            let next = begin(server, order("ada", "k", "visa"));
            let answer = std::mem::replace(&mut *sent, next).await.expect("no panic").expect("an answer");
            assert!(answer.is_refusal(StatusCode::CONFLICT, "key_in_flight"), "{answer:?}");
        }
        is_taken_over().await
    })
    .await;
    sent.into_inner()
}

fn assert_lost(answer: Result<Answer, Failure>) {
    let answer = answer.expect("an answer");
    assert!(answer.is_refusal(StatusCode::CONFLICT, "lease_lost"), "{answer:?}");
}

/// Whoever is asked knows the successor's answer.
async fn assert_the_order_is(placed: &Answer, servers: [&Program; 2]) {
    for server in servers {
        let again = send(server, order("ada", "k", "visa")).await;
        assert!(again.is_replay_of(placed), "{again:?}");
    }
}
