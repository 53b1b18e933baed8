//! Rule 18a: the kind of an error says whose fault it was. Rule 34: the error quotes no value of a row.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idem_core::message::{Action, Failure};
use idem_core::{Error, Kind};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use crate::client::Call;
use crate::support::{Database, Postgres, Sqlite};

macro_rules! faulty {
    ($module:ident, $Store:ident, $Tx:ident) => {
        mod $module {
            use axum::Router;
            use axum::extract::FromRef;
            use axum::routing::post;
            use http::StatusCode;
            use idem_core::{Error, idempotent};
            use idem_sqlx::{into_idem_error, $Store, $Tx};
            use sqlx::AssertSqlSafe;

            #[derive(Clone)]
            struct App($Store);

            impl FromRef<App> for $Store {
                fn from_ref(app: &App) -> Self {
                    app.0.clone()
                }
            }

            pub fn app(store: $Store) -> Router {
                Router::new().route("/", post(answer)).with_state(App(store))
            }

            #[idempotent(scope = "faults", operation = "faults.http")]
            async fn answer(tx: &mut $Tx, sql: String) -> Result<StatusCode, Error> {
                run(tx, &sql).await?;
                Ok(StatusCode::CREATED)
            }

            #[idempotent(key = id, scope = "faults", operation = "faults.message", fingerprint = sql)]
            pub async fn on_message(tx: &mut $Tx, id: &str, sql: &str) -> Result<(), Error> {
                run(tx, sql).await
            }

            async fn run(tx: &mut $Tx, sql: &str) -> Result<(), Error> {
                let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx).await;
                done.map(|_| ()).map_err(into_idem_error)
            }
        }
    };
}

faulty!(on_postgres, PgStore, PgTx);
faulty!(on_sqlite, SqliteStore, SqliteTx);

/// What a statement of a handler is refused with.
const POSTGRES: &[(&str, Kind)] = &[
    ("INSERT INTO effects VALUES (NULL, 'what')", Kind::DataRefused),
    ("CREATE TABLE one (id int UNIQUE); INSERT INTO one VALUES (1), (1)", Kind::DataRefused),
    ("CREATE TABLE few (id int CHECK (id > 0)); INSERT INTO few VALUES (0)", Kind::DataRefused),
    ("SELECT 'abc'::int", Kind::DataRefused),
    ("SELECT 1 / 0", Kind::DataRefused),
    ("SELECT 'a'::varchar(1) || repeat('b', 2147483647)", Kind::DataRefused),
    ("INSERT INTO missing VALUES (1)", Kind::DeploymentBroken),
    ("INSERT INTO nowhere.effects VALUES (1)", Kind::DeploymentBroken),
    ("SELECT missing FROM effects", Kind::DeploymentBroken),
    ("SELECT missing(1)", Kind::DeploymentBroken),
    ("SELEKT 1", Kind::DeploymentBroken),
    ("SET LOCAL ROLE pg_monitor; SELECT * FROM effects", Kind::DeploymentBroken),
    ("CREATE TABLE missing.a (b int)", Kind::DeploymentBroken),
    ("CREATE TABLE a (b int); CREATE INDEX ON a USING gin (b)", Kind::DeploymentBroken),
    ("SELECT * FROM effects FOR UPDATE OF missing", Kind::DeploymentBroken),
    ("CREATE SEQUENCE s MAXVALUE 2; SELECT nextval('s'), nextval('s'), nextval('s')", Kind::DeploymentBroken),
    ("DO $$ BEGIN RAISE EXCEPTION 'P' USING ERRCODE = '0A000'; END $$", Kind::DeploymentBroken),
    ("DO $$ BEGIN RAISE EXCEPTION 'of ours'; END $$", Kind::StoreFailed),
    ("DO $$ BEGIN RAISE EXCEPTION 'P' USING ERRCODE = 'XX000'; END $$", Kind::StoreFailed),
    ("DO $$ BEGIN RAISE EXCEPTION 'P' USING ERRCODE = '40001'; END $$", Kind::RetryLater),
    ("DO $$ BEGIN RAISE EXCEPTION 'P' USING ERRCODE = '53100'; END $$", Kind::StoreUnavailable),
    ("SET TRANSACTION READ ONLY; INSERT INTO effects VALUES ('who', 'what')", Kind::StoreUnavailable),
];

