//! Plain functions: the same promise without HTTP.

use std::time::Duration;

use futures_util::future::join_all;
use idem_core::message::{Action, Failure, each};
use idem_core::{Error, Fingerprint, Identity, Kind, Request, Settled, Start, Stored, observe};
use idem_testkit::logs::CANARY;
use serde::{Deserialize, Serialize};

use crate::app::{Gauge, Touchy};
use crate::cancel::{GivenUp, polled};
use crate::client::eventually;
use crate::support::Database;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    pub id: Option<String>,
    pub act: String,
    pub note: String,
}

impl Event {
    pub fn of(id: &str, act: &str) -> Self {
        Self { id: Some(id.to_owned()), act: act.to_owned(), note: CANARY.to_owned() }
    }
}

/// What a run gives: how often its body had been entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub entered: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Failed {
    /// The event can never be handled.
    Final { entered: usize },
    /// It may be handled later.
    Later,
    #[serde(skip)]
    Idem(Kind),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Idem(error.kind())
    }
}

impl Failed {
    fn is_final(&self) -> bool {
        matches!(self, Self::Final { .. })
    }

    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Idem(kind) => Some(*kind),
            Self::Final { .. } | Self::Later => None,
        }
    }
}

impl Failure for Failed {
    fn action(&self) -> Action {
        match self {
            Self::Final { .. } => Action::dead_letter("final", "it can never be handled"),
            Self::Later => Action::redeliver(),
            Self::Idem(kind) => Error::new(*kind).action(),
        }
    }
}

macro_rules! functions {
    ($module:ident, $Store:ident, $Tx:ident) => {
        pub mod $module {
            use idem_core::{Error, idempotent};
            use idem_sqlx::{$Store, $Tx};
            use sqlx::Executor;

            use idem_testkit::logs::CANARY;

            use super::{Done, Event, Failed, Gauge, Touchy};

            async fn note(tx: &mut $Tx, what: &str) {
                let query = sqlx::query("INSERT INTO effects VALUES ('plain', $1)").bind(what.to_owned());
                query.execute(tx).await.expect("an effect");
            }

            async fn act(tx: &mut $Tx, gauge: &Gauge, event: &Event) -> Result<Done, Failed> {
                gauge.enter();
                let entered = gauge.entered();
                note(tx, &event.act).await;
                match event.act.as_str() {
                    "wait" => gauge.pass().await,
                    "hang" => std::future::pending().await,
                    "broken" => {
                        let broken = tx.execute("INSERT INTO effects VALUES (NULL, NULL)").await;
                        assert!(broken.is_err());
                        gauge.pass().await;
                        return Err(Failed::Final { entered });
                    }
                    "final" => return Err(Failed::Final { entered }),
                    "later" => return Err(Failed::Later),
                    "panic" => panic!("told to: {CANARY}"),
                    "commit" => drop(tx.execute("COMMIT").await),
                    _ => {}
                }
                Ok(Done { entered })
            }

            #[idempotent(key = event.id, scope = "test", ttl = "7d", fingerprint = event)]
            pub async fn handle(tx: &mut $Tx, gauge: &Gauge, event: &Event) -> Result<Done, Failed> {
                act(tx, gauge, event).await
            }

            /// The same, whose records refuse late retries.
            #[idempotent(key = event.id, scope = "test", ttl = "7d", fingerprint = event, then = refuse("30d"))]
            pub async fn handle_once(tx: &mut $Tx, gauge: &Gauge, event: &Event) -> Result<Done, Failed> {
                act(tx, gauge, event).await
            }

            /// The same operation as [`handle`], in another release: it stores final errors.
            #[idempotent(
                key = event.id, scope = "test", operation = "rejecting", fingerprint = event, rejects = Failed::is_final
            )]
            pub async fn reject(gauge: &Gauge, tx: &mut $Tx, event: &Event) -> Result<Done, Failed> {
                act(tx, gauge, event).await
            }

            #[idempotent(key = event.id, scope = "test", operation = "rejecting", fingerprint = event)]
            pub async fn reject_no_more(gauge: &Gauge, tx: &mut $Tx, event: &Event) -> Result<Done, Failed> {
                act(tx, gauge, event).await
            }

            #[idempotent(key = event.id, scope = "test", fingerprint = event, in_flight = wait("60s"))]
            pub async fn patient(tx: &mut $Tx, gauge: &Gauge, event: &Event) -> Result<Done, Failed> {
                act(tx, gauge, event).await
            }

            #[idempotent(key = at, scope = at, fingerprint = at)]
            pub async fn touched(tx: &mut $Tx, gauge: &Gauge, at: Touchy) -> Result<Done, Failed> {
                act(tx, gauge, &Event::of("", &at.at)).await
            }

            /// All arguments are the fingerprint.
            #[idempotent(key = id, scope = "test")]
            pub async fn by_arguments(id: u64, tx: &mut $Tx, amount: i64, (to, note): (&str, Option<u8>)) -> Result<i64, Error> {
                super::$module::note(tx, to).await;
                Ok(amount + i64::from(note.unwrap_or_default()))
            }

            #[derive(Clone)]
            pub struct Shelf {
                pub name: String,
            }

            impl Shelf {
                #[idempotent(key = item, scope = self.name, operation = "shelf.take")]
                pub async fn take(&self, tx: &mut $Tx, item: String) -> Result<String, Error> {
                    note(tx, &item).await;
                    Ok(format!("{item} from {}", self.name))
                }
            }

            pub trait Take {
                fn give(&self, store: &$Store, item: u32) -> impl Future<Output = Result<u32, Error>> + Send;
            }

            impl Take for Shelf {
                #[idempotent(key = item, scope = self.name, operation = "shelf.give")]
                async fn give(&self, tx: &mut $Tx, item: u32) -> Result<u32, Error> {
                    note(tx, "given").await;
                    Ok(item)
                }
            }

            #[idempotent(key = id, scope = "test", operation = "generic", fingerprint = none)]
            pub async fn generic<T>(tx: &mut $Tx, id: u64, value: T) -> Result<T, Error>
            where
                T: serde::Serialize + serde::de::DeserializeOwned,
            {
                note(tx, "generic").await;
                Ok(value)
            }

            #[idempotent(key = id, scope = "test", ttl = "1h")]
            pub async fn outer(tx: &mut $Tx, store: Held, id: u64) -> Result<u64, Error> {
                note(tx, "outer").await;
                inner(&store.0, id).await
            }

            #[idempotent(key = id, scope = "test", ttl = "30d")]
            pub async fn inner(tx: &mut $Tx, id: u64) -> Result<u64, Error> {
                note(tx, "inner").await;
                Ok(id)
            }

            /// A store among the arguments says nothing about what was asked.
            pub struct Held(pub $Store);

            impl serde::Serialize for Held {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_unit()
                }
            }

            pub fn is_send<T: Send>(value: T) -> T {
                value
            }
        }
    };
}

