//! Rule 13a: a connection that the pool hands out inside a transaction that somebody else has left.
//!
//! A pool of one makes it certain who gets the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use idem_core::message::Action;
use idem_core::store::{
    Attempt, Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply,
};
use idem_core::{Fingerprint, Identity, Kind, Request, observe};
use idem_sqlx::{PgStore, SqliteStore, Sweep};
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqliteConnection};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use crate::abandoned::{Office, mail, postgres_mails};
use crate::app::Gauge;
use crate::cancel::{GivenUp, polled};
use crate::client::{Call, eventually};
use crate::plain::{Done, Event, Failed, postgres_functions, sqlite_functions};
use crate::support::{Database, Postgres, Sqlite};

/// How somebody leaves a connection.
#[derive(Debug, Clone, Copy)]
pub enum Dirt {
    /// With SQL of their own, of which the last statement may fail.
    Sql(&'static str),
    /// With so many of sqlx's transactions that were never dropped, and then this SQL.
    Forgotten(usize, &'static str),
    /// With a `pool.begin()` that was given up.
    Cancelled,
}

pub trait Soiled: Database {
    const DIRT: &'static [Dirt];

    /// A transaction that sees only what was there before it.
    const SNAPSHOT: Dirt;

    /// The database's time, and a column as such a time: in microseconds.
    const NOW: &'static str;
    fn time(column: &str) -> String;

    /// Leaves the store's one connection like this.
    async fn soil(store: &<Self::Tx as Context>::Store, dirt: Dirt);
}

/// Long enough for a transaction's time to tell.
async fn age() {
    let left = Instant::now();
    eventually("time passes", async || left.elapsed() > Duration::from_millis(30)).await;
}

macro_rules! soiled {
    ($Database:ty, $Store:ty, $must_be_dirty:expr, $($constants:item)*) => {
        impl Soiled for $Database {
            $($constants)*

            async fn soil(store: &$Store, dirt: Dirt) {
                match dirt {
                    Dirt::Sql(sql) => {
                        let mut connection = store.pool().acquire().await.expect("a connection");
                        let _may_fail = sqlx::raw_sql(sql).execute(&mut *connection).await;
                    }
                    Dirt::Forgotten(transactions, sql) => {
                        let mut connection = store.pool().acquire().await.expect("a connection");
                        for _ in 0..transactions {
                            std::mem::forget(Connection::begin(&mut *connection).await.expect("a transaction"));
                        }
                        let _may_fail = sqlx::raw_sql(sql).execute(&mut *connection).await;
                    }
                    Dirt::Cancelled => {
                        let from = Instant::now();
                        for polls in (1..12).cycle() {
                            drop(polled(store.pool().begin(), polls, GivenUp::AtOnce).await);
                            if polls == 11 && !$must_be_dirty || !Self::is_idle(store).await {
                                break;
                            }
                            assert!(from.elapsed() < Duration::from_secs(30), "no begin was given up in time");
                        }
                    }
                }
                age().await;
            }
        }
    };
}

soiled! {
    Postgres, PgStore, true,
    const DIRT: &'static [Dirt] = &[
        Dirt::Sql("BEGIN"),
        Dirt::Sql("BEGIN; INSERT INTO effects VALUES ('stranger', 'uncommitted')"),
        Dirt::Sql("BEGIN; SELECT 1 / 0"),
        Dirt::Sql("BEGIN; INSERT INTO effects VALUES ('stranger', 'uncommitted'); SAVEPOINT stranger; SELECT 1 / 0"),
        Dirt::Sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM idem_records"),
        Dirt::Sql("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM idem_records"),
        Dirt::Sql("BEGIN READ ONLY"),
        // The limit holds for our BEGIN, too, until the ROLLBACK behind it: a busy machine has to keep it.
        Dirt::Sql("BEGIN; SET LOCAL lock_timeout = '1ms'; SET LOCAL statement_timeout = '2s'; SET LOCAL timezone = 'Asia/Tokyo'"),
        Dirt::Sql("BEGIN; SET LOCAL search_path TO pg_catalog"),
        Dirt::Sql("BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL ROLE pg_monitor"),
        Dirt::Forgotten(1, ""),
        Dirt::Forgotten(2, "INSERT INTO effects VALUES ('stranger', 'uncommitted')"),
        Dirt::Forgotten(1, "COMMIT"),
        Dirt::Forgotten(1, "SELECT 1 / 0"),
        Dirt::Cancelled,
    ];
    const SNAPSHOT: Dirt = Dirt::Sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM idem_records");
    const NOW: &'static str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    fn time(column: &str) -> String {
        format!("SELECT (extract(epoch FROM {column}) * 1000000)::bigint FROM idem_records")
    }
}

