//! Rule 18a: a connection that cannot do the work is closed. A pool of one makes it certain who gets the connection.

use std::time::Duration;

use idem_core::{Error, Fingerprint, Identity, Kind, Request, Start};
use idem_sqlx::{PgStore, into_idem_error};

use crate::client::Call;
use crate::pay::{postgres_steps, sqlite_steps};
use crate::script::Script;
use crate::support::{Database, Postgres, Sqlite};

/// What somebody leaves on a connection, and what the next request is told.
const LEFT: &[(&str, u16, &str)] = &[
    ("SET default_transaction_read_only = on", 503, "store_unavailable"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", 503, "store_unavailable"),
    ("SET ROLE pg_monitor", 500, "deployment_broken"),
    ("SET SESSION AUTHORIZATION pg_monitor", 500, "deployment_broken"),
    ("DEALLOCATE ALL", 503, "retry_later"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_postgres_a_connection_that_cannot_do_the_work_is_closed() {
    let db = Postgres::create().await;
    let store = db.store(1).await;
    let (app, gauge) = db.app_over(store.clone());
    for (at, (left, status, code)) in LEFT.iter().enumerate() {
        // Its statements are prepared.
        Call::act("insert").key(&format!("before {at}").replace(' ', "-")).send(&app).await.expect_fresh(201);
        sqlx::raw_sql(*left).execute(store.pool()).await.expect(left);
        let (call, entered) = (Call::act("insert").key(&format!("k{at}")), gauge.entered());
        call.send(&app).await.expect(*status, code);
        assert_eq!(gauge.entered(), entered, "{left}");
        call.send(&app).await.expect_fresh(201);

        sqlx::raw_sql(*left).execute(store.pool()).await.expect(left);
        let script = Script::default();
        let pay = async || postgres_steps::pay(&store, "u1", &format!("k{at}"), "order", &script).await;
        // Without prepared statements it need not fail: this connection has prepared others.
        let first = pay().await;
        assert!(first.is_err() || *left == "DEALLOCATE ALL", "{left}");
        pay().await.expect(left);
        assert_eq!(script.times("charge"), 1, "{left}");

        // Of an unrecorded run the first statement is the handler's own. It panics.
        if *code == "store_unavailable" {
            sqlx::raw_sql(*left).execute(store.pool()).await.expect(left);
            let call = Call::to("/optional", "insert").without("idempotency-key");
            call.send(&app).await.expect(500, "handler_panicked");
            call.send(&app).await.expect_fresh(201);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_postgres_a_connection_that_works_stays_in_the_pool() {
    let db = Postgres::create().await;
    let store = db.store(1).await;
    let (app, _) = db.app_over(store.clone());
    let backend = async || {
        let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(store.pool());
        pid.await.expect("a number")
    };
    let before = backend().await;
    for (act, status) in [("insert", 201), ("reject", 402), ("fail", 500), ("swallow", 500), ("raw_rollback", 500)] {
        assert_eq!(Call::act(act).key(act).send(&app).await.status, status, "{act}");
        assert_eq!(backend().await, before, "{act}");
    }
}

/// Reads all columns by a statement that sqlx has prepared on the connection.
async fn read(store: &PgStore, key: &str) -> Result<(), Error> {
    let identity = Identity::new("test", "fitness.read", key).expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
    let Start::Run(mut run) = store.begin(&request).await? else { panic!("it runs") };
    let rows = sqlx::query("SELECT * FROM effects").fetch_all(&mut *run).await.map_err(into_idem_error)?;
    run.complete(&rows.len()).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_postgres_a_connection_with_a_dead_plan_is_closed() {
    let db = Postgres::create().await;
    let store = db.store(1).await;
    read(&store, "before").await.expect("it runs");
    db.execute("ALTER TABLE effects ADD COLUMN more text").await;
    let dead = read(&store, "k").await.expect_err("cached plan must not change result type");
    let own = idem_sqlx::sqlx_error(&dead).and_then(sqlx::Error::as_database_error).and_then(|own| own.code());
    assert_eq!((dead.kind(), own.as_deref()), (Kind::RetryLater, Some("0A000")));
    assert!(store.drain(Duration::from_secs(30)).await);
    read(&store, "k").await.expect("on another connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_sqlite_a_connection_that_only_reads_is_closed() {
    let db = Sqlite::create().await;
    let store = db.store(1).await;
    let (app, gauge) = db.app_over(store.clone());
    let left = "PRAGMA query_only = on";
    sqlx::raw_sql(left).execute(store.pool()).await.expect(left);
    Call::act("insert").send(&app).await.expect(503, "store_unavailable");
    assert_eq!(gauge.entered(), 0);
    Call::act("insert").send(&app).await.expect_fresh(201);
    sqlx::raw_sql(left).execute(store.pool()).await.expect(left);
    let script = Script::default();
    sqlite_steps::pay(&store, "u1", "k", "order", &script).await.map(|_| ()).expect_err(left);
    sqlite_steps::pay(&store, "u1", "k", "order", &script).await.expect("on another connection");
}

/// Closing its connection would lose it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_sqlite_a_database_in_memory_keeps_its_connection() {
    let options = ["sqlite::memory:", "sqlite:file:fitness?mode=memory&cache=shared"];
    for options in options {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect(options).await.expect("a pool");
        let store = idem_sqlx::SqliteStore::new(pool.clone());
        store.migrate().await.expect("tables");
        sqlx::raw_sql("PRAGMA query_only = on").execute(&pool).await.expect("a setting");
        let identity = Identity::new("test", "fitness", "k").expect("an identity");
        let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
        let refused = store.begin(&request).await.map(|_| ()).expect_err("it only reads");
        assert_eq!(refused.kind(), Kind::StoreUnavailable);
        sqlx::raw_sql("PRAGMA query_only = off").execute(&pool).await.expect("a setting");
        assert!(matches!(store.begin(&request).await.expect("the tables are there"), Start::Run(_)));
    }
}