const SQLITE: &[(&str, Kind)] = &[
    ("INSERT INTO effects VALUES (NULL, 'what')", Kind::DataRefused),
    ("CREATE TABLE one (id int UNIQUE); INSERT INTO one VALUES (1), (1)", Kind::DataRefused),
    ("CREATE TABLE few (id int CHECK (id > 0)); INSERT INTO few VALUES (0)", Kind::DataRefused),
    ("CREATE TABLE exact (id integer) STRICT; INSERT INTO exact VALUES ('a')", Kind::DataRefused),
    ("CREATE TABLE keys (id integer PRIMARY KEY); INSERT INTO keys VALUES ('a')", Kind::DataRefused),
    ("SELECT zeroblob(2000000000)", Kind::DataRefused),
    ("INSERT INTO missing VALUES (1)", Kind::DeploymentBroken),
    ("INSERT INTO nowhere.effects VALUES (1)", Kind::DeploymentBroken),
    ("SELECT missing FROM effects", Kind::DeploymentBroken),
    ("SELECT missing(1)", Kind::DeploymentBroken),
    ("SELEKT 1", Kind::DeploymentBroken),
];

trait Faulty: Database {
    const FAULTS: &[(&str, Kind)];

    /// Statements that are refused with these words of the request in what the database says.
    const QUOTING: &[&str];
}

impl Faulty for Postgres {
    const FAULTS: &[(&str, Kind)] = POSTGRES;
    const QUOTING: &[&str] = &[
        "CREATE TABLE one (card text UNIQUE); INSERT INTO one VALUES ('4111 1111'), ('4111 1111')",
        "CREATE TABLE few (card text CHECK (card = '')); INSERT INTO few VALUES ('4111 1111')",
        "SELECT '4111 1111'::int",
        "SELECT '{\"card\": 4111 1111}'::json",
        "DO $$ BEGIN RAISE EXCEPTION '4111 1111' USING DETAIL = '4111 1111', HINT = '4111 1111'; END $$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT ''4111 1111''::int'; END $$;
         SELECT f()",
        "SELECT 1 FROM \"4111 1111\"",
    ];
}

impl Faulty for Sqlite {
    const FAULTS: &[(&str, Kind)] = SQLITE;
    const QUOTING: &[&str] = &[
        "CREATE TABLE few (card text CHECK (card <> '4111 1111')); INSERT INTO few VALUES ('4111 1111')",
        "CREATE TRIGGER t BEFORE INSERT ON effects BEGIN SELECT RAISE(ABORT, '4111 1111'); END;
         INSERT INTO effects VALUES ('who', 'what')",
        "SELECT 1 FROM \"4111 1111\"",
        "SELECT '4111 1111",
    ];
}

/// All that is printed of an error by anybody who does not ask for sqlx's own.
fn printed(error: &Error) -> String {
    let mut printed = format!("{error} {error:?} {error:#?}");
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        printed += &format!(" {error} {error:?} {error:#?}");
        cause = error.source();
    }
    printed
}

mod kinds {
    use super::{on_postgres, on_sqlite, *};

