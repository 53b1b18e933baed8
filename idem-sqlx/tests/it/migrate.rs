//! Rule 33: migrations.

use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use idem_core::Kind;
use idem_sqlx::{SqliteStore, Sweep};
use sqlx::migrate::Migrator;
use tempfile::TempDir;

use crate::client::Call;
use crate::pay::paid;
use crate::script::Script;
use crate::support::{Database, Postgres, Sqlite};

/// The migrations of an application, with the store's files copied among them.
fn migrations_with_ours(folder: &str) -> TempDir {
    let migrations = tempfile::tempdir().expect("a folder");
    let own = "CREATE TABLE orders (id integer PRIMARY KEY)";
    fs::write(migrations.path().join("20200101000000_create_orders.sql"), own).expect("a migration");
    fs::write(migrations.path().join("20990101000000_add_orders.sql"), "INSERT INTO orders VALUES (1)")
        .expect("another");
    for file in fs::read_dir(folder).expect("the files to be copied") {
        let file = file.expect("a file");
        fs::copy(file.path(), migrations.path().join(file.file_name())).expect("a copy");
    }
    migrations
}

async fn migrator(folder: &Path) -> Migrator {
    Migrator::new(folder).await.expect("migrations with versions of their own")
}

both! {
    async fn r33_several_processes_migrate_at_once_beside_the_applications_own(db) {
        db.drop_tables().await;
        db.execute("CREATE TABLE _sqlx_migrations (version bigint)").await;
        db.execute("INSERT INTO _sqlx_migrations VALUES (1)").await;
        let mut stores = Vec::new();
        for _ in 0..16 {
            stores.push(db.store(1).await);
        }
        for migrated in join_all(stores.iter().map(|store| store.migrate())).await {
            migrated.expect("a migration");
        }
        stores[0].migrate().await.expect("nothing to do");
        assert_eq!(db.number("SELECT count(*) FROM _sqlx_migrations").await, 1);
        assert_eq!(db.number("SELECT count(*) FROM idem_migrations").await, 2);
        let (app, _) = db.app().await;
        let first = Call::act("insert").send(&app).await;
        Call::act("insert").send(&app).await.expect_replay_of(&first);
    }

    async fn r33_without_its_tables_the_store_says_so(db) {
        db.execute("DROP TABLE idem_journal").await;
        db.execute("DROP TABLE idem_records").await;
        let (app, gauge) = db.app().await;
        Call::act("insert").send(&app).await.expect(500, "deployment_broken");
        assert_eq!(gauge.entered(), 0);
    }

    async fn r33_the_files_can_be_copied_among_the_applications_own(db) {
        db.drop_tables().await;
        let migrations = migrations_with_ours(D::MIGRATIONS);
        for _ in 0..2 {
            migrator(migrations.path()).await.run(&db.pool).await.expect("all of them");
        }
        assert_eq!(db.number("SELECT count(*) FROM _sqlx_migrations").await, 4);

        let store = db.store(4).await;
        let (app, _) = db.app_over(store.clone());
        let first = Call::act("insert").send(&app).await;
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        let paid_now = steps::pay(&store, "u1", "k1", "order", &Script::default()).await;
        assert_eq!(paid_now.expect("paid"), paid());

        // The other way finds it all done, and so does the first one after it.
        let before = db.stored().await;
        store.migrate().await.expect("nothing to do");
        migrator(migrations.path()).await.run(&db.pool).await.expect("nothing to do");
        assert_eq!(db.stored().await, before);
        assert_eq!(db.number("SELECT count(*) FROM _sqlx_migrations").await, 4);
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        db.expire().await;
        assert_eq!(store.sweep(&Sweep::default()).await.expect("a sweep"), 2);
    }

    async fn r33_an_application_that_migrated_by_the_store_can_copy_the_files_later(db) {
        let store = db.store(4).await;
        let (app, _) = db.app_over(store.clone());
        let first = Call::act("insert").send(&app).await;
        let before = db.stored().await;
        let migrations = migrations_with_ours(D::MIGRATIONS);
        migrator(migrations.path()).await.run(&db.pool).await.expect("those of the application");
        assert_eq!(db.stored().await, before);
        assert_eq!(db.number("SELECT count(*) FROM orders").await, 1);
        store.migrate().await.expect("nothing to do");
        Call::act("insert").send(&app).await.expect_replay_of(&first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_a_role_that_may_create_nothing_can_migrate_where_nothing_is_to_be_done_on_postgres() {
    let db = Postgres::create().await;
    let role = format!("idem_clerk_{}", std::process::id());
    db.execute(&format!(
        "REVOKE CREATE ON SCHEMA public FROM public;
        CREATE ROLE {role};
        GRANT USAGE ON SCHEMA public TO {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await;
    let as_clerk = format!("SET ROLE {role}");
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2).after_connect(move |connection, _| {
        let as_clerk = sqlx::raw_sql(sqlx::AssertSqlSafe(as_clerk.clone()));
        Box::pin(async move { as_clerk.execute(connection).await.map(|_| ()) })
    });
    let pool = pool.connect_with(db.options()).await.expect("a pool");
    // By its default and by its name.
    let named = Postgres::builder_over(pool.clone()).schema("public").build();
    let store = Postgres::builder_over(pool.clone()).build();
    for store in [&store, &named] {
        store.migrate().await.expect("nothing to do");
        let (app, _) = db.app_over(store.clone());
        assert_eq!(Call::act("insert").send(&app).await.status, 201);
    }
    // Nor does it need a connection that may write.
    let reading = db.options().options([("default_transaction_read_only", "on")]);
    let reading = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(reading).await.expect("a pool");
    Postgres::builder_over(reading).build().migrate().await.expect("nothing to do");
    // Where something is, it is refused, and nothing has changed.
    db.execute("DELETE FROM idem_migrations WHERE name LIKE '%journal'").await;
    assert_eq!(store.migrate().await.expect_err("no right to create").kind(), Kind::DeploymentBroken);
    assert_eq!(db.number("SELECT count(*) FROM idem_migrations").await, 1);
    pool.close().await;
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_who_can_only_read_can_migrate_where_nothing_is_to_be_done_on_sqlite() {
    let db = Sqlite::create().await;
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(db.options().read_only(true).create_if_missing(false)).await.expect("a pool");
    SqliteStore::new(pool).migrate().await.expect("nothing to do");
    // Nor does it wait for a writer.
    let mut writer = db.pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *writer).await.expect("the write lock");
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let options = db.options().busy_timeout(std::time::Duration::ZERO);
    SqliteStore::new(pool.connect_with(options).await.expect("a pool")).migrate().await.expect("nothing to do");
    sqlx::raw_sql("ROLLBACK").execute(&mut *writer).await.expect("the end");
}

/// A copied file runs under a `search_path` in which a temporary table, or a schema of the caller, comes first.
#[tokio::test]
async fn r33_postgres_copied_functions_work_on_the_tables_beside_them() {
    const FUNCTIONS: &str = include_str!("../../migrations/postgres-far/20261129000001_create_idem_functions.sql");
    let db = Postgres::create().await;
    let store = db.store(1).await;
    let mut connection = store.pool().acquire().await.expect("a connection");
    for _twice in 0..2 {
        sqlx::raw_sql(FUNCTIONS).execute(&mut *connection).await.expect("functions");
    }
    // As one message without a statement's name: a pooler may give the next message to another process.
    let settings = "SELECT string_agg(array_to_string(proconfig, '; '), ' and ') FROM pg_proc
        WHERE proname IN ('idem_claim_v1', 'idem_complete_v1')";
    let row = sqlx::raw_sql(settings).fetch_one(&mut *connection).await.expect("functions");
    let settings: String = sqlx::Row::get(&row, 0);
    assert_eq!(settings, "search_path=public, pg_temp and search_path=public, pg_temp");
}
