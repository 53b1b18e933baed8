//! The statements on the pages of `idem-core/docs`: they run, and the rights of the page are enough.

use std::time::Duration;

use idem_core::{Error, Identity, Kind, idempotent, observe};
use idem_sqlx::{PgSteps, PgTx, Sweep, into_idem_error};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor};

use crate::support::{Database, Postgres};

const PRODUCTION: &str = include_str!("../../../idem-core/docs/production.md");

/// The code blocks of SQL.
fn statements(page: &str) -> impl Iterator<Item = &str> {
    page.split("```sql\n").skip(1).filter_map(|block| block.split("```").next())
}

#[idempotent(key = key, scope = "ada", operation = "payments.create", ttl = "1h")]
async fn pay(tx: &mut PgTx, key: &str) -> Result<i32, Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(tx).await.map_err(into_idem_error)
}

#[idempotent(key = key, scope = "ada", operation = "orders.create", attempts = 1, record_input = key)]
async fn order(steps: &mut PgSteps, key: &str, charged: &bool) -> Result<i32, Error> {
    let reserved = steps
        .transaction("reserve", async |tx| sqlx::query_scalar("SELECT 1").fetch_one(tx).await.map_err(into_idem_error));
    let reserved = reserved.await?;
    let charge = async |_key| if *charged { Ok(()) } else { Err(Error::new(Kind::Panicked)) };
    steps.call("charge", charge).await?;
    Ok(reserved)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r33_the_rights_on_the_page_are_enough_on_postgres() {
    let db = Postgres::create().await;
    let role = format!("idem_page_{}", std::process::id());
    let as_role = format!("SET ROLE {role}");
    let pool = PgPoolOptions::new().max_connections(2).after_connect(move |connection, _| {
        let as_role = sqlx::raw_sql(AssertSqlSafe(as_role.clone()));
        Box::pin(async move { as_role.execute(connection).await.map(|_| ()) })
    });
    Postgres::builder_over(db.pool.clone()).schema("idem").build().migrate().await.expect("the owner migrates");
    let rights = statements(PRODUCTION).next().expect("the rights").replace("TO app;", &format!("TO {role};"));
    db.execute(&format!("CREATE ROLE {role}; {rights}")).await;
    let pool = pool.connect_with(db.options()).await.expect("a pool");
    let store = Postgres::builder_over(pool.clone()).schema("idem").build();

    store.migrate().await.expect("nothing to do");
    pay(&store, "order-1").await.expect("paid");
    assert!(observe(pay(&store, "order-1")).await.replayed);
    assert_eq!(order(&store, "order-2", &false).await.expect_err("not charged").kind(), Kind::Panicked);
    db.execute("UPDATE idem.idem_records SET released = 0").await; // as if its process had died
    assert_eq!(order(&store, "order-2", &false).await.expect_err("once").kind(), Kind::AttemptsExhausted);
    let identity = Identity::new("ada", "orders.create", "order-2").expect("an identity");
    assert!(store.reset_attempts(&identity).await.expect("reset"));
    let resumed = store.resume_abandoned("orders.create", async |key: String| order(&store, &key, &true).await);
    assert_eq!(resumed.await.expect("resumed").succeeded, 1);
    db.execute("UPDATE idem.idem_records SET expires_at = now()").await;
    assert_eq!(store.sweep(&Sweep::default()).await.expect("swept"), 2);
    pool.close().await;
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Of Citus' functions only what they ask of their arguments: that there are such tables, with such a column in each
/// unique index.
const CITUS: &str = "
CREATE FUNCTION create_reference_table(regclass) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION create_distributed_table(distributed regclass, column_name text, colocate_with text DEFAULT 'default')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1
        FROM pg_index
        WHERE indrelid = distributed
            AND indisunique
            AND column_name NOT IN (
                SELECT attname FROM pg_attribute WHERE attrelid = distributed AND attnum = ANY (indkey)
            )
    ) OR colocate_with <> 'default' AND to_regclass(colocate_with) IS NULL THEN
        RAISE EXCEPTION '% cannot be distributed', distributed;
    END IF;
END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statements_on_the_pages_run_on_postgres() {
    let db = Postgres::create().await;
    let store = db.store(2).await;
    pay(&store, "order-1").await.expect("paid");
    order(&store, "order-2", &false).await.expect_err("not charged");
    tokio::time::sleep(Duration::from_millis(1)).await;
    db.execute(CITUS).await;
    // The first are rights, which the other test needs.
    let pages =
        [include_str!("../../../idem-core/docs/leased.md"), include_str!("../../../idem-core/docs/releases.md")];
    for statement in statements(PRODUCTION).skip(1).chain(pages.into_iter().flat_map(statements)) {
        let rows = db.pool.fetch_all(sqlx::raw_sql(AssertSqlSafe(statement))).await;
        let rows = rows.unwrap_or_else(|error| panic!("{statement}{error}"));
        assert!(!rows.is_empty() || !statement.contains("SELECT"), "{statement} finds nothing");
    }
    assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE expires_at <= now()").await, 1, "the payment");
}
