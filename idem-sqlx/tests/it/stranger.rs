//! Rule 7: a role that may connect, and has no right on the store's tables, cannot have a request refused for good.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection};

use crate::client::{Call, eventually};
use crate::support::{Database, Postgres, on_server};

/// What the advisory locks of the one run are, as everybody can see them.
async fn words(connection: &mut PgConnection) -> BTreeSet<i64> {
    let held = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
        WHERE locktype = 'advisory' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query_scalar(held).fetch_all(connection).await.expect("locks").into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_postgres_a_strangers_lock_refuses_nothing_for_good() {
    let db = Postgres::create().await;
    let role = format!("{}_stranger", db.name());
    on_server(format!("CREATE ROLE {role} LOGIN")).await;
    let mut stranger = PgConnection::connect_with(&db.options().username(&role)).await.expect("a connection");
    sqlx::raw_sql("SELECT * FROM idem_secret").execute(&mut stranger).await.expect_err("no right to read it");
    let (app, gauge) = db.app().await;

    // The stranger sees the locks of a run that fails.
    let call = Call::act("wait_and_fail");
    let first = tokio::spawn({
        let (call, app) = (call.clone(), app.clone());
        async move { call.send(&app).await }
    });
    eventually("it runs", async || gauge.waited() == 1).await;
    let seen = words(&mut stranger).await;
    assert_eq!(seen.len(), 3);
    // While it runs, a reuse is told so.
    Call::act("insert").send(&app).await.expect(422, "key_reused");
    gauge.open(1);
    first.await.expect("no panic").expect_fresh(502);

    // It takes each of them, each two and all of them, alone and shared, before the client tries again.
    gauge.open(1000);
    let seen: Vec<_> = seen.into_iter().collect();
    let mut in_flight = 0;
    for taken in 1..1_u32 << seen.len() {
        for how in ["", "_shared"] {
            for (_, word) in seen.iter().enumerate().filter(|(at, _)| taken & 1 << at != 0) {
                let take = format!("SELECT pg_advisory_lock{how}({word})");
                sqlx::raw_sql(sqlx::AssertSqlSafe(take)).execute(&mut stranger).await.expect("a lock");
            }
            for act in ["wait_and_fail", "fail"] {
                let answer = Call::act(act).send(&app).await;
                if answer.status == 409 {
                    answer.expect(409, "key_in_flight");
                    assert!(answer.headers.contains_key("retry-after"), "{taken:b}{how}");
                    in_flight += 1;
                } else {
                    // It runs in spite of these locks, and fails as it is told to.
                    answer.expect_fresh(if act == "fail" { 500 } else { 502 });
                }
            }
            sqlx::raw_sql("SELECT pg_advisory_unlock_all()").execute(&mut stranger).await.expect("the end");
        }
    }
    assert!(in_flight > 0, "the locks are those of the request");
    Call::act("insert").send(&app).await.expect_fresh(201);
    stranger.close().await.expect("a clean close");
    drop(app);
    on_server(format!("DROP ROLE {role}")).await;
}

/// Otherwise a stranger could compute them, and take them before the first request comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_postgres_the_locks_of_one_key_differ_in_two_databases_and_agree_in_two_processes() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let db = Postgres::create().await;
        // The databases of tests are copies of one.
        db.execute("DELETE FROM idem_secret; INSERT INTO idem_secret (secret) VALUES (uuid_send(gen_random_uuid()))")
            .await;
        for _process in 0..2 {
            let (app, gauge) = db.app().await;
            let run = tokio::spawn({
                let app = app.clone();
                async move { Call::act("wait_and_fail").send(&app).await }
            });
            eventually("it runs", async || gauge.waited() == 1).await;
            let mut connection = db.pool.acquire().await.expect("a connection");
            seen.push(words(&mut connection).await);
            gauge.open(1);
            run.await.expect("no panic").expect_fresh(502);
        }
    }
    assert!(seen.iter().all(|words| words.len() == 3), "{seen:?}");
    assert!(seen[0] == seen[1] && seen[2] == seen[3] && seen[0].is_disjoint(&seen[2]), "{seen:?}");
}

#[tokio::test]
async fn r07_postgres_without_its_secret_the_store_says_what_to_do() {
    let db = Postgres::create().await;
    db.execute("DELETE FROM idem_secret").await;
    let (app, gauge) = db.app().await;
    let refused = Call::act("insert").send(&app).await;
    refused.expect(500, "deployment_broken");
    assert!(String::from_utf8_lossy(&refused.body).contains("INSERT INTO idem_secret"), "{refused:?}");
    db.execute("INSERT INTO idem_secret (secret) VALUES (uuid_send(gen_random_uuid()))").await;
    Call::act("insert").send(&app).await.expect_fresh(201);
    assert_eq!(gauge.entered(), 1);
}
