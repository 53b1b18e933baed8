//! Rule 34: each settled request is one event, and no event has content in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use idem_core::observer::{Backlog, Event, Metrics, Observer, Outcome, Settled, Source};
use idem_core::{Disposition, Fingerprint, Identity, Kind, Request, Start};
use idem_sqlx::Sweep;
use idem_testkit::logs::CANARY;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sqlx::postgres::PgPoolOptions;

use crate::app::Gauge;
use crate::client::{Call, eventually};
use crate::proxy::{Fault, Proxy};
use crate::script::{Act, Script};
use crate::support::{Database, Postgres};
use crate::{pay, plain};

/// Notes what it is told: the settled requests, and a word for each other event.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Told>>);

/// Counts what it is told with [`Metrics`], into a recorder of its own.
#[derive(Clone, Default)]
struct Counters(Arc<DebuggingRecorder>);

impl Observer for Counters {
    fn observe(&self, event: &Event<'_>) {
        metrics::with_local_recorder(&*self.0, || Metrics::new().observe(event));
    }
}

impl Counters {
    /// Every counter with its labels, but for the name of the operation, and its value.
    fn all(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        for (key, _, _, value) in self.0.snapshotter().snapshot().into_vec() {
            let (_, key) = key.into_parts();
            let labels = key.labels().filter(|label| label.key() != "operation");
            let labels: Vec<_> = labels.map(|label| format!("{}={}", label.key(), label.value())).collect();
            if let DebugValue::Counter(count) = value {
                counters.insert(format!("{} {}", key.name(), labels.join(" ")), count);
            }
        }
        counters
    }

    /// Each of these counters is 1, and there is no other.
    #[track_caller]
    fn expect_one_each(&self, counters: &[&str]) {
        let expected: BTreeMap<_, _> = counters.iter().map(|counter| ((*counter).to_owned(), 1)).collect();
        assert_eq!(self.all(), expected);
    }
}

/// What one run, one conflict, one replay, one reuse and one late retry count.
const ONE_OF_EACH: [&str; 8] = [
    "idem.answers.failed code=key_in_flight",
    "idem.answers.failed code=key_reused",
    "idem.answers.failed code=retry_too_late",
    "idem.requests outcome=in_flight source=sql",
    "idem.requests outcome=key_reused source=sql",
    "idem.requests outcome=replay source=sql",
    "idem.requests outcome=run source=sql",
    "idem.requests outcome=too_late source=sql",
];

#[derive(Default)]
struct Told {
    settled: Vec<Settled>,
    others: BTreeMap<String, usize>,
    backlog: Option<Backlog>,
    debug: String,
}

impl Observer for Recorder {
    fn observe(&self, event: &Event<'_>) {
        let mut told = self.0.lock().expect("what was told");
        told.debug += &format!("{event:?}\n");
        let word = match event {
            Event::Settled(settled) => return told.settled.push(*settled),
            Event::Backlog(backlog) => return told.backlog = Some(*backlog),
            Event::RunBegan { attempt, .. } => format!("began {attempt}"),
            Event::TakenOver { attempt, .. } => format!("taken over {attempt}"),
            Event::LeaseLost { .. } => "lost".to_owned(),
            Event::CommitUnknown { verdict, .. } => format!("commit unknown {verdict:?}"),
            Event::Step { step, result, .. } => format!("{step} {}", result.as_str()),
            Event::Undo { step, result, .. } => format!("undo {step} {}", result.as_str()),
            Event::Swept { removed } => format!("swept {removed}"),
            other => format!("{other:?}"),
        };
        *told.others.entry(word).or_default() += 1;
    }
}