soiled! {
    Sqlite, SqliteStore, false,
    const DIRT: &'static [Dirt] = &[
        Dirt::Sql("BEGIN"),
        Dirt::Sql("BEGIN; SELECT count(*) FROM idem_records"),
        Dirt::Sql("BEGIN IMMEDIATE"),
        Dirt::Sql("BEGIN; INSERT INTO effects VALUES ('stranger', 'uncommitted')"),
        Dirt::Sql("BEGIN; INSERT INTO effects VALUES ('stranger', 'uncommitted'); INSERT INTO effects VALUES (NULL, NULL)"),
        Dirt::Sql("SAVEPOINT stranger"),
        Dirt::Sql("SAVEPOINT idem_run; INSERT INTO effects VALUES ('stranger', 'uncommitted')"),
        Dirt::Forgotten(1, ""),
        Dirt::Forgotten(2, "INSERT INTO effects VALUES ('stranger', 'uncommitted')"),
        Dirt::Forgotten(1, "COMMIT"),
        Dirt::Cancelled,
    ];
    const SNAPSHOT: Dirt = Dirt::Sql("BEGIN; SELECT count(*) FROM idem_records");
    const NOW: &'static str = "SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)";
    fn time(column: &str) -> String {
        format!("SELECT {column} FROM idem_records")
    }
}

/// A store over one connection that was left like this.
async fn left<D: Soiled>(db: &D, dirt: Dirt) -> <D::Tx as Context>::Store {
    let store = db.store(1).await;
    D::soil(&store, dirt).await;
    store
}

/// What holds whatever was done on the connection: it is as it should be, and nothing of the stranger's was kept.
async fn assert_clean<D: Soiled>(db: &D, store: &<D::Tx as Context>::Store, how: &str) {
    assert!(D::is_idle(store).await, "{how}: the connection went back inside a transaction");
    assert_eq!(db.number("SELECT count(*) FROM effects WHERE who = 'stranger'").await, 0, "{how}");
}

/// A time that was written since `before`, and is so much later than that.
async fn assert_written<D: Soiled>(db: &D, column: &str, before: i64, later: Duration, how: &str) {
    let ahead = db.number(&D::time(column)).await - before - i64::try_from(later.as_micros()).expect("small");
    assert!((0..30_000_000).contains(&ahead), "{how}: {column} is {ahead} microseconds off");
}

fn acknowledged(result: &Result<Done, Failed>, how: &str) -> usize {
    assert_eq!(Action::of(result), Action::Acknowledge, "{how}: {result:?}");
    result.as_ref().map(|done| done.entered).expect("acknowledged")
}

fn request(key: &str) -> Request {
    Request::new(
        Identity::new("test", "inherited", key).expect("an identity"),
        Fingerprint::none(),
        Duration::from_secs(3600),
    )
    .expect("a request")
}

fn reply() -> Reply {
    Reply { format: Format::VALUE, status: None, headers: Vec::new().into(), body: b"1".as_slice().into() }
}

