//! A connection that falls silent in the middle of a statement, without being closed.

use std::time::{Duration, Instant};

use idem_core::store::{Claimed, Context, Outcome};
use idem_core::{Fingerprint, Identity, Kind, Request, observe};
use idem_sqlx::{Distance, PgStore, PgStoreBuilder, PgTx, Sweep};
use sqlx::postgres::PgPoolOptions;

use crate::app::Gauge;
use crate::client::{Call, eventually};
use crate::pay::{paid, postgres_steps};
use crate::plain::{Event, postgres_functions};
use crate::proxy::{Fault, Proxy};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};

const DEADLINE: Duration = Duration::from_millis(300);

/// For each: a claim, its completion, its COMMIT, and a look-up behind that, with a connection to be opened for it.
const AT_MOST: Duration = Duration::from_secs(3);

/// A store of one connection behind the proxy.
async fn behind(proxy: &Proxy, db: &Postgres) -> PgStore {
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(DEADLINE).connect_with(options);
    let builder =
        Postgres::builder_over(pool.await.expect("a pool")).statement_deadline(DEADLINE).commit_deadline(DEADLINE);
    // A handler's own statement ends with its run.
    builder.deadline(2 * DEADLINE).build()
}

/// Each message of the work falls silent once, by itself. Returns how many there were.
async fn each_message(
    db: &Postgres,
    mut work: impl AsyncFnMut(&PgStore, usize) -> bool,
    mut then: impl AsyncFnMut(usize, bool),
) -> usize {
    let proxy = Proxy::before(&db.options()).await;
    for messages in 0.. {
        let through = behind(&proxy, db).await;
        // Its tables are found, and its statements are prepared.
        work(&through, usize::MAX - messages).await;
        let struck = proxy.struck();
        proxy.at_message(messages, Fault::Hang);
        let began = Instant::now();
        let done = tokio::time::timeout(Duration::from_secs(30), work(&through, messages)).await.expect("an end");
        assert!(began.elapsed() < AT_MOST, "message {messages}: {:?}", began.elapsed());
        let has_struck = proxy.struck() > struck;
        proxy.at_next_commit(Fault::None);
        // The pool's one connection is not lost with the silent one.
        eventually("a connection", async || through.pool().acquire().await.is_ok()).await;
        then(messages, done).await;
        if !has_struck {
            assert!(done, "without a fault");
            return messages;
        }
    }
    unreachable!("a request has an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_a_connection_that_falls_silent_holds_no_function() {
    let db = Postgres::create().await;
    let (gauge, direct) = (Gauge::new(), db.store(2).await);
    let work = async |store: &PgStore, id: usize| {
        postgres_functions::handle(store, &gauge, &Event::of(&id.to_string(), "insert")).await.is_ok()
    };
    let then = async |id: usize, was_done: bool| {
        let event = Event::of(&id.to_string(), "insert");
        let retry = async || postgres_functions::handle(&direct, &gauge, &event).await.is_ok();
        eventually("the retry", retry).await;
        let again = observe(postgres_functions::handle(&direct, &gauge, &event)).await;
        assert!(again.replayed, "{id}, {was_done}");
    };
    let messages = each_message(&db, work, then).await;
    assert!(messages >= 5, "BEGIN, the claim, the savepoint, the completion, COMMIT: {messages}");
    let (events, effects) = (db.records().await, db.effects().await);
    assert_eq!(events, effects, "each event has one effect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_a_connection_that_falls_silent_holds_no_replay_and_no_release() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    for act in ["insert", "fail", "reject"] {
        for messages in 0.. {
            let through = behind(&proxy, &db).await;
            let (app, _) = db.app_over(through.clone());
            let call = Call::act(act).key(&format!("{act} {messages}"));
            let first = call.send(&app).await;
            let struck = proxy.struck();
            proxy.at_message(messages, Fault::Hang);
            let began = Instant::now();
            let again = tokio::time::timeout(Duration::from_secs(30), call.send(&app)).await.expect("an end");
            assert!(began.elapsed() < AT_MOST, "{act}, message {messages}: {:?}", began.elapsed());
            assert!(again.status == first.status || again.status == 503, "{again:?}");
            let has_struck = proxy.struck() > struck;
            proxy.at_next_commit(Fault::None);
            eventually("the drain", async || through.drain(DEADLINE).await).await;
            if !has_struck {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_postgres_a_connection_that_falls_silent_holds_no_leased_run() {
    let db = Postgres::create().await;
    let (script, direct) = (Script::default(), db.store(2).await);
    let work = async |store: &PgStore, id: usize| {
        postgres_steps::pay(store, "u1", &id.to_string(), "order", &script).await.is_ok()
    };
    let then = async |id: usize, _: bool| {
        let id = id.to_string();
        let retry = async || {
            db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
            db.end_pauses().await;
            postgres_steps::pay(&direct, "u1", &id, "order", &script).await.is_ok()
        };
        eventually("the retry", retry).await;
        assert_eq!(postgres_steps::pay(&direct, "u1", &id, "order", &script).await.expect("a replay"), paid());
    };
    let messages = each_message(&db, work, then).await;
    assert!(messages >= 15, "a claim, three steps and an end: {messages}");
    assert_eq!(db.effects().await, 2 * db.records().await, "a reservation and a confirmation each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_postgres_a_renewal_that_falls_silent_is_made_again() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(DEADLINE).connect_lazy_with(options);
    let (through, script) = (Postgres::builder_over(pool).statement_deadline(DEADLINE).build(), Script::default());
    script.act("charge", Act::Wait);
    let run = postgres_steps::pay_briefly(&through, "u1", "k", "order", &script);
    let silence = async {
        script.until_entered("charge").await;
        proxy.at_message(0, Fault::Hang);
        eventually("a renewal is struck", async || proxy.struck() == 1).await;
        eventually("two leases", async || db.seconds_since_claim().await > 4.0).await;
        script.open();
    };
    let (result, ()) = tokio::join!(run, silence);
    assert_eq!((result.expect("paid"), script.attempts()), (paid(), vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_postgres_a_connection_that_falls_silent_holds_no_sweep() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    for messages in 0.. {
        let through = behind(&proxy, &db).await;
        through.sweep(&Sweep::default()).await.expect("swept");
        let struck = proxy.struck();
        proxy.at_message(messages, Fault::Hang);
        let began = Instant::now();
        let swept =
            tokio::time::timeout(Duration::from_secs(30), through.sweep(&Sweep::default())).await.expect("an end");
        assert!(began.elapsed() < AT_MOST, "message {messages}: {:?}", began.elapsed());
        let has_struck = proxy.struck() > struck;
        proxy.at_next_commit(Fault::None);
        if !has_struck {
            assert_eq!(swept.expect("swept"), 0);
            break;
        }
    }
}

/// A pool that does not ask a connection before it hands it out meets the silence in the look-up of a replay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_postgres_a_look_up_that_is_given_up_in_a_silence_keeps_no_place_in_the_pool() {
    let db = Postgres::create().await;
    let proxy = Proxy::before(&db.options()).await;
    let options = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(DEADLINE).test_before_acquire(false);
    let pool = pool.connect_with(options).await.expect("a pool");
    let store = Postgres::builder_over(pool).statement_deadline(DEADLINE).commit_deadline(DEADLINE).build();
    let (gauge, event) = (Gauge::new(), Event::of("k", "insert"));
    postgres_functions::handle(&store, &gauge, &event).await.expect("it runs");
    eventually("the connection is back", async || store.pool().num_idle() == 1).await;
    proxy.at_message(0, Fault::Hang);
    let given_up = tokio::time::timeout(DEADLINE / 3, postgres_functions::handle(&store, &gauge, &event)).await;
    assert!(given_up.is_err() && proxy.struck() == 1, "{given_up:?}");
    eventually("the replay", async || observe(postgres_functions::handle(&store, &gauge, &event)).await.replayed).await;
    assert_eq!(gauge.entered(), 1);
}

/// A transaction that sends nothing more: to the server, that is a host that has lost its power.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12a_postgres_a_host_that_is_gone_keeps_its_key_for_a_limited_time() {
    let db = Postgres::create().await;
    keeps_its_key_for_a_limited_time(&db, db.builder(1).await, false).await;
}

/// The claim in the message of BEGIN meets the expired record, so the transaction begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12a_postgres_so_does_a_host_far_away_that_replaces_an_expired_record() {
    let db = Postgres::create().await;
    keeps_its_key_for_a_limited_time(&db, db.builder(1).await.distance(Distance::Farthest), true).await;
}

async fn keeps_its_key_for_a_limited_time(db: &Postgres, gone: PgStoreBuilder, has_expired: bool) {
    const LIMIT: Duration = Duration::from_millis(700);
    let (gone, elsewhere) = (gone.idle_limit(LIMIT).build(), db.store(1).await);
    gone.migrate().await.expect("functions");
    let identity = Identity::new("test", "silence", "k").expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request");
    if has_expired {
        let claimed = PgTx::claim(&elsewhere, &request).await.expect("an answer");
        let Claimed::Run(tx) = claimed else { panic!("a new key") };
        tx.complete(&Outcome::Oversized).await.expect("a commit");
        db.expire().await;
    }
    let began = Instant::now();
    let claimed = PgTx::claim(&gone, &request).await.expect("an answer");
    let Claimed::Run(mut held) = claimed else { panic!("a new key") };
    sqlx::query("INSERT INTO effects VALUES ('gone', 'host')").execute(&mut held).await.expect("an effect");
    let retry = async || match PgTx::claim(&elsewhere, &request).await.expect("an answer") {
        Claimed::Run(tx) => tx.complete(&Outcome::Oversized).await.is_ok(),
        Claimed::Refuse(kind) => {
            assert_eq!(kind, Kind::KeyInFlight);
            false
        }
        other => panic!("{other:?}"),
    };
    eventually("the key is free", retry).await;
    assert!(began.elapsed() >= LIMIT);
    held.complete(&Outcome::Oversized).await.expect_err("the server has ended it");
    assert_eq!((db.effects().await, db.records().await), (0, 1));
}