functions!(postgres_functions, PgStore, PgTx);
functions!(sqlite_functions, SqliteStore, SqliteTx);

/// The kind of a refusal.
fn kind<T: std::fmt::Debug>(result: Result<T, Failed>) -> Option<Kind> {
    result.expect_err("a refusal").kind()
}

fn request(key: &str, asked: &str) -> Request {
    Request::new(
        Identity::new("test", "by hand", key).expect("an identity"),
        Fingerprint::of_value(asked).expect("serialisable"),
        Duration::from_secs(3600),
    )
    .expect("a request")
}

both! {
    async fn r14_a_retry_gets_the_first_result_and_can_tell(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        let event = Event::of("e1", "ship");
        let first = observe(functions::handle(&store, &gauge, &event)).await;
        assert!(!first.replayed);
        assert_eq!(first.result.expect("done"), Done { entered: 1 });
        for _ in 0..3 {
            let retry = observe(functions::handle(&store, &gauge, &event)).await;
            assert!(retry.replayed);
            assert_eq!(retry.result.expect("replayed"), Done { entered: 1 });
        }
        assert_eq!((db.effects().await, gauge.entered()), (1, 1));
    }

    async fn r10_of_64_calls_at_once_one_runs_in_each_of_20_rounds(db) {
        let (store, gauge) = (db.store(8).await, Gauge::new());
        for round in 0..20 {
            let event = Event::of(&format!("e{round}"), "ship");
            let calls = (0..64).map(|_| {
                let (store, gauge, event) = (store.clone(), gauge.clone(), event.clone());
                tokio::spawn(async move { observe(functions::handle(&store, &gauge, &event)).await })
            });
            let mut ran = 0;
            for call in join_all(calls).await {
                let seen = call.expect("no panic");
                match seen.result {
                    Ok(done) => {
                        assert_eq!(done, Done { entered: round + 1 });
                        ran += usize::from(!seen.replayed);
                    }
                    Err(failed) => assert_eq!(failed.kind(), Some(Kind::KeyInFlight)),
                }
            }
            assert_eq!(ran, 1);
            assert_eq!(gauge.entered(), round + 1);
        }
        assert_eq!(db.effects().await, 20);
    }

    async fn r11_patient_duplicates_get_the_result_through_a_pool_of_two(db) {
        let (store, gauge) = (db.store(2).await, Gauge::new());
        let (event, finished) = (Event::of("e1", "wait"), Event::of("e0", "ship"));
        functions::handle(&store, &gauge, &finished).await.expect("done");
        let calls: Vec<_> = (0..16).map(|_| {
            let (store, gauge, event) = (store.clone(), gauge.clone(), event.clone());
            tokio::spawn(async move { functions::patient(&store, &gauge, &event).await })
        }).collect();
        eventually("one runs", async || gauge.entered() == 2).await;
        // The run has one connection. A request that waits has none, so the other one is free: for a finished record,
        // and, where there is more than one writer, for another run.
        let served = async {
            for _ in 0..20 {
                assert!(observe(functions::handle(&store, &gauge, &finished)).await.replayed);
            }
            if D::WRITERS > 1 {
                functions::handle(&store, &gauge, &Event::of("e2", "ship")).await.expect("done");
            }
        };
        tokio::time::timeout(Duration::from_secs(10), served).await.expect("a connection");
        gauge.open(1);
        for call in join_all(calls).await {
            assert_eq!(call.expect("no panic").expect("done"), Done { entered: 2 });
        }
        assert_eq!(db.effects().await, if D::WRITERS > 1 { 3 } else { 2 });
    }

    async fn r07_another_payload_under_the_key_is_refused_also_in_flight(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        let waiting = tokio::spawn({
            let (store, gauge) = (store.clone(), gauge.clone());
            async move { functions::handle(&store, &gauge, &Event::of("e1", "wait")).await }
        });
        eventually("it runs", async || gauge.entered() == 1).await;
        assert_eq!(kind(functions::handle(&store, &gauge, &Event::of("e1", "ship")).await), Some(Kind::KeyReused));
        assert_eq!(kind(functions::handle(&store, &gauge, &Event::of("e1", "wait")).await), Some(Kind::KeyInFlight));
        gauge.open(1);
        waiting.await.expect("no panic").expect("done");
        assert_eq!(kind(functions::handle(&store, &gauge, &Event::of("e1", "ship")).await), Some(Kind::KeyReused));
        assert_eq!(db.effects().await, 1);
    }

    async fn a_blank_or_absent_key_is_an_error_and_never_shared(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        for id in [None, Some(String::new()), Some("  ".to_owned())] {
            let event = Event { id, act: "ship".to_owned(), note: CANARY.to_owned() };
            assert_eq!(kind(functions::handle(&store, &gauge, &event).await), Some(Kind::KeyMissing));
        }
        let long = Event::of(&"x".repeat(256), "ship");
        assert_eq!(kind(functions::handle(&store, &gauge, &long).await), Some(Kind::KeyInvalid));
        assert_eq!((db.effects().await, db.records().await, gauge.entered()), (0, 0, 0));
    }

    async fn r14_an_error_releases_and_a_final_one_is_stored_where_the_attribute_says_so(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        for entered in 1..=2 {
            let failed = functions::handle(&store, &gauge, &Event::of("e1", "final")).await.expect_err("final");
            assert!(matches!(failed, Failed::Final { entered: now } if now == entered), "{failed:?}");
        }
        assert_eq!((db.effects().await, db.records().await), (0, 0));

        for replayed in [false, true, true] {
            let seen = observe(functions::reject(&gauge, &store, &Event::of("e2", "final"))).await;
            assert_eq!(seen.replayed, replayed);
            let failed = seen.result.expect_err("final");
            assert!(matches!(failed, Failed::Final { entered: 3 }), "{failed:?}");
        }
        assert!(matches!(functions::reject(&gauge, &store, &Event::of("e3", "later")).await, Err(Failed::Later)));
        assert_eq!((db.effects().await, db.records().await), (0, 1));

        // A release of the program that stores no errors cannot read this one, and does not run it either.
        let event = Event::of("e2", "final");
        assert_eq!(kind(functions::reject_no_more(&gauge, &store, &event).await), Some(Kind::RecordUnreadable));
        assert_eq!(gauge.entered(), 4);
    }

    async fn r15_a_panic_releases_and_goes_on_to_the_caller(db) {
        let (store, gauge) = (db.store(1).await, Gauge::new());
        for entered in 1..=2 {
            let call = tokio::spawn({
                let (store, gauge) = (store.clone(), gauge.clone());
                async move { functions::handle(&store, &gauge, &Event::of("e1", "panic")).await }
            });
            assert!(call.await.expect_err("a panic").is_panic());
            assert_eq!(gauge.entered(), entered);
            eventually("the run is over", async || D::is_idle(&store).await && db.records().await == 0).await;
        }
        assert_eq!(db.effects().await, 0);
    }

    async fn r15_a_panic_in_what_the_attribute_asks_for_goes_on_to_the_caller(db) {
        let (store, gauge) = (db.store(1).await, Gauge::new());
        let call = |at: &str| {
            let (store, gauge, at) = (store.clone(), gauge.clone(), Touchy { at: at.to_owned() });
            tokio::spawn(async move { functions::touched(&store, &gauge, at).await })
        };
        for at in ["scope", "key", "fingerprint"] {
            assert!(call(at).await.expect_err("a panic").is_panic(), "{at}");
        }
        assert_eq!((gauge.entered(), db.effects().await, db.records().await), (0, 0, 0));
        call("nothing").await.expect("no panic").expect("done");
    }

    async fn r13_a_call_that_is_dropped_at_any_await_keeps_nothing_or_all(db) {
        let (store, gauge) = (db.store(1).await, Gauge::new());
        let mut calls = 0;
        for given_up in [GivenUp::AtOnce, GivenUp::Woken] {
            let mut whole = 0;
            for polls in 0.. {
                let event = Event::of(&format!("e{calls}"), "ship");
                let ended = polled(functions::handle(&store, &gauge, &event), polls, given_up).await.is_some();
                // The rollback of a dropped call is another task's, and the key is in flight until then.
                let retried = async {
                    while let Err(failed) = functions::handle(&store, &gauge, &event).await {
                        assert_eq!(failed.kind(), Some(Kind::KeyInFlight), "{given_up:?} after {polls} polls");
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(30), retried).await.expect("a result in time");
                calls += 1;
                assert_eq!(db.effects().await, calls, "{given_up:?} after {polls} polls");
                assert!(D::is_idle(&store).await, "{given_up:?} after {polls} polls");
                whole += usize::from(ended);
                if whole == 3 {
                    break;
                }
            }
        }
    }

    async fn r16_a_body_that_commits_is_found_out_and_never_runs_again(db) {
        let (store, gauge) = (db.store(2).await, Gauge::new());
        let event = Event::of("e1", "commit");
        assert_eq!(kind(functions::handle(&store, &gauge, &event).await), Some(Kind::TransactionEnded));
        for _ in 0..2 {
            assert_eq!(kind(functions::handle(&store, &gauge, &event).await), Some(Kind::TransactionEnded));
        }
        assert_eq!((gauge.entered(), db.effects().await), (1, 1));
    }

    async fn r20_a_falsy_result_is_replayed(db) {
        let store = db.store(2).await;
        macro_rules! twice {
            ($($id:literal: $type:ty = $value:expr, $other:expr;)*) => {$(
                for replayed in [false, true] {
                    // Had the body run again, it would give the other value.
                    let value: $type = if replayed { $other } else { $value };
                    let first: $type = $value;
                    let seen = observe(functions::generic(&store, $id, value)).await;
                    assert_eq!(seen.replayed, replayed);
                    assert_eq!(seen.result.expect("done"), first);
                }
            )*};
        }
        twice! {
            1: () = (), ();
            2: bool = false, true;
            3: u64 = 0, 1;
            4: String = String::new(), "x".to_owned();
            5: Vec<u8> = vec![], vec![1];
            6: Option<u8> = None, Some(1);
        }
        assert_eq!(db.effects().await, 6);
    }

    async fn r22_a_result_of_another_type_is_an_error_and_no_second_run(db) {
        let store = db.store(2).await;
        functions::generic::<Option<u8>>(&store, 1, None).await.expect("done");
        for _ in 0..2 {
            let refused = functions::generic::<()>(&store, 1, ()).await.expect_err("another type");
            assert_eq!(refused.kind(), Kind::RecordUnreadable);
        }
        assert_eq!(functions::generic::<Option<u8>>(&store, 1, Some(1)).await.expect("replayed"), None);
        assert_eq!(db.effects().await, 1);
    }

    async fn a_result_that_could_not_be_replayed_is_not_kept(db) {
        let store = db.store(2).await;
        let deep = (0..600).fold(serde_json::Value::Null, |inner, _| serde_json::Value::Array(vec![inner]));
        let refused = functions::generic(&store, 1, deep).await.expect_err("not storable");
        assert_eq!(refused.kind(), Kind::ReplyFailed);
        assert_eq!((db.effects().await, db.records().await), (0, 0));
        assert_eq!(functions::generic(&store, 1, serde_json::Value::Null).await.expect("done"), serde_json::Value::Null);
    }

    async fn r21_a_result_over_the_limit_reaches_its_caller_and_leaves_a_tombstone(db) {
        let store = db.store(2).await;
        let long = "x".repeat(crate::app::REPLY_LIMIT);
        assert_eq!(functions::generic(&store, 1, long.clone()).await.expect("done"), long);
        assert_eq!(functions::generic(&store, 1, long).await.expect_err("gone").kind(), Kind::ReplyTooLarge);
        assert_eq!(db.effects().await, 1);
    }

    async fn r06_all_arguments_are_the_fingerprint(db) {
        let store = db.store(2).await;
        let refused = |result: Result<i64, Error>| result.expect_err("another payload").kind();
        assert_eq!(functions::by_arguments(1, &store, 5, ("ada", Some(1))).await.expect("done"), 6);
        assert_eq!(functions::by_arguments(1, &store, 5, ("ada", Some(1))).await.expect("replayed"), 6);
        assert_eq!(refused(functions::by_arguments(1, &store, 6, ("ada", Some(1))).await), Kind::KeyReused);
        assert_eq!(refused(functions::by_arguments(1, &store, 5, ("bob", Some(1))).await), Kind::KeyReused);
        assert_eq!(refused(functions::by_arguments(1, &store, 5, ("ada", None)).await), Kind::KeyReused);
        assert_eq!(functions::by_arguments(2, &store, 6, ("ada", None)).await.expect("done"), 6);
        assert_eq!(db.effects().await, 2);
    }

    async fn methods_know_themselves_and_keep_to_their_scope(db) {
        use functions::{Shelf, Take};
        let store = db.store(2).await;
        let (left, right) = (Shelf { name: "left".to_owned() }, Shelf { name: "right".to_owned() });
        for _ in 0..2 {
            assert_eq!(left.take(&store, "book".to_owned()).await.expect("done"), "book from left");
            assert_eq!(right.take(&store, "book".to_owned()).await.expect("done"), "book from right");
            assert_eq!(left.give(&store, 1).await.expect("done"), 1);
        }
        assert_eq!(db.effects().await, 3);
    }

    async fn two_functions_keep_their_own_ttl_and_operation_also_when_one_calls_the_other(db) {
        let store = db.store(4).await;
        let nested = observe(functions::outer(&store, functions::Held(store.clone()), 1)).await;
        assert!(!nested.replayed);
        if D::WRITERS == 1 {
            // The inner call waits for the write lock that the outer one holds, for as long as the pool lets it.
            assert_eq!(nested.result.expect_err("busy").kind(), Kind::RetryLater);
            assert_eq!((db.effects().await, db.records().await), (0, 0));
            functions::inner(&store, 1).await.expect("done");
        } else {
            nested.result.expect("done");
        }
        assert!(observe(functions::inner(&store, 1)).await.replayed, "the inner call has its own record");
        let seen = observe(functions::outer(&store, functions::Held(store.clone()), 1)).await;
        assert_eq!(seen.result.expect("done"), 1);
        assert_eq!(seen.replayed, D::WRITERS > 1, "what the inner call says of itself does not count");
        assert_eq!((db.effects().await, db.records().await), (2, 2));
        let hours = async |what| db.number(&format!("SELECT {} FROM idem_records WHERE operation LIKE '%::{what}'", D::HOURS)).await;
        assert_eq!((hours("outer").await, hours("inner").await), (1, 30 * 24));
    }

    async fn without_the_attribute_a_run_is_completed_rejected_released_or_dropped(db) {
        let store = db.store(2).await;
        for end in ["drop", "release", "reject"] {
            let Start::Run(mut run) = store.begin(&request(end, "this")).await.expect("a start") else { panic!("{end}") };
            D::effect(&mut run, end).await;
            match end {
                "drop" => drop(run),
                "release" => run.release().await.expect("released"),
                _ => {
                    let rejected = run.reject(&"no".to_owned()).await.expect("rejected");
                    assert_eq!(rejected, Settled::Kept("no".to_owned()));
                }
            }
        }
        let Start::Stored(Stored::Rejected(value)) = store.begin(&request("reject", "this")).await.expect("a start") else {
            panic!("it was rejected")
        };
        assert_eq!(value.read::<String>().expect("an error"), "no");

        for end in ["drop", "release"] {
            let run = loop {
                match store.begin(&request(end, "this")).await {
                    Ok(Start::Run(run)) => break run,
                    Ok(Start::Stored(stored)) => panic!("{stored:?}"),
                    Err(error) => assert_eq!(error.kind(), Kind::KeyInFlight, "until the dropped one is gone"),
                }
            };
            assert_eq!(run.complete(&7_u8).await.expect("completed"), 7);
            assert_eq!(store.begin(&request(end, "that")).await.expect_err("reused").kind(), Kind::KeyReused);
            let Start::Stored(Stored::Completed(value)) = store.begin(&request(end, "this")).await.expect("a start") else {
                panic!("{end}")
            };
            assert_eq!(value.read::<u8>().expect("the result"), 7);
            assert_eq!(value.read::<u16>().expect_err("another type").kind(), Kind::RecordUnreadable);
        }
        assert_eq!((db.effects().await, db.records().await), (0, 3));
    }

    async fn r12_calls_are_drained(db) {
        let (store, gauge) = (db.store(2).await, Gauge::new());
        let running = tokio::spawn({
            let (store, gauge) = (store.clone(), gauge.clone());
            async move { functions::handle(&store, &gauge, &Event::of("e1", "wait")).await }
        });
        eventually("it runs", async || gauge.entered() == 1).await;
        let mut drained = tokio::spawn({
            let store = store.clone();
            async move { store.drain(Duration::from_secs(30)).await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut drained).await.is_err());
        gauge.open(1);
        running.await.expect("no panic").expect("done");
        drained.await.expect("drained");
    }

    async fn r30_a_store_that_is_gone_is_an_error_and_the_body_is_not_entered(db) {
        let (store, gauge) = (db.store(2).await, Gauge::new());
        store.pool().close().await;
        let event = Event::of("e1", "ship");
        assert_eq!(kind(functions::handle(&store, &gauge, &event).await), Some(Kind::StoreUnavailable));
        assert_eq!(gauge.entered(), 0);
    }

    async fn one_message_of_a_batch_fails_alone(db) {
        let (store, gauge) = (db.store(4).await, Gauge::new());
        let batch = ["ship", "later", "final", "ship"];
        let batch: Vec<_> = batch.iter().enumerate().map(|(at, act)| Event::of(&format!("e{at}"), act)).collect();
        // In a task of its own, as a consumer has one for each partition.
        let deliver = async || {
            let (store, gauge, batch) = (store.clone(), gauge.clone(), batch.clone());
            let handled = tokio::spawn(async move {
                each(&batch, 1, async |event: &Event| Action::of(&functions::handle(&store, &gauge, event).await)).await
            });
            handled.await.expect("no panic")
        };
        let first = deliver().await;
        let dead = Action::dead_letter("final", "it can never be handled");
        assert_eq!(first, [Action::Acknowledge, Action::redeliver(), dead, Action::Acknowledge]);
        assert_eq!(db.effects().await, 2);
        assert_eq!(deliver().await, first, "delivered again as a whole");
        assert_eq!(db.effects().await, 2);
    }

    async fn a_call_can_be_spawned(db) {
        let (store, gauge) = (db.store(2).await, Gauge::new());
        let event = Event::of("e1", "ship");
        let call = functions::is_send(functions::handle(&store, &gauge, &event));
        call.await.expect("done");
        functions::is_send(functions::reject(&gauge, &store, &event)).await.expect("done");
        functions::is_send(functions::generic::<std::cell::Cell<u8>>(&store, 1, 0.into())).await.expect("done");
    }
}
