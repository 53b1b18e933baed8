//! Postgres that is distributed: what no statement may need, and a store without advisory locks.

use idem_sqlx::PgStore;

use crate::client::{Call, eventually};
use crate::support::{Database, Postgres};

/// How many updates of records there were, and how many of them touched no index.
async fn updates(db: &Postgres, store: &PgStore) -> (i64, i64) {
    // The only connection, which knows of updates that it has not reported.
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(store.pool()).await.expect("a report");
    let count = |column: &str| format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = 'idem_records'");
    (db.number(&count("n_tup_upd")).await, db.number(&count("n_tup_hot_upd")).await)
}

/// The completion writes the expiry anew, and the same to the bit. Otherwise each request would write the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_postgres_the_completion_of_a_short_run_keeps_the_expiry_and_touches_no_index() {
    let db = Postgres::create().await;
    let store = db.store(1).await;
    let (app, _) = db.app_over(store.clone());
    for round in 1..=20 {
        Call::act("insert").key(&format!("k{round}")).send(&app).await.expect_fresh(201);
    }
    eventually("the updates are counted", async || updates(&db, &store).await.0 == 20).await;
    assert_eq!(updates(&db, &store).await, (20, 20));
    let moved = "SELECT count(*) FROM idem_records WHERE expires_at <> created_at + interval '1 hour'";
    assert_eq!(db.number(moved).await, 0);

    // In place of an expired record, too.
    db.expire().await;
    for round in 1..=20 {
        Call::act("insert").key(&format!("k{round}")).send(&app).await.expect_fresh(201);
    }
    assert_eq!(db.number(moved).await, 0);
}
