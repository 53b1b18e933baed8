//! Rule 38: a hint answers what is proven, and nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all, pending, ready};
use idem_core::hint::{Confirmed, Hint, Memory, Name, Secret};
use idem_core::observer::{Outcome, Settled, Source};
use idem_core::operate::Operate;
use idem_core::seal::{Keyring, SealKey};
use idem_core::store::{self, Claimed, Format, Intent, Lease, LeaseTerms, Reply};
use idem_core::{Fingerprint, Identity, Kind, Request, Steps, ToScope};
use idem_testkit::logs::CANARY;
use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;

use crate::client::{Call, eventually};
use crate::observer::Recorder;
use crate::support::{Database, Postgres};

/// A hint whose values a test can see and change.
#[derive(Clone)]
pub struct Shelf {
    values: Arc<Mutex<HashMap<Name, Bytes>>>,
    is_silent: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    secret: Secret,
    source: Source,
}

impl Shelf {
    fn of(source: Source) -> Self {
        let secret = Secret::random().expect("randomness");
        Self { values: Arc::default(), is_silent: Arc::default(), asked: Arc::default(), secret, source }
    }

    fn values(&self) -> HashMap<Name, Bytes> {
        self.values.lock().expect("the values").clone()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Name, Bytes>)) {
        change(&mut self.values.lock().expect("the values"));
    }

    /// Gives each name the value of another one.
    fn swap(&self) {
        self.change(|values| {
            let mut others: Vec<_> = values.values().cloned().collect();
            let by = others.len().min(1);
            others.rotate_left(by);
            values.values_mut().zip(others).for_each(|(value, other)| *value = other);
        });
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Hint for Shelf {
    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Option<Bytes>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_silent.load(Ordering::SeqCst) {
            return Box::pin(pending());
        }
        Box::pin(ready(self.values().get(name).cloned()))
    }

    fn put<'a>(&'a self, name: &'a Name, value: Bytes, _lifetime: Duration) -> BoxFuture<'a, ()> {
        self.change(|values| drop(values.insert(*name, value)));
        Box::pin(ready(()))
    }

    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, ()> {
        self.change(|values| drop(values.remove(name)));
        Box::pin(ready(()))
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn source(&self) -> Source {
        self.source
    }
}

fn last(recorder: &Recorder, outcome: Outcome) -> Settled {
    recorder.settled(outcome).last().copied().expect("a settled request")
}

/// Replays it until a hint answers.
async fn known(app: &axum::Router, recorder: &Recorder, call: &Call, source: Source) {
    eventually("a hint answers", async || {
        let answer = call.send(app).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        recorder.settled(Outcome::Replay).last().is_some_and(|replay| replay.source == source)
    })
    .await;
}

/// The store of another process has nothing in common with this one but the database.
fn memory() -> Memory {
    Memory::new(1024 * 1024)
}

both! {
    async fn r38_a_retry_is_answered_from_memory_and_a_new_request_is_not(db) {
        let recorder = Recorder::default();
        let (app, _) = db.app_over(db.hinted_store(8, memory(), recorder.clone()).await);
        let first = Call::act("insert").send(&app).await;
        first.expect_fresh(201);
        known(&app, &recorder, &Call::act("insert"), Source::Memory).await;
        // The reply of a run is known from its commit on.
        for key in 0..10 {
            let call = Call::act("insert").key(&format!("k{key}-new"));
            let first = call.send(&app).await;
            first.expect_fresh(201);
            assert_eq!(last(&recorder, Outcome::Run).source, Source::Sql);
            call.send(&app).await.expect_replay_of(&first);
            let replay = last(&recorder, Outcome::Replay);
            assert_eq!(replay.source, Source::Memory);
            assert!(replay.age.is_some_and(|age| age < Duration::from_secs(60)), "{replay:?}");
            // The database says what a hint must not.
            Call::act("other").key(&format!("k{key}-new")).send(&app).await.expect(422, "key_reused");
            assert_eq!(last(&recorder, Outcome::KeyReused).source, Source::Sql);
        }
        assert_eq!(db.effects().await, 11);
        // A process that has just started learns from the database.
        let (again, told) = (Recorder::default(), Recorder::default());
        let (app, _) = db.app_over(db.hinted_store(8, memory(), told.clone()).await);
        known(&app, &told, &Call::act("insert"), Source::Memory).await;
        let (app, _) = db.app_over(db.observed_store(8, again.clone()).await);
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        assert_eq!(again.only(Outcome::Replay).source, Source::Sql, "a store without hints");
    }

    async fn r38_a_forgotten_record_runs_again_after_two_seconds_at_most(db) {
        let recorder = Recorder::default();
        let store = db.hinted_store(8, memory(), recorder.clone()).await;
        let (app, _) = db.app_over(store.clone());
        let call = Call::act("insert");
        known(&app, &recorder, &call, Source::Memory).await;
        let scope = format!("u1{CANARY}").to_scope().expect("a scope");
        // Another process does it.
        let forgotten = db.store(1).await.forget(&scope, true).await.expect("counted");
        assert_eq!(forgotten.removed, 1);
        known(&app, &recorder, &call, Source::Memory).await;
        db.store(1).await.forget(&scope, false).await.expect("forgotten");
        let forgotten_at = Instant::now();
        eventually("it runs again", async || !call.send(&app).await.replayed()).await;
        assert!(forgotten_at.elapsed() < Confirmed::LIFE + Duration::from_secs(1), "{:?}", forgotten_at.elapsed());
        assert_eq!(db.effects().await, 2);
        known(&app, &recorder, &call, Source::Memory).await;
        assert_eq!(db.effects().await, 2);
    }

    async fn r38_an_operator_ends_the_epoch(db) {
        let recorder = Recorder::default();
        let (app, _) = db.app_over(db.hinted_store(8, memory(), recorder.clone()).await);
        let call = Call::act("insert");
        known(&app, &recorder, &call, Source::Memory).await;
        // A backup is restored in which there is no such record.
        db.execute("DELETE FROM idem_records").await;
        known(&app, &recorder, &call, Source::Memory).await;
        db.store(1).await.new_epoch().await.expect("a new epoch");
        eventually("it runs again", async || !call.send(&app).await.replayed()).await;
        // If somebody has removed its row, it gets one again.
        db.execute("DELETE FROM idem_epoch").await;
        db.store(1).await.new_epoch().await.expect("a new epoch");
        known(&app, &recorder, &call, Source::Memory).await;
    }

    async fn r38_a_hint_ends_before_the_record_does(db) {
        let recorder = Recorder::default();
        let (app, _) = db.app_over(db.hinted_store(8, memory(), recorder.clone()).await);
        known(&app, &recorder, &Call::act("insert"), Source::Memory).await;
        let call = Call::to("/short", "insert").key("brief");
        call.send(&app).await.expect_fresh(201);
        let began = Instant::now();
        call.send(&app).await;
        assert_eq!(last(&recorder, Outcome::Replay).source, Source::Memory);
        eventually("its record has expired", async || !call.send(&app).await.replayed()).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(db.effects().await, 3);
    }

    async fn r38_no_hint_answers_for_a_database_that_does_not_confirm_its_epoch(db) {
        let recorder = Recorder::default();
        let (app, _) = db.app_over(db.hinted_store(8, memory(), recorder.clone()).await);
        let call = Call::act("insert");
        known(&app, &recorder, &call, Source::Memory).await;
        db.execute("DELETE FROM idem_epoch").await;
        known(&app, &recorder, &call, Source::Sql).await;
        for _ in 0..3 {
            assert!(call.send(&app).await.replayed());
            assert_eq!(last(&recorder, Outcome::Replay).source, Source::Sql);
        }
        assert_eq!(db.effects().await, 1);
    }

    async fn r38_forged_swapped_and_lost_values_change_no_answer(db) {
        let recorder = Recorder::default();
        let shelf = Shelf::of(Source::Redis);
        let (app, gauge) = db.app_over(db.hinted_store(8, shelf.clone(), recorder.clone()).await);
        // All have the same fingerprint, and each reply names its user.
        let calls: Vec<_> = (0..8).map(|user| Call::act("insert").user(&format!("u{user}"))).collect();
        let firsts = join_all(calls.iter().map(|call| call.send(&app))).await;
        for (call, first) in calls.iter().zip(&firsts) {
            known(&app, &recorder, call, Source::Redis).await;
            call.send(&app).await.expect_replay_of(first);
        }
        assert_eq!(shelf.values().len(), 8);
        let faults: [fn(&Shelf); 5] = [
            Shelf::swap,
            |shelf| shelf.change(HashMap::clear),
            |shelf| shelf.change(|values| values.values_mut().for_each(|value| *value = Bytes::from_static(b"theirs"))),
            |shelf| shelf.change(|values| values.values_mut().for_each(|value| value.truncate(value.len() / 2))),
            |shelf| shelf.is_silent.store(true, Ordering::SeqCst),
        ];
        // While 64 clients retry.
        let is_over = AtomicBool::new(false);
        let clients = join_all((0..64).map(|client| {
            let (app, call, first, is_over) = (&app, &calls[client % 8], &firsts[client % 8], &is_over);
            async move {
                while !is_over.load(Ordering::SeqCst) {
                    let answer = call.send(app).await;
                    answer.expect_replay_of(first);
                    // A replay from memory never waits.
                    sleep(Duration::from_micros(100)).await;
                }
            }
        }));
        let chaos = async {
            for fault in faults.iter().cycle().take(20) {
                fault(&shelf);
                sleep(Duration::from_millis(20)).await;
                shelf.is_silent.store(false, Ordering::SeqCst);
            }
            is_over.store(true, Ordering::SeqCst);
        };
        tokio::join!(clients, chaos);
        assert_eq!((gauge.entered(), db.effects().await), (8, 8));
        let sources: Vec<_> = recorder.settled(Outcome::Replay).iter().map(|replay| replay.source).collect();
        assert!(sources.contains(&Source::Sql) && sources.contains(&Source::Redis));
    }

    async fn r38_a_hint_outside_the_process_is_asked_for_a_probable_retry_alone(db) {
        let recorder = Recorder::default();
        let shelf = Shelf::of(Source::Redis);
        let (app, _) = db.app_over(db.hinted_store(8, shelf.clone(), recorder.clone()).await);
        for key in 0..5 {
            Call::act("insert").key(&format!("k{key}-new")).send(&app).await.expect_fresh(201);
        }
        assert_eq!(shelf.asked(), 0, "new requests do not wait for it");
        known(&app, &recorder, &Call::act("insert").key("k4-new"), Source::Redis).await;
        assert!(shelf.asked() > 0);
        // A silent server costs some milliseconds.
        shelf.is_silent.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let answer = Call::act("insert").key("k4-new").send(&app).await;
        assert!(answer.replayed() && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(last(&recorder, Outcome::Replay).source, Source::Sql);
    }

    async fn r38_a_released_run_leaves_no_hint(db) {
        let recorder = Recorder::default();
        let shelf = Shelf::of(Source::Memory);
        let (app, _) = db.app_over(db.hinted_store(8, shelf.clone(), recorder.clone()).await);
        known(&app, &recorder, &Call::act("insert"), Source::Memory).await;
        for what in ["fail", "release_ok", "panic"] {
            let call = Call::act(what).key(what);
            for _ in 0..3 {
                assert!(!call.send(&app).await.replayed());
            }
        }
        assert_eq!(shelf.values().len(), 1);
        // A rejection is an answer that is stored.
        let rejected = Call::act("reject").key("reject");
        let first = rejected.send(&app).await;
        rejected.send(&app).await.expect_replay_of(&first);
        assert_eq!(last(&recorder, Outcome::Replay).source, Source::Memory);
    }

    async fn r38_a_duplicate_of_a_leased_run_is_answered_by_its_process(db) {
        let store = db.hinted_store(8, memory(), Recorder::default()).await;
        let claim = async |what: &str| {
            let identity = Identity::new("scope", "pay", "k").expect("an identity");
            let fingerprint = Fingerprint::of_value(what).expect("a fingerprint");
            let request = Request::new(identity, fingerprint, Duration::from_secs(3600)).expect("a request");
            let terms = LeaseTerms::DEFAULT.lasting(Duration::from_secs(2));
            <D as Database>::Lease::claim(&store, &request, &terms, Intent::Run).await.expect("an answer")
        };
        let refused = async |what: &str| match claim(what).await {
            Claimed::Refuse(kind) => Some(kind),
            _ => None,
        };
        let Claimed::Run(attempt) = claim("this").await else { panic!("it runs") };
        // Nobody can ask the database about it.
        db.execute("ALTER TABLE idem_records RENAME TO away").await;
        for _ in 0..10 {
            assert_eq!(refused("this").await, Some(Kind::KeyInFlight));
            assert_eq!(refused("that").await, Some(Kind::KeyReused));
        }
        db.execute("ALTER TABLE away RENAME TO idem_records").await;
        attempt.lease.renew().await.expect("held");
        // Without a renewal, only the database knows.
        eventually("the lease has ended", async || refused("this").await.is_none()).await;
    }

    async fn r38_another_request_under_a_key_learns_no_reply_of_it(db) {
        let request = |what: &str| {
            let identity = Identity::new("scope", "pay", "k").expect("an identity");
            let fingerprint = Fingerprint::of_value(what).expect("a fingerprint");
            Request::new(identity, fingerprint, Duration::from_secs(3600)).expect("a request")
        };
        let terms = LeaseTerms::DEFAULT;
        let (plain, this) = (db.store(1).await, request("this"));
        let claimed = <D as Database>::Lease::claim(&plain, &this, &terms, Intent::Run).await.expect("an answer");
        let Claimed::Run(attempt) = claimed else { panic!("it runs") };
        let (headers, body) = (Bytes::new(), Bytes::from_static(b"this"));
        let reply = Reply { format: Format::HTTP, status: Some(201), headers, body };
        attempt.lease.complete(None, &store::Outcome::Reply(reply)).await.expect("completed");
        let store = db.hinted_store(8, memory(), Recorder::default()).await;
        let began = Instant::now();
        // Longer than the database takes to confirm its epoch, so that something is kept.
        while began.elapsed() < Duration::from_millis(300) {
            let refused = idem_core::begin::<Steps<<D as Database>::Lease>>(&store, &request("that")).await;
            assert_eq!(refused.err().map(|error| error.kind()), Some(Kind::KeyReused));
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn r38_a_sealed_reply_is_sealed_in_the_hint(db) {
        let (recorder, shelf) = (Recorder::default(), Shelf::of(Source::Memory));
        let keyring = || Keyring::new(1, SealKey::from_bytes([1; 32]));
        let (app, _) = db.app_over(db.sealed_hinted_store(keyring(), shelf.clone(), recorder.clone()).await);
        let call = Call::act("insert");
        let first = call.send(&app).await;
        known(&app, &recorder, &call, Source::Memory).await;
        call.send(&app).await.expect_replay_of(&first);
        let values: Vec<u8> = shelf.values().values().flat_map(|value| value.to_vec()).collect();
        let has = |word: &[u8]| values.windows(word.len()).any(|window| window == word);
        assert!(!values.is_empty() && !has(b"run 1 for") && !has(b"/effects/1") && !has(CANARY.as_bytes()));
        // A key that is gone is for the database to tell.
        let other = Keyring::new(2, SealKey::from_bytes([2; 32]));
        let told = Recorder::default();
        let (app, _) = db.app_over(db.sealed_hinted_store(other, shelf, told.clone()).await);
        for _ in 0..50 {
            call.send(&app).await.expect(500, "record_unreadable");
            sleep(Duration::from_millis(2)).await;
        }
        assert!(told.settled(Outcome::Refused).iter().all(|refused| refused.source == Source::Sql));
    }
}

/// While nobody can read the records, and while the pool is exhausted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_replay_from_memory_needs_no_connection() {
    let db = Postgres::create().await;
    let recorder = Recorder::default();
    let (app, gauge) = db.app_over(db.hinted_store(1, memory(), recorder.clone()).await);
    let call = Call::act("insert");
    known(&app, &recorder, &call, Source::Memory).await;
    let mut locked = db.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("LOCK TABLE idem_records").execute(&mut *locked).await.expect("a lock");
    for _ in 0..20 {
        assert!(call.send(&app).await.replayed());
    }
    locked.rollback().await.expect("no lock");
    let (running, ()) = tokio::join!(async { Call::act("wait").key("wait").send(&app).await }, async {
        eventually("it has the only connection", async || gauge.waited() == 1).await;
        let began = Instant::now();
        // Longer than an answer of the database counts: it is asked beside the pool.
        while began.elapsed() < Confirmed::LIFE + Duration::from_millis(500) {
            assert!(call.send(&app).await.replayed());
            assert_eq!(last(&recorder, Outcome::Replay).source, Source::Memory);
            Call::act("wait").key("wait").send(&app).await.expect(409, "key_in_flight");
            sleep(Duration::from_millis(10)).await;
        }
        gauge.open(1);
    });
    running.expect_fresh(201);
}

/// The others wait without a connection, and its answer is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_one_request_looks_up_what_many_ask() {
    let db = Postgres::create().await;
    let first = Call::act("insert").send(&db.app().await.0).await;
    let recorder = Recorder::default();
    let store = db.hinted_store(8, memory(), recorder.clone()).await;
    let (app, _) = db.app_over(store.clone());
    known(&app, &recorder, &Call::act("insert").key("other"), Source::Memory).await;
    let told = recorder.settled(Outcome::Replay).len();
    let mut locked = db.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("LOCK TABLE idem_records").execute(&mut *locked).await.expect("a lock");
    let requests = join_all((0..50).map(|_| async {
        let app = app.clone();
        tokio::spawn(async move { Call::act("insert").send(&app).await }).await.expect("no panic")
    }));
    let held = async {
        let used = || store.pool().size() as usize - store.pool().num_idle();
        eventually("one looks it up", async || used() >= 1).await;
        sleep(Duration::from_millis(100)).await;
        let used = used();
        locked.rollback().await.expect("no lock");
        used
    };
    let (answers, used) = tokio::join!(requests, held);
    // The other one may have been asking for the epoch.
    assert!(used <= 2, "{used} connections");
    answers.iter().for_each(|answer| answer.expect_replay_of(&first));
    let replays = recorder.settled(Outcome::Replay);
    let from_sql = replays[told..].iter().filter(|replay| replay.source == Source::Sql).count();
    assert_eq!((replays.len() - told, from_sql), (50, 1));
}

/// The row alone is an epoch, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_a_role_may_lack_the_right_to_see_the_system() {
    let db = Postgres::create().await;
    let role = format!("{}_role", db.name());
    db.execute(&format!(
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
        CREATE ROLE {role} LOGIN;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await;
    let (options, role_name) = (db.options(), role.clone());
    let pool = PgPoolOptions::new().max_connections(4).after_connect(move |connection, _| {
        let set = sqlx::AssertSqlSafe(format!("SET ROLE {role_name}"));
        Box::pin(async move { sqlx::raw_sql(set).execute(connection).await.map(|_| ()) })
    });
    let pool = pool.connect_with(options).await.expect("a pool");
    let recorder = Recorder::default();
    let store = Postgres::builder_over(pool).hint(memory()).observer(recorder.clone()).build();
    let (app, _) = db.app_over(store.clone());
    known(&app, &recorder, &Call::act("insert"), Source::Memory).await;
    store.new_epoch().await.expect("a new epoch");
    db.execute("DELETE FROM idem_records").await;
    eventually("it runs again", async || !Call::act("insert").send(&app).await.replayed()).await;
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// The epoch has the timeline of the server in it, and not the place in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_another_file_of_the_log_is_no_other_epoch() {
    let db = Postgres::create().await;
    let recorder = Recorder::default();
    let (app, _) = db.app_over(db.hinted_store(8, memory(), recorder.clone()).await);
    known(&app, &recorder, &Call::act("insert"), Source::Memory).await;
    db.execute("SELECT pg_switch_wal()").await;
    let switched = Instant::now();
    while switched.elapsed() < Confirmed::LIFE {
        Call::act("insert").send(&app).await;
        assert_eq!(last(&recorder, Outcome::Replay).source, Source::Memory);
        sleep(Duration::from_millis(20)).await;
    }
}