    macro_rules! kinds {
        ($($database:ident: $Database:ident, $module:ident;)*) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $database() {
                let db = $Database::create().await;
                let store = db.store(2).await;
                let app = $module::app(store.clone());
                for (at, (sql, kind)) in $Database::FAULTS.iter().enumerate() {
                    let id = at.to_string();
                    let failed = $module::on_message(&store, &id, sql).await.expect_err(sql);
                    assert_eq!(failed.kind(), *kind, "{sql}: {:?}", idem_sqlx::sqlx_error(&failed));
                    let is_redelivered = matches!(failed.action(), Action::Redeliver { .. });
                    assert_eq!(is_redelivered, *kind != Kind::DataRefused, "{sql}");
                    assert_eq!(failed.kind().is_final(), *kind == Kind::DataRefused, "{sql}");
                    let answer = Call::new(http::Method::POST, "/").key(&id).json(sql).send(&app).await;
                    assert_eq!(answer.code(), kind.code(), "{sql}");
                    let status = match kind {
                        Kind::DataRefused => 422,
                        Kind::DeploymentBroken | Kind::StoreFailed => 500,
                        _ => 503,
                    };
                    assert_eq!(answer.status.as_u16(), status, "{sql}");
                    assert_eq!(answer.headers.contains_key("retry-after"), status == 503, "{sql}");
                    let body = String::from_utf8(answer.body).expect("text");
                    assert!(!body.contains("idempotency store"), "a statement of the handler is not the store's: {body}");
                    assert_eq!((db.effects().await, db.records().await), (0, 0), "{sql}");
                    // Nothing is left of it: the key runs.
                    $module::on_message(&store, &id, "SELECT 1").await.expect("it runs");
                    db.execute("DELETE FROM idem_records").await;
                }
            }
        )*};
    }

    kinds! {
        r18a_the_kind_of_a_failed_statement_says_whose_fault_it_was_on_postgres: Postgres, on_postgres;
        r18a_the_kind_of_a_failed_statement_says_whose_fault_it_was_on_sqlite: Sqlite, on_sqlite;
    }

    macro_rules! too_early {
        ($($name:ident: $Database:ident, $module:ident;)*) => {$(
            /// A consumer that is deployed before its migration, and before the store's own.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let db = $Database::create().await;
                let insert = "INSERT INTO orders VALUES ('a')";
                let topic: Vec<_> = (0..5).map(|id| id.to_string()).collect();
                // Each time by a process that has just been started.
                let deliver = async || {
                    let (store, mut actions) = (db.store(2).await, Vec::new());
                    for id in &topic {
                        actions.push(Action::of(&$module::on_message(&store, id, insert).await));
                    }
                    actions
                };
                let is_redelivered = |action: &Action| matches!(action, Action::Redeliver { .. });
                assert!(deliver().await.iter().all(is_redelivered), "the table of the handler is missing");
                db.drop_tables().await;
                assert!(deliver().await.iter().all(is_redelivered), "and the store's");
                db.execute("CREATE TABLE orders (what text)").await;
                assert!(deliver().await.iter().all(is_redelivered), "the store's alone");
                db.store(1).await.migrate().await.expect("tables");
                assert_eq!(deliver().await, vec![Action::Acknowledge; 5]);
                assert_eq!(db.number("SELECT count(*) FROM orders").await, 5);
            }
        )*};
    }

    too_early! {
        r18a_a_consumer_before_its_migration_loses_no_message_on_postgres: Postgres, on_postgres;
        r18a_a_consumer_before_its_migration_loses_no_message_on_sqlite: Sqlite, on_sqlite;
    }

    macro_rules! quoting {
        ($($name:ident: $Database:ident, $module:ident;)*) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let db = $Database::create().await;
                let store = db.store(2).await;
                for sql in $Database::QUOTING {
                    let failed = $module::on_message(&store, "k", sql).await.expect_err(sql);
                    let own = idem_sqlx::sqlx_error(&failed).expect("sqlx's own");
                    assert!(format!("{own:?}").contains("4111 1111"), "the database quotes it: {own:?}");
                    assert!(!printed(&failed).contains("4111"), "{sql}: {}", printed(&failed));
                    let code = own.as_database_error().and_then(|answer| answer.code()).expect("a code");
                    assert!(printed(&failed).contains(&*code), "the code is there: {}", printed(&failed));
                }
            }
        )*};
    }

    quoting! {
        r34_an_error_quotes_no_value_on_postgres: Postgres, on_postgres;
        r34_an_error_quotes_no_value_on_sqlite: Sqlite, on_sqlite;
    }
}

