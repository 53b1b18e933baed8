//! Rules 30 and 31: a store that cannot be reached, or only to be read.

use std::time::Duration;

use idem_sqlx::{PgStore, SqliteStore};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;

use crate::client::Call;
use crate::support::{Database, Postgres, Sqlite};

/// A port that was free a moment ago, so that nobody listens there.
async fn dead_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test]
async fn r30_postgres_without_its_server_the_handler_is_not_run() {
    let db = Postgres::create().await;
    let options = db.options().host("127.0.0.1").port(dead_port().await);
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300)).connect_lazy_with(options);
    let (app, gauge) = db.app_over(PgStore::new(pool));
    for act in ["insert", "reject"] {
        let answer = Call::act(act).send(&app).await;
        answer.expect(503, "store_unavailable");
        assert_eq!(answer.headers["retry-after"], "1");
    }
    Call::new(http::Method::GET, "/act").send(&app).await.expect(503, "store_unavailable");
    Call::to("/optional", "insert").without("idempotency-key").send(&app).await.expect(503, "store_unavailable");
    assert_eq!(gauge.entered(), 0);
}

#[tokio::test]
async fn r30_sqlite_without_its_file_the_handler_is_not_run() {
    let db = Sqlite::create().await;
    let options = db.options().filename("/nowhere/at/all.db").create_if_missing(false);
    let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_millis(300)).connect_lazy_with(options);
    let (app, gauge) = db.app_over(SqliteStore::new(pool));
    let answer = Call::act("insert").send(&app).await;
    answer.expect(503, "store_unavailable");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(gauge.entered(), 0);
}

both! {
    async fn r30_a_closed_pool_does_not_run_the_handler(db) {
        let store = db.store(1).await;
        store.pool().close().await;
        let (app, gauge) = db.app_over(store);
        Call::act("insert").send(&app).await.expect(503, "store_unavailable");
        assert_eq!(gauge.entered(), 0);
    }
}

#[tokio::test]
async fn r31_postgres_a_server_that_only_reads_decides_nothing() {
    let db = Postgres::create().await;
    let options = db.options().options([("default_transaction_read_only", "on")]);
    let pool = PgPoolOptions::new().connect_with(options).await.expect("a pool");
    let (app, gauge) = db.app_over(PgStore::new(pool));
    Call::act("insert").send(&app).await.expect(503, "store_unavailable");
    assert_eq!(gauge.entered(), 0);
}

#[tokio::test]
async fn r31_sqlite_a_file_that_is_only_read_decides_nothing() {
    let db = Sqlite::create().await;
    let options = db.options().pragma("query_only", "on");
    let pool = SqlitePoolOptions::new().connect_with(options).await.expect("a pool");
    let (app, gauge) = db.app_over(SqliteStore::new(pool));
    Call::act("insert").send(&app).await.expect(503, "store_unavailable");
    assert_eq!(gauge.entered(), 0);
}
