//! Rules 30 and 31: a store that cannot be reached, or only to be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use idem_core::Kind;
use idem_core::message::Action;
use idem_core::store::Context;
use idem_sqlx::{PgStore, SqliteStore, Sweep};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use crate::app::Gauge;
use crate::client::Call;
use crate::pay::{postgres_steps, sqlite_steps};
use crate::plain::{Event, postgres_functions, sqlite_functions};
use crate::script::Script;
use crate::support::{Database, Postgres, Sqlite, on_server};

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
    let (app, gauge) = db.app_over(Postgres::builder_over(pool).build());
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
    let (app, gauge) = db.app_over(Postgres::builder_over(pool).build());
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

const BRIEFLY: Duration = Duration::from_millis(500);

fn postgres_over(options: PgConnectOptions) -> PgStore {
    Postgres::builder_over(PgPoolOptions::new().max_connections(2).acquire_timeout(BRIEFLY).connect_lazy_with(options))
        .build()
}

fn sqlite_over(options: SqliteConnectOptions) -> SqliteStore {
    SqliteStore::new(SqlitePoolOptions::new().max_connections(2).acquire_timeout(BRIEFLY).connect_lazy_with(options))
}

/// No connection can be opened; then somebody repairs what was wrong, and the same requests run.
macro_rules! repaired {
    ($name:ident, $D:ty, $functions:ident, $steps:ident) => {
        async fn $name(db: &$D, store: <<$D as Database>::Tx as Context>::Store, repair: impl Future<Output = ()>) {
            let ((app, entered), gauge, script) = (db.app_over(store.clone()), Gauge::new(), Script::default());
            let event = Event::of("k", "insert");
            for act in ["insert", "reject"] {
                let answer = Call::act(act).key(act).send(&app).await;
                answer.expect(503, "store_unavailable");
                assert_eq!(answer.headers["retry-after"], "1");
            }
            Call::new(http::Method::GET, "/act").send(&app).await.expect(503, "store_unavailable");
            Call::to("/wait", "insert").send(&app).await.expect(503, "store_unavailable");
            let result = $functions::handle(&store, &gauge, &event).await;
            assert!(matches!(Action::of(&result), Action::Redeliver { .. }), "{result:?}");
            assert!($steps::pay(&store, "u1", "k", "order", &script).await.is_err());
            let failed = [
                store.sweep(&Sweep::default()).await.expect_err("no connection"),
                store.migrate().await.expect_err("no connection"),
                store.resume_abandoned("none", async |_: u8| Ok::<_, ()>(())).await.expect_err("no connection"),
            ];
            assert!(failed.iter().all(|error| error.kind() == Kind::StoreUnavailable), "{failed:?}");
            assert_eq!((entered.entered(), gauge.entered(), script.steps().len()), (0, 0, 0));

            repair.await;
            Call::act("insert").key("insert").send(&app).await.expect_fresh(201);
            Call::act("reject").key("reject").send(&app).await.expect_fresh(402);
            $functions::handle(&store, &gauge, &event).await.expect("it runs");
            $steps::pay(&store, "u1", "k", "order", &script).await.expect("it runs");
            store.pool().close().await;
        }
    };
}

repaired!(postgres_repaired, Postgres, postgres_functions, postgres_steps);
repaired!(sqlite_repaired, Sqlite, sqlite_functions, sqlite_steps);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_database_that_is_gone_does_not_run_the_handler() {
    let db = Postgres::create().await;
    let (name, elsewhere) = (db.name().to_owned(), format!("{}_elsewhere", db.name()));
    db.pool.close().await;
    on_server(format!("ALTER DATABASE {name} RENAME TO {elsewhere}")).await;
    let repair = on_server(format!("ALTER DATABASE {elsewhere} RENAME TO {name}"));
    postgres_repaired(&db, postgres_over(db.options()), repair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_database_that_lets_nobody_in_does_not_run_the_handler() {
    let db = Postgres::create().await;
    let name = db.name();
    on_server(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    let repair = on_server(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    postgres_repaired(&db, postgres_over(db.options()), repair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_role_that_may_not_log_in_does_not_run_the_handler() {
    let db = Postgres::create().await;
    let role = format!("{}_role", db.name());
    on_server(format!("CREATE ROLE {role} NOLOGIN SUPERUSER")).await;
    let repair = on_server(format!("ALTER ROLE {role} LOGIN"));
    postgres_repaired(&db, postgres_over(db.options().username(&role)), repair).await;
    on_server(format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_postgres_a_hook_that_fails_does_not_run_the_handler() {
    let (db, fails) = (Postgres::create().await, Arc::new(AtomicBool::new(true)));
    let of_hook = fails.clone();
    let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(BRIEFLY).after_connect(move |_, _| {
        let fails = of_hook.load(Ordering::SeqCst);
        let error = sqlx::Error::Configuration("told to".into());
        Box::pin(async move { if fails { Err(error) } else { Ok(()) } })
    });
    let store = Postgres::builder_over(pool.connect_lazy_with(db.options())).build();
    postgres_repaired(&db, store, async { fails.store(false, Ordering::SeqCst) }).await;
}

/// All of the database, in a file that can be copied.
async fn whole(db: &Sqlite) -> std::path::PathBuf {
    let whole = db.folder().join("whole.db");
    db.execute(&format!("VACUUM INTO '{}'", whole.display())).await;
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_sqlite_a_file_that_is_no_database_does_not_run_the_handler() {
    let db = Sqlite::create().await;
    let whole = whole(&db).await;
    // With a journal mode the file is read when it is opened, and without one by the first statement.
    for (name, options) in [("one.db", db.options()), ("other.db", SqliteConnectOptions::new())] {
        let path = db.folder().join(name);
        std::fs::write(&path, "no database, whatever its name is".repeat(100)).expect("a file");
        let repair = async { assert_ne!(std::fs::copy(&whole, &path).expect("a copy"), 0) };
        sqlite_repaired(&db, sqlite_over(options.filename(&path)), repair).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_sqlite_a_file_that_cannot_be_opened_does_not_run_the_handler() {
    let db = Sqlite::create().await;
    let whole = whole(&db).await;
    let folder = db.folder().join("not there");
    let repair = async {
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::copy(&whole, folder.join("test.db")).expect("a copy");
    };
    sqlite_repaired(&db, sqlite_over(db.options().filename(folder.join("test.db"))), repair).await;
}
