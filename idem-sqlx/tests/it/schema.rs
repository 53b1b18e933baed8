//! Rule 13a: tables are named with their schema.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use idem_core::{Error, Identity, Kind};
use idem_sqlx::{PgStore, Sweep};
use sqlx::Executor;

use crate::abandoned::{Office, mail};
use crate::client::Call;
use crate::orders::Refused;
use crate::pay::{kind, paid};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};

both! {
    async fn r13a_no_operation_meets_tables_of_the_same_name(db) {
        // Each connection sees tables first that have our names and other columns. One of them, so that all meet them.
        let store = db.shadowed_store(1).await;
        let (app, gauge) = db.app_over(store.clone());

        // In one transaction.
        let first = Call::act("insert").send(&app).await;
        first.expect_fresh(201);
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        Call::act("empty").send(&app).await.expect(422, "key_reused");
        let rejected = Call::act("reject").key("rejected").send(&app).await;
        rejected.expect_fresh(402);
        Call::act("reject").key("rejected").send(&app).await.expect_replay_of(&rejected);
        for _ in 0..2 {
            Call::act("fail").key("failed").send(&app).await.expect_fresh(500);
            Call::act("raw_rollback").key("ended").send(&app).await.expect(500, "transaction_ended");
        }
        db.expire().await;
        Call::act("insert").send(&app).await.expect_fresh(201);
        assert_eq!(gauge.entered(), 6);

        // Step by step: finished, cut off too often and reset, ended, undone, resumed.
        let script = Script::default();
        for _ in 0..2 {
            assert_eq!(steps::pay(&store, "u1", "k1", "order", &script).await.expect("paid"), paid());
        }
        for _ in 0..3 {
            script.act("charge", Act::Fail);
            assert!(steps::pay(&store, "u1", "k2", "order", &script).await.is_err());
            db.forget_releases().await;
        }
        let exhausted = steps::pay(&store, "u1", "k2", "order", &script).await;
        assert_eq!(kind(&exhausted), Some(Kind::AttemptsExhausted));
        let identity = Identity::new("u1", "steps.pay", "k2").expect("an identity");
        assert!(store.reset_attempts(&identity).await.expect("an answer"));
        assert_eq!(steps::pay(&store, "u1", "k2", "order", &script).await.expect("paid"), paid());
        script.act("reserve", Act::Commit);
        let ended = steps::pay(&store, "u1", "k3", "order", &script).await;
        assert_eq!(kind(&ended), Some(Kind::TransactionEnded));
        let script = Arc::new(script);
        assert_eq!(orders::order(&store, "o1", true, &script).await, Err(Refused::Declined));
        assert_eq!((script.times("undo charge"), script.times("undo reserve")), (1, 1));
        let office = Office::default();
        office.failures.store(1, Ordering::SeqCst);
        assert!(mails::send(&store, &mail("m1", "u1"), &office).await.is_err());
        assert_eq!(mails::go_on(&store, &office).await.succeeded, 1);
        db.expire().await;
        assert_eq!(steps::pay(&store, "u1", "k1", "order", &script).await.expect("paid again"), paid());

        // What has expired, removed and archived.
        assert!(store.sweep(&Sweep::default().batch(2)).await.expect("a sweep") > 5);
        db.execute("CREATE TABLE old_records AS SELECT * FROM idem_records WHERE false").await;
        db.expire().await;
        assert_eq!(store.sweep(&Sweep::default().archive("old_records")).await.expect("a sweep"), 1);
        assert_eq!(db.number("SELECT count(*) FROM old_records").await, 1);

        // The tables themselves.
        store.migrate().await.expect("nothing to do");
        db.drop_tables().await;
        store.migrate().await.expect("tables");
        Call::act("insert").send(&app).await.expect_fresh(201);
        assert_eq!((db.records().await, db.number("SELECT count(*) FROM idem_migrations").await), (1, 2));
        assert!(D::is_shadowed(&store).await, "on the same connection");
    }
}

/// One of two connections is left with another `search_path` by another part of the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_two_search_paths_are_one_key_on_postgres() {
    let db = Postgres::create().await;
    db.execute("CREATE SCHEMA tenant_a").await;
    let tenants = Postgres::builder_over(db.pool.clone()).schema("tenant_a").build();
    tenants.migrate().await.expect("the tenant's tables");
    let store = db.store(2).await;
    store.migrate().await.expect("nothing to do");
    let (app, gauge) = db.app_over(store.clone());

    let pool = store.pool();
    let mut astray = pool.acquire().await.expect("a connection");
    astray.execute("SET search_path TO tenant_a, public").await.expect("a setting");
    let first = Call::act("insert").send(&app).await;
    first.expect_fresh(201);
    let mut other = pool.acquire().await.expect("the other connection");
    drop(astray);
    Call::act("insert").send(&app).await.expect_replay_of(&first);
    // In another process nobody knows that it has run.
    let (elsewhere, _) = db.app_over(Postgres::builder_over(pool.clone()).schema("public").build());
    Call::act("insert").send(&elsewhere).await.expect_replay_of(&first);
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut *other).await.expect("a setting");
    assert!(!path.contains("tenant_a"), "{path}");
    drop(other);

    // Duplicates on both connections.
    let duplicates = (0..20).map(|_| {
        let app = app.clone();
        tokio::spawn(async move { Call::to("/wait", "insert").key("many").send(&app).await })
    });
    for duplicate in duplicates.collect::<Vec<_>>() {
        assert_eq!(duplicate.await.expect("no panic").status, 201);
    }
    assert_eq!((gauge.entered(), db.effects().await, db.records().await), (2, 2, 2));
    assert_eq!(db.number("SELECT count(*) FROM tenant_a.idem_records").await, 0);
}