fn step(position: u32) -> Entry {
    Entry::new(position, EntryKind::TRANSACTION, format!("step {position}")).with_reply(reply())
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

both! {
    async fn r13a_a_run_and_its_retry_inherit_nothing(db) {
        let gauge = Gauge::new();
        for (run, dirt) in D::DIRT.iter().enumerate() {
            let how = format!("{dirt:?}");
            db.execute("DELETE FROM idem_records").await;
            let event = Event::of(&run.to_string(), "insert");
            let store = left(&db, *dirt).await;
            let before = db.number(D::NOW).await;
            let first = acknowledged(&functions::handle(&store, &gauge, &event).await, &how);
            assert_clean(&db, &store, &how).await;
            assert_written(&db, "created_at", before, Duration::ZERO, &how).await;
            assert_written(&db, "expires_at", before, WEEK, &how).await;

            D::soil(&store, *dirt).await;
            let again = observe(functions::handle(&store, &gauge, &event)).await;
            assert!(again.replayed, "{how}");
            assert_eq!(acknowledged(&again.result, &how), first, "{how}");
            assert_clean(&db, &store, &how).await;
            store.pool().close().await;

            let elsewhere = left(&db, *dirt).await;
            let again = observe(functions::handle(&elsewhere, &gauge, &event)).await;
            assert!(again.replayed, "{how}");
            assert_eq!(acknowledged(&again.result, &how), first, "{how}");
            assert_clean(&db, &elsewhere, &how).await;
            elsewhere.pool().close().await;
            assert_eq!((gauge.entered(), db.effects().await), (run + 1, i64::try_from(run).expect("small") + 1), "{how}");
        }
    }

    async fn r13a_an_unrecorded_run_inherits_nothing(db) {
        for (run, dirt) in D::DIRT.iter().enumerate() {
            let store = left(&db, *dirt).await;
            let (app, _) = db.app_over(store.clone());
            Call::to("/optional", "insert").without("idempotency-key").send(&app).await.expect_fresh(201);
            assert_clean(&db, &store, &format!("{dirt:?}")).await;
            assert_eq!(db.effects().await, i64::try_from(run).expect("small") + 1, "{dirt:?}");
            store.pool().close().await;
        }
    }

    async fn r13a_what_a_leased_run_writes_inherits_nothing(db) {
        let lease = LeaseTerms::DEFAULT.lasting(Duration::from_secs(60));
        let hour = Duration::from_secs(3600);
        for dirt in D::DIRT {
            let how = format!("{dirt:?}");
            db.execute("DELETE FROM idem_records; DELETE FROM effects").await;
            let store = left(&db, *dirt).await;
            let before = db.number(D::NOW).await;
            let claimed = <D as Database>::Lease::claim(&store, &request("k"), &lease, Intent::Run).await;
            let Ok(Claimed::Run(Attempt { lease: held, .. })) = claimed else { panic!("{how}: {:?}", claimed.map(|_| ())) };
            assert_clean(&db, &store, &how).await;
            assert_written(&db, "created_at", before, Duration::ZERO, &how).await;
            assert_written(&db, "lease_until", before, lease.duration, &how).await;
            assert_written(&db, "expires_at", before, lease.duration + hour, &how).await;

            D::soil(&store, *dirt).await;
            let before = db.number(D::NOW).await;
            held.renew().await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            assert_clean(&db, &store, &how).await;
            assert_written(&db, "lease_until", before, lease.duration, &how).await;

            D::soil(&store, *dirt).await;
            let mut tx = held.begin().await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            D::effect(&mut tx, "step").await;
            held.record(Some(tx), &step(0)).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            assert_clean(&db, &store, &how).await;

            D::soil(&store, *dirt).await;
            let before = db.number(D::NOW).await;
            held.record(None, &step(1)).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            assert_clean(&db, &store, &how).await;
            assert_written(&db, "lease_until", before, lease.duration, &how).await;

            D::soil(&store, *dirt).await;
            held.release().await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            // Otherwise this process could answer the next claim while the only connection is on its way back.
            drop(held);
            assert_clean(&db, &store, &how).await;

            D::soil(&store, *dirt).await;
            let claimed = <D as Database>::Lease::claim(&store, &request("k"), &lease, Intent::Run).await;
            let Ok(Claimed::Run(Attempt { lease: held, number: 2, entries, .. })) = claimed else { panic!("{how}: {:?}", claimed.map(|_| ())) };
            assert_eq!(entries.len(), 2, "{how}");
            D::soil(&store, *dirt).await;
            let before = db.number(D::NOW).await;
            held.complete(None, &Outcome::Reply(reply())).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
            drop(held);
            assert_clean(&db, &store, &how).await;
            assert_written(&db, "completed_at", before, Duration::ZERO, &how).await;
            assert_written(&db, "expires_at", before, hour, &how).await;
            assert_eq!(db.effects().await, 1, "{how}");

            D::soil(&store, *dirt).await;
            let again = <D as Database>::Lease::claim(&store, &request("k"), &lease, Intent::Run).await;
            assert!(matches!(again, Ok(Claimed::Replay(..))), "{how}");
            drop(again);
            assert_clean(&db, &store, &how).await;
            store.pool().close().await;
        }
    }

    async fn r13a_operating_a_store_inherits_nothing(db) {
        let (direct, gauge) = (db.store(2).await, Gauge::new());
        for (run, dirt) in D::DIRT.iter().enumerate() {
            let how = format!("{dirt:?}");
            let office = Office::failing(1);
            assert!(mails::send(&direct, &mail(run, "u1"), &office).await.is_err());
            functions::handle(&direct, &gauge, &Event::of(&run.to_string(), "insert")).await.expect("it ran");
            db.execute("UPDATE idem_records SET expires_at = created_at WHERE operation NOT LIKE 'mails%'").await;

            let store = left(&db, *dirt).await;
            let resumed = mails::go_on(&store, &office).await;
            assert_eq!((resumed.succeeded, resumed.failed), (1, 0), "{how}");
            assert_clean(&db, &store, &how).await;

            D::soil(&store, *dirt).await;
            assert_eq!(store.sweep(&Sweep::default()).await.expect(&how), 1, "{how}");
            assert_clean(&db, &store, &how).await;

            D::soil(&store, *dirt).await;
            let unknown = Identity::new("test", "unknown", "k").expect("an identity");
            assert!(!store.reset_attempts(&unknown).await.expect(&how), "{how}");
            assert_clean(&db, &store, &how).await;

            D::soil(&store, *dirt).await;
            store.migrate().await.expect(&how);
            assert_clean(&db, &store, &how).await;
            store.pool().close().await;
        }
    }

    async fn r13a_nobody_reads_in_an_old_snapshot(db) {
        let (direct, gauge, lease) = (db.store(2).await, Gauge::new(), LeaseTerms::DEFAULT);
        // The record is made after the snapshot was taken.
        let store = left(&db, D::SNAPSHOT).await;
        let event = Event::of("k", "insert");
        let first = functions::handle(&direct, &gauge, &event).await.expect("it ran");
        let again = observe(functions::handle(&store, &gauge, &event)).await;
        assert!(again.replayed);
        assert_eq!(again.result.expect("replayed"), first);
        assert_clean(&db, &store, "a replay").await;

        // A lease is over that was not, then.
        let held = <D as Database>::Lease::claim(&direct, &request("leased"), &lease, Intent::Run).await.expect("an answer");
        let Claimed::Run(Attempt { lease: held, .. }) = held else { panic!("it is claimed") };
        D::soil(&store, D::SNAPSHOT).await;
        held.release().await.expect("released");
        let again = <D as Database>::Lease::claim(&store, &request("leased"), &lease, Intent::Run).await.expect("an answer");
        assert!(matches!(again, Claimed::Run(Attempt { number: 2, .. })));
        assert_clean(&db, &store, "a claim").await;

        // A run is abandoned that was not there, then.
        D::soil(&store, D::SNAPSHOT).await;
        let office = Office::failing(1);
        assert!(mails::send(&direct, &mail("abandoned", "u1"), &office).await.is_err());
        let resumed = mails::go_on(&store, &office).await;
        assert_eq!((resumed.succeeded, resumed.failed), (1, 0));
        assert_clean(&db, &store, "going on").await;
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
    }

    async fn r13a_a_look_up_that_is_given_up_leaves_nothing_behind(db) {
        let (store, gauge, event) = (db.store(1).await, Gauge::new(), Event::of("k", "insert"));
        functions::handle(&store, &gauge, &event).await.expect("it ran");
        for (polls, given_up) in (0..).flat_map(|polls| [(polls, GivenUp::AtOnce), (polls, GivenUp::Woken)]) {
            for dirt in [Dirt::Sql(""), Dirt::Sql("BEGIN; SELECT count(*) FROM idem_records")] {
                D::soil(&store, dirt).await;
                let replay = polled(functions::handle(&store, &gauge, &event), polls, given_up).await;
                // The one that comes next repairs what a stranger has left, and has nothing else to repair.
                if let Dirt::Sql("") = dirt {
                    assert!(D::is_idle(&store).await, "{polls} polls, {given_up:?}: {replay:?}");
                    if replay.is_some() {
                        return;
                    }
                }
                assert!(observe(functions::handle(&store, &gauge, &event)).await.replayed);
                assert!(D::is_idle(&store).await, "{polls} polls, {given_up:?}, {dirt:?}");
            }
        }
    }
}

/// SQLite answers a duplicate of a running request without a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_postgres_a_duplicate_is_told_so_on_any_connection() {
    let db = Postgres::create().await;
    let (gauge, others) = (Gauge::new(), db.store(2).await);
    for (run, dirt) in Postgres::DIRT.iter().enumerate() {
        let event = Event::of(&run.to_string(), "wait");
        let of_run = (others.clone(), gauge.clone(), event.clone());
        let first = tokio::spawn(async move { postgres_functions::handle(&of_run.0, &of_run.1, &of_run.2).await });
        eventually("the first waits", async || gauge.waited() == run + 1).await;
        let store = left(&db, *dirt).await;
        let duplicate = postgres_functions::handle(&store, &gauge, &event).await;
        assert!(matches!(duplicate, Err(Failed::Idem(Kind::KeyInFlight))), "{dirt:?}: {duplicate:?}");
        gauge.open(1);
        first.await.expect("no panic").expect("it ran");
        assert_clean(&db, &store, &format!("{dirt:?}")).await;
        assert_eq!(gauge.entered(), run + 1, "{dirt:?}");
        store.pool().close().await;
    }
}