/// What is logged at `error`.
#[derive(Clone, Default)]
struct Shouts(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Shouts {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!(" {field}={value:?}");
            }
        }
        if event.metadata().target() == "idem" && *event.metadata().level() == tracing::Level::ERROR {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().expect("no panic").push(text.0);
        }
    }
}

macro_rules! shouts {
    ($($name:ident: $Database:ident, $module:ident, $code:literal;)*) => {$(
        /// On one thread, to which the subscriber belongs.
        #[tokio::test]
        async fn $name() {
            let shouts = Shouts::default();
            let _another = tracing::Dispatch::new(tracing_subscriber::registry());
            let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(shouts.clone()));
            let db = $Database::create().await;
            let store = db.store(1).await;
            let take = || std::mem::take(&mut *shouts.0.lock().expect("no panic"));
            let refused = $module::on_message(&store, "k", "INSERT INTO effects VALUES (NULL, 'what')").await;
            assert_eq!((refused.expect_err("refused").kind(), take()), (Kind::DataRefused, Vec::new()));

            let broken = $module::on_message(&store, "k", "INSERT INTO missing VALUES ('4111 1111')").await;
            assert_eq!(broken.expect_err("broken").kind(), Kind::DeploymentBroken);
            let heard = take();
            assert_eq!(heard.len(), 1, "{heard:?}");
            assert!(heard[0].contains("deployment_broken") && heard[0].contains($code), "{heard:?}");
            assert!(!heard[0].contains("4111"), "{heard:?}");

            // The store's own tables.
            db.drop_tables().await;
            let missing = $module::on_message(&store, "k", "SELECT 1").await.expect_err("no tables");
            assert_eq!(missing.kind(), Kind::DeploymentBroken);
            assert!(missing.detail().contains("`migrate()`"), "{missing}");
            assert!(take().iter().any(|shout| shout.contains("`migrate()`")));
        }
    )*};
}

shouts! {
    r18a_a_deployment_that_is_broken_is_logged_where_it_is_met_on_postgres: Postgres, on_postgres, "42P01";
    r18a_a_deployment_that_is_broken_is_logged_where_it_is_met_on_sqlite: Sqlite, on_sqlite, "result code 1";
}

/// Its code is that of a missing right, which is the deployment's fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18a_postgres_a_row_that_violates_a_policy_is_the_requests_fault() {
    let db = Postgres::create().await;
    let role = format!("idem_tenant_{}", std::process::id());
    db.execute(&format!(
        "CREATE TABLE orders (owner text);
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON orders WITH CHECK (owner = 'us');
        CREATE ROLE {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await;
    let as_tenant = format!("SET ROLE {role}");
    let pool = PgPoolOptions::new().max_connections(1).after_connect(move |connection, _| {
        let as_tenant = sqlx::raw_sql(AssertSqlSafe(as_tenant.clone()));
        Box::pin(async move { as_tenant.execute(connection).await.map(|_| ()) })
    });
    let store = Postgres::builder_over(pool.connect_with(db.options()).await.expect("a pool")).build();
    let backend = async || {
        let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(store.pool());
        pid.await.expect("a number")
    };
    let before = backend().await;
    let refused = on_postgres::on_message(&store, "k", "INSERT INTO orders VALUES ('them')").await;
    let Action::DeadLetter { code, .. } = Action::of(&refused) else { panic!("{refused:?}") };
    assert_eq!(code, "data_refused");
    assert!(store.drain(Duration::from_secs(30)).await);
    assert_eq!(backend().await, before, "the connection is fit");
    on_postgres::on_message(&store, "k2", "INSERT INTO orders VALUES ('us')").await.expect("within the policy");
    store.pool().close().await;
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