/// A store that migrates nothing, and is used first on a connection that was left with another `search_path`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_the_first_connection_does_not_choose_the_schema_on_postgres() {
    let db = Postgres::create().await;
    db.execute("CREATE SCHEMA tenant_a; CREATE SCHEMA empty").await;
    Postgres::builder_over(db.pool.clone()).schema("tenant_a").build().migrate().await.expect("the tenant's tables");
    for path in ["tenant_a, public", "empty, public", "nowhere, public", "pg_temp, tenant_a, public"] {
        let store = db.store(1).await;
        let astray = format!("SET search_path TO {path}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(astray)).execute(store.pool()).await.expect("a setting");
        let (app, _) = db.app_over(store.clone());
        Call::act("insert").key(&path.replace(", ", "-")).send(&app).await.expect_fresh(201);
        let kept: String = sqlx::query_scalar("SHOW search_path").fetch_one(store.pool()).await.expect("a setting");
        assert_eq!(kept, path, "a connection's settings are its owner's");
    }
    assert_eq!((db.records().await, db.number("SELECT count(*) FROM tenant_a.idem_records").await), (4, 0));

    // Where the application sets it on each connection, and only that schema has the tables.
    db.execute("DROP TABLE public.idem_journal, public.idem_records").await;
    let store = db.store(1).await;
    store.pool().execute("SET search_path TO tenant_a, public").await.expect("a setting");
    let (app, _) = db.app_over(store);
    Call::act("insert").send(&app).await.expect_fresh(201);
    assert_eq!(db.number("SELECT count(*) FROM tenant_a.idem_records").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_a_named_schema_is_created_by_whoever_comes_first_on_postgres() {
    let db = Postgres::create().await;
    let schema = "My \"schema\"";
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(db.builder(1).await.schema(schema).build());
    }
    for migrated in futures_util::future::join_all(stores.iter().map(PgStore::migrate)).await {
        migrated.expect("tables");
    }
    let store = stores.remove(0);
    let (app, gauge) = db.app_over(store.clone());
    let first = Call::act("insert").send(&app).await;
    Call::act("insert").send(&app).await.expect_replay_of(&first);
    let table = "\"My \"\"schema\"\"\".idem_records";
    assert_eq!(db.number(&format!("SELECT count(*) FROM {table}")).await, 1);
    assert_eq!((gauge.entered(), db.records().await), (1, 0));

    // An archive is beside them, unless its schema is named.
    db.execute(&format!("CREATE TABLE \"My \"\"schema\"\"\".old (LIKE {table}); CREATE TABLE old (LIKE {table})"))
        .await;
    for (archive, kept) in [("old", [1, 0]), ("public.old", [1, 1])] {
        Call::act("insert").key(archive).send(&app).await;
        db.execute(&format!("UPDATE {table} SET expires_at = now() WHERE scope <> 'old'")).await;
        db.execute(&format!("DELETE FROM {table} WHERE key_hash NOT IN (SELECT key_hash FROM {table} LIMIT 1)")).await;
        assert_eq!(store.sweep(&Sweep::default().archive(archive)).await.expect("a sweep"), 1);
        let own = db.number("SELECT count(*) FROM \"My \"\"schema\"\"\".old").await;
        assert_eq!([own, db.number("SELECT count(*) FROM old").await], kept);
    }
}

#[tokio::test]
async fn r13a_without_any_schema_the_store_says_what_to_do_on_postgres() {
    let db = Postgres::create().await;
    // There is no such schema, and the second one is not for tables that are to stay.
    for path in ["nowhere", "pg_temp"] {
        let options = db.options().options([("search_path", path)]);
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        let pool = pool.after_connect(|connection, _| {
            Box::pin(async move { connection.execute("CREATE TEMP TABLE a (b int)").await.map(|_| ()) })
        });
        let store = Postgres::builder_over(pool.connect_with(options).await.expect("a pool")).build();
        for result in [store.migrate().await, store.sweep(&Sweep::default()).await.map(|_| ())] {
            let error: Error = result.expect_err("no schema");
            assert_eq!(error.kind(), Kind::DeploymentBroken);
            assert!(error.to_string().contains("PgStoreBuilder::schema"), "{error}");
        }
    }
}

#[tokio::test]
#[should_panic(expected = "1 to 63 bytes")]
async fn r13a_what_is_no_identifier_is_refused_by_the_builder_of_postgres() {
    let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/nothing").expect("a URL");
    let _store = Postgres::builder_over(pool).schema("s".repeat(64));
}