impl Recorder {
    /// How many requests had each outcome.
    fn outcomes(&self) -> BTreeMap<&'static str, usize> {
        let mut outcomes = BTreeMap::new();
        for settled in &self.0.lock().expect("what was told").settled {
            *outcomes.entry(settled.outcome.as_str()).or_default() += 1;
        }
        outcomes
    }

    fn settled(&self, outcome: Outcome) -> Vec<Settled> {
        let told = self.0.lock().expect("what was told");
        told.settled.iter().filter(|settled| settled.outcome == outcome).copied().collect()
    }

    /// The one request with this outcome.
    fn only(&self, outcome: Outcome) -> Settled {
        let settled = self.settled(outcome);
        assert_eq!(settled.len(), 1, "{settled:?}");
        settled[0]
    }

    fn others(&self) -> Vec<(String, usize)> {
        self.0.lock().expect("what was told").others.clone().into_iter().collect()
    }

    fn count(&self, word: &str) -> usize {
        self.0.lock().expect("what was told").others.get(word).copied().unwrap_or(0)
    }

    fn backlog(&self) -> Option<Backlog> {
        self.0.lock().expect("what was told").backlog
    }

    /// No event has a scope, a key, or a word of a request or reply: the tests' clients and handlers put one into each.
    fn expect_no_content(&self) {
        let told = self.0.lock().expect("what was told");
        assert!(!told.debug.is_empty());
        assert!(!told.debug.contains(CANARY), "{}", told.debug);
    }
}