/// Counts what Postgres says beside its answers. What it warns a client of, it also writes into its log.
struct Notices(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == "sqlx::postgres::notice" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// On one thread, to which the subscriber belongs.
#[tokio::test]
async fn r13a_postgres_has_nothing_to_warn_of_where_nothing_was_left() {
    let db = Postgres::create().await;
    let notices = Arc::new(AtomicUsize::new(0));
    // While there is only one, tracing asks the thread that comes first whether anybody listens, and asks no more.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(Notices(notices.clone())));
    let (store, gauge, office) = (db.store(1).await, Gauge::new(), Office::failing(1));
    let (app, _) = db.app_over(store.clone());
    Postgres::soil(&store, Dirt::Sql("BEGIN; BEGIN; ROLLBACK")).await;
    assert_eq!(notices.swap(0, Ordering::SeqCst), 1, "a warning is seen");

    for act in ["insert", "reject", "fail", "swallow", "swallow_and_reject", "savepoint", "panic"] {
        Call::act(act).key(act).send(&app).await;
        Call::act(act).key(act).send(&app).await;
    }
    Call::new(http::Method::GET, "/act").send(&app).await.expect_fresh(201);
    let event = Event::of("k", "insert");
    for _ in 0..2 {
        postgres_functions::handle(&store, &gauge, &event).await.expect("it ran");
    }
    assert!(postgres_mails::send(&store, &mail("k", "u1"), &office).await.is_err());
    assert_eq!(postgres_mails::go_on(&store, &office).await.succeeded, 1);
    store.sweep(&Sweep::default()).await.expect("swept");
    assert!(Postgres::is_idle(&store).await);
    assert_eq!(notices.load(Ordering::SeqCst), 0);
}

/// With a journal that lets nobody read beside a writer who is about to commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13a_sqlite_a_look_up_that_is_given_up_while_it_waits_leaves_nothing_behind() {
    let (db, gauge, event) = (Sqlite::create().await, Gauge::new(), Event::of("k", "insert"));
    let options = db.options().filename(db.folder().join("other.db")).journal_mode(SqliteJournalMode::Delete);
    let mut writer = SqliteConnection::connect_with(&options).await.expect("a connection");
    let store = SqliteStore::new(SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options));
    store.migrate().await.expect("migrations");
    sqlx::raw_sql("CREATE TABLE effects (who text, what text)").execute(&mut writer).await.expect("a table");
    sqlite_functions::handle(&store, &gauge, &event).await.expect("it ran");

    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut writer).await.expect("the file for itself");
    let replay = sqlite_functions::handle(&store, &gauge, &event);
    tokio::time::timeout(Duration::from_millis(100), replay).await.expect_err("it waits for the writer");
    sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.expect("the end of it");
    assert!(Sqlite::is_idle(&store).await);
    assert!(observe(sqlite_functions::handle(&store, &gauge, &event)).await.replayed);
}