fn one_of_each(outcomes: &[&'static str]) -> BTreeMap<&'static str, usize> {
    outcomes.iter().map(|outcome| (*outcome, 1)).collect()
}

both! {
    async fn r34_one_of_each_request_over_http_is_told_once(db) {
        let recorder = Recorder::default();
        let (app, gauge) = db.app_over(db.observed_store(8, recorder.clone()).await);
        let call = Call::act("wait");
        let duplicate = async {
            eventually("it runs", async || gauge.entered() == 1).await;
            call.send(&app).await.expect(409, "key_in_flight");
            gauge.open(1);
        };
        let (first, ()) = tokio::join!(call.send(&app), duplicate);
        first.expect_fresh(201);
        call.send(&app).await.expect_replay_of(&first);
        Call::act("insert").send(&app).await.expect(422, "key_reused");
        assert_eq!(recorder.outcomes(), one_of_each(&["run", "in_flight", "replay", "key_reused"]));
        assert_eq!(recorder.others(), [("began 1".to_owned(), 1)]);

        let run = recorder.only(Outcome::Run);
        assert_eq!((run.operation, run.kind, run.attempt, run.source), ("act", None, Some(1), Source::Sql));
        assert_eq!((run.disposition, run.age, run.is_oversized), (Some(Disposition::Commit), None, false));
        assert!(run.run.is_some() && run.commit.is_some() && run.reply_size.is_some_and(|size| size > 0), "{run:?}");
        let replay = recorder.only(Outcome::Replay);
        assert_eq!((replay.kind, replay.attempt, replay.run, replay.commit), (None, None, None, None));
        assert!(replay.age.is_some_and(|age| age < Duration::from_secs(60)), "{replay:?}");
        assert_eq!(replay.reply_size, run.reply_size);
        assert_eq!(recorder.only(Outcome::InFlight).kind, Some(Kind::KeyInFlight));
        assert_eq!(recorder.only(Outcome::KeyReused).kind, Some(Kind::KeyReused));
        recorder.expect_no_content();
    }

    async fn r34_one_of_each_call_of_a_plain_function_is_told_once(db) {
        let recorder = Recorder::default();
        let (store, gauge) = (db.observed_store(8, recorder.clone()).await, Gauge::new());
        let event = plain::Event::of("e1", "wait");
        let duplicate = async {
            eventually("it runs", async || gauge.entered() == 1).await;
            assert!(functions::handle(&store, &gauge, &event).await.is_err());
            gauge.open(1);
        };
        let (first, ()) = tokio::join!(functions::handle(&store, &gauge, &event), duplicate);
        assert!(first.is_ok());
        assert!(functions::handle(&store, &gauge, &event).await.is_ok());
        assert!(functions::handle(&store, &gauge, &plain::Event::of("e1", "insert")).await.is_err());
        assert!(functions::handle(&store, &gauge, &plain::Event { id: None, ..event.clone() }).await.is_err());
        assert!(functions::handle(&store, &gauge, &plain::Event::of("e2", "later")).await.is_err());
        assert!(functions::reject(&gauge, &store, &plain::Event::of("e3", "final")).await.is_err());
        let expected = ["run", "in_flight", "replay", "key_reused", "key_missing", "released", "rejected"];
        assert_eq!(recorder.outcomes(), one_of_each(&expected));
        assert_eq!(recorder.others(), [("began 1".to_owned(), 3)]);
        assert_eq!(recorder.only(Outcome::Released).disposition, Some(Disposition::Release));
        assert_eq!(recorder.only(Outcome::Rejected).disposition, Some(Disposition::Reject));
        recorder.expect_no_content();
    }

    async fn r34_one_of_each_request_of_a_leased_run_is_told_once(db) {
        let recorder = Recorder::default();
        let (store, script) = (db.observed_store(8, recorder.clone()).await, Script::default());
        script.act("charge", Act::Wait);
        let duplicate = async {
            script.until_entered("charge").await;
            assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_err());
            script.open();
        };
        let (first, ()) = tokio::join!(steps::pay(&store, "u1", "k", "order", &script), duplicate);
        assert!(first.is_ok());
        assert!(steps::pay(&store, "u1", "k", "order", &script).await.is_ok());
        assert!(steps::pay(&store, "u1", "k", "another", &script).await.is_err());
        assert_eq!(recorder.outcomes(), one_of_each(&["run", "in_flight", "replay", "key_reused"]));
        assert!(recorder.only(Outcome::Replay).age.is_some());
        let expected = [("began 1", 1), ("charge finished", 1), ("reserve finished", 1)];
        assert_eq!(recorder.others(), expected.map(|(word, times)| (word.to_owned(), times)));
    }

    async fn r34_each_counter_is_one_over_http(db) {
        let counters = Counters::default();
        let (app, gauge) = db.app_over(db.observed_store(8, counters.clone()).await);
        let call = Call::to("/kept", "wait");
        let duplicate = async {
            eventually("it runs", async || gauge.entered() == 1).await;
            call.send(&app).await.expect(409, "key_in_flight");
            gauge.open(1);
        };
        let (first, ()) = tokio::join!(call.send(&app), duplicate);
        call.send(&app).await.expect_replay_of(&first);
        Call::to("/kept", "insert").send(&app).await.expect(422, "key_reused");
        db.expire().await;
        call.send(&app).await.expect(410, "retry_too_late");
        counters.expect_one_each(&ONE_OF_EACH);
    }

    async fn r34_each_counter_is_one_for_a_plain_function(db) {
        let counters = Counters::default();
        let (store, gauge) = (db.observed_store(8, counters.clone()).await, Gauge::new());
        let event = plain::Event::of("e1", "wait");
        let duplicate = async {
            eventually("it runs", async || gauge.entered() == 1).await;
            assert!(functions::handle_once(&store, &gauge, &event).await.is_err());
            gauge.open(1);
        };
        let (first, ()) = tokio::join!(functions::handle_once(&store, &gauge, &event), duplicate);
        assert_eq!(first.ok(), functions::handle_once(&store, &gauge, &event).await.ok());
        assert!(functions::handle_once(&store, &gauge, &plain::Event::of("e1", "insert")).await.is_err());
        db.expire().await;
        assert!(functions::handle_once(&store, &gauge, &event).await.is_err());
        assert_eq!(gauge.entered(), 1);
        counters.expect_one_each(&ONE_OF_EACH);
    }

    // The run that loses its lease is the conflict's cause, and a second attempt is the run that counts.
    async fn r34_each_counter_is_one_for_a_leased_run_that_loses_its_lease(db) {
        let counters = Counters::default();
        let (store, script) = (db.observed_store(8, counters.clone()).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_once(&store, "u1", "k", "order", &script);
        let others = async {
            script.until_entered("charge").await;
            assert!(steps::pay_once(&store, "u1", "k", "order", &script).await.is_err());
            db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
            let taken_over = steps::pay_once(&store, "u1", "k", "order", &script).await;
            script.open();
            taken_over
        };
        let (lost, ran) = tokio::join!(run, others);
        assert_eq!(pay::kind(&lost), Some(Kind::LeaseLost));
        let replay = steps::pay_once(&store, "u1", "k", "order", &script).await;
        assert_eq!(replay.expect("replayed"), ran.expect("run"));
        let reused = steps::pay_once(&store, "u1", "k", "another", &script).await;
        assert_eq!(pay::kind(&reused), Some(Kind::KeyReused));
        assert!(store.drain(Duration::from_secs(30)).await);
        db.expire().await;
        let late = steps::pay_once(&store, "u1", "k", "order", &script).await;
        assert_eq!(pay::kind(&late), Some(Kind::RetryTooLate));
        let of_the_loss = [
            "idem.answers.failed code=lease_lost",
            "idem.lease.lost ",
            "idem.requests outcome=failed source=sql",
            "idem.steps step=charge result=failed",
            "idem.steps step=charge result=finished",
            "idem.steps step=reserve result=finished",
            "idem.steps step=reserve result=replayed",
            "idem.takeovers ",
        ];
        counters.expect_one_each(&[&ONE_OF_EACH[..], &of_the_loss].concat());
    }

    async fn r34_a_lost_lease_and_its_takeover_are_told_once(db) {
        let recorder = Recorder::default();
        let (store, script) = (db.observed_store(8, recorder.clone()).await, Script::default());
        script.act("charge", Act::Wait);
        let run = steps::pay_briefly(&store, "u1", "k", "order", &script);
        let thief = async {
            script.until_entered("charge").await;
            db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
            assert!(steps::pay_briefly(&store, "u1", "k", "order", &script).await.is_ok());
            script.open();
        };
        let (lost, ()) = tokio::join!(run, thief);
        assert!(lost.is_err());
        assert!(store.drain(Duration::from_secs(30)).await);
        assert_eq!(recorder.outcomes(), one_of_each(&["run", "failed"]));
        let failed = recorder.only(Outcome::Failed);
        assert_eq!((failed.kind, failed.attempt), (Some(Kind::LeaseLost), Some(1)));
        assert_eq!(recorder.only(Outcome::Run).attempt, Some(2));
        for word in ["lost", "taken over 2", "began 1", "began 2", "reserve replayed", "charge finished"] {
            assert_eq!(recorder.count(word), 1, "{word}: {:?}", recorder.others());
        }
    }

    async fn r34_no_loss_is_told_of_many_leased_runs_that_end_in_order(db) {
        let recorder = Recorder::default();
        let store = db.observed_store(8, recorder.clone()).await;
        // Every other run fails once.
        for at in 0..30 {
            let (key, script) = (format!("k{at}"), Script::default());
            if at % 2 == 0 {
                script.act("charge", Act::Fail);
                assert!(steps::pay_briefly(&store, "u1", &key, "order", &script).await.is_err());
            }
            assert!(steps::pay_briefly(&store, "u1", &key, "order", &script).await.is_ok());
        }
        assert_eq!((recorder.count("lost"), recorder.count("taken over 2")), (0, 15), "{:?}", recorder.others());
        assert_eq!((recorder.settled(Outcome::Run).len(), recorder.settled(Outcome::Released).len()), (30, 15));
    }

    async fn r34_of_many_duplicates_at_once_each_is_told_once(db) {
        let recorder = Recorder::default();
        let (app, gauge) = db.app_over(db.observed_store(4, recorder.clone()).await);
        let call = Call::act("insert");
        let answers = join_all((0..64).map(|_| call.send(&app))).await;
        let outcomes = recorder.outcomes();
        let of = |outcome| outcomes.get(outcome).copied().unwrap_or(0);
        let with = |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
        assert_eq!((of("run"), gauge.entered()), (1, 1));
        assert_eq!(of("run") + of("replay"), with(201));
        assert_eq!((of("in_flight"), of("unavailable")), (with(409), with(503)));
        assert_eq!(outcomes.values().sum::<usize>(), 64, "{outcomes:?}");
    }

    async fn r34_a_request_that_is_given_up_is_told_as_dropped(db) {
        let recorder = Recorder::default();
        let (store, gauge) = (db.observed_store(4, recorder.clone()).await, Gauge::new());
        let event = plain::Event::of("e1", "hang");
        let given_up = tokio::select! {
            answer = functions::handle(&store, &gauge, &event) => Some(answer.is_ok()),
            () = eventually("it hangs", async || gauge.entered() == 1) => None,
        };
        assert_eq!(given_up, None);
        let dropped = recorder.only(Outcome::Dropped);
        assert_eq!((dropped.attempt, dropped.run.is_some(), dropped.commit), (Some(1), true, None));
        assert!(store.drain(Duration::from_secs(30)).await);
    }

    async fn r34_a_run_by_hand_is_told_as_it_ends(db) {
        let recorder = Recorder::default();
        let store = db.observed_store(4, recorder.clone()).await;
        let request = |key: &str| {
            let identity = Identity::new("scope", "by.hand", key).expect("an identity");
            Request::new(identity, Fingerprint::none(), Duration::from_secs(60)).expect("a request")
        };
        let begin = async |key: &str| match store.begin(&request(key)).await.expect("an answer") {
            Start::Run(run) => run,
            Start::Stored(stored) => panic!("{stored:?}"),
        };
        begin("a").await.complete(&1).await.expect("kept");
        begin("b").await.reject(&2).await.expect("kept");
        begin("c").await.release().await.expect("released");
        drop(begin("d").await);
        assert!(matches!(store.begin(&request("a")).await, Ok(Start::Stored(_))));
        assert_eq!(recorder.outcomes(), one_of_each(&["run", "rejected", "released", "dropped", "replay"]));
    }

    async fn r34_undos_are_told(db) {
        let recorder = Recorder::default();
        let store = db.observed_store(4, recorder.clone()).await;
        let rejected = orders::order(&store, "k", true, &Arc::default()).await;
        assert!(rejected.is_err());
        assert_eq!(recorder.only(Outcome::Rejected).disposition, Some(Disposition::Reject));
        assert!(recorder.others().iter().any(|(word, _)| word.starts_with("undo ") && word.ends_with(" finished")));
    }

    async fn r34_the_backlog_is_counted_and_told_by_the_sweeper(db) {
        let recorder = Recorder::default();
        let (store, script) = (db.observed_store(4, recorder.clone()).await, Script::default());
        assert_eq!(store.backlog().await.expect("counted"), Backlog::default());
        script.act("charge", Act::Fail);
        assert!(steps::pay(&store, "u1", "waits", "order", &script).await.is_err());
        assert!(steps::pay(&store, "u1", "over", "order", &script).await.is_ok());
        let abandoned = store.backlog().await.expect("counted");
        assert_eq!((abandoned.expired, abandoned.oldest, abandoned.abandoned), (0, Duration::ZERO, 1));
        db.expire().await;
        let expired = store.backlog().await.expect("counted");
        assert_eq!((expired.expired, expired.abandoned), (2, 0));
        assert!(expired.oldest > Duration::ZERO, "{expired:?}");
        let sweeper = store.sweeper(Sweep::default());
        eventually("it is swept", async || recorder.backlog() == Some(Backlog::default())).await;
        sweeper.stop().await;
        assert_eq!(recorder.count("swept 2"), 1);
    }

    async fn r34_a_panic_of_the_observer_changes_no_answer(db) {
        struct Panics;
        impl Observer for Panics {
            fn observe(&self, _: &Event<'_>) {
                panic!("the observer's");
            }
        }
        let (app, gauge) = db.app_over(db.observed_store(4, Panics).await);
        let first = Call::act("insert").send(&app).await;
        first.expect_fresh(201);
        Call::act("insert").send(&app).await.expect_replay_of(&first);
        assert_eq!(gauge.entered(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_postgres_a_doubtful_commit_is_told_with_its_verdict() {
    let (db, recorder) = (Postgres::create().await, Recorder::default());
    let proxy = Proxy::before(&db.options()).await;
    let through = db.options().host("127.0.0.1").port(proxy.port());
    let pool = PgPoolOptions::new().max_connections(4).connect_with(through).await.expect("a pool");
    let (app, _) = db.app_over(Postgres::builder_over(pool).observer(recorder.clone()).build());
    proxy.at_next_commit(Fault::CutAfter);
    Call::act("insert").key("kept").send(&app).await.expect_fresh(201);
    proxy.at_next_commit(Fault::CutBefore);
    Call::act("insert").key("lost").send(&app).await.expect(503, "store_unavailable");
    assert_eq!(recorder.outcomes(), one_of_each(&["run", "failed"]));
    for word in ["commit unknown Some(Kept)", "commit unknown Some(NotKept)"] {
        assert_eq!(recorder.count(word), 1, "{word}: {:?}", recorder.others());
    }
}
