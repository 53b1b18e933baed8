//! Rules 20a, 20b and 5a: what comes back is what was answered, whatever it is, and the first caller gets it, too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem_core::message::Action;
use idem_core::store::Context;
use idem_core::{Error, Fingerprint, Guard, Identity, Kind, Request, Settled, Start, Steps, Stored, begin, observe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::support::Database;

/// What no JSON of its own tells apart, and what it has no text for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Odd {
    pub charged: Option<()>,
    pub refunded: Option<Option<()>>,
    pub rate: Option<f64>,
    pub raw: Option<serde_json::Value>,
    pub seats: HashMap<(u8, char), bool>,
}

pub fn odd() -> Odd {
    Odd {
        charged: Some(()),
        refunded: Some(None),
        rate: Some(f64::INFINITY),
        raw: Some(serde_json::Value::Null),
        seats: HashMap::from([((1, 'a'), true), ((2, 'b'), false)]),
    }
}

/// A field that is in memory only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: u32,
    #[serde(skip)]
    pub trace: Option<String>,
}

/// As the first caller makes it.
pub fn receipt() -> Receipt {
    Receipt { id: 7, trace: Some("in memory".to_owned()) }
}

/// It is written, and cannot be read.
#[derive(Debug, Serialize, Deserialize)]
pub struct OneWay {
    #[serde(skip_serializing)]
    pub _secret: String,
}

/// An error that is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Refused {
    Odd(Odd),
    Receipt(Receipt),
    Idem(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Idem(error.code().to_owned())
    }
}

/// A message whose tags come in no order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tagged {
    pub id: String,
    #[serde(serialize_with = "idem_core::unordered")]
    pub tags: HashSet<String>,
}

/// How a run ends whose call may have happened.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub call: CallEnds,
    /// Whether it has last writes.
    pub finishes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnds {
    /// Its answer has not come when the handler goes on.
    GivenUp,
    /// It was answered, and the answer cannot be recorded.
    TooLong,
    Well,
}

/// What the functions of these tests did.
#[derive(Debug, Default)]
pub struct Log {
    /// How often the provider was asked.
    pub calls: AtomicUsize,
    /// The number of runs, from the next one, that fail after their calls.
    pub failures: AtomicUsize,
    pub refunds: AtomicUsize,
    /// What each attempt has read.
    pub seen: Mutex<Vec<String>>,
    /// The keys of the calls.
    pub keys: Mutex<Vec<String>>,
}

impl Log {
    fn failing(times: usize) -> Self {
        Self { failures: AtomicUsize::new(times), ..Self::default() }
    }

    fn call<T>(&self, answer: T) -> Result<T, Error> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }

    fn fails(&self) -> Result<(), Error> {
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Error::new(Kind::StoreFailed).because("told to")) } else { Ok(()) }
    }

    fn see(&self, what: impl Debug) {
        self.seen.lock().expect("seen").push(format!("{what:?}"));
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("seen").clone()
    }
}

macro_rules! values {
    ($module:ident, $Store:ident, $Steps:ident, $Tx:ident) => {
        pub mod $module {
            use std::sync::atomic::Ordering;

            use idem_core::{Error, idempotent, Kind, StepKey};
            use idem_sqlx::{$Steps, $Tx};

            use super::{CallEnds, Log, Odd, OneWay, Receipt, Refused, Tagged, Way, odd, receipt};
            use crate::client::eventually;

            /// The card is charged, or it is declined: `None`.
            #[idempotent(
                                        key = id, scope = "values", operation = "values.charge", fingerprint = id,
                                        rejects = |error: &Refused| !matches!(error, Refused::Idem(_))
                                    )]
            pub async fn charge(steps: &mut $Steps, id: &str, log: &Log) -> Result<Odd, Refused> {
                let charged: Option<()> = steps.call("charge", async |_| log.call(Some(()))).await?;
                log.see(charged);
                log.fails()?;
                if charged.is_none() {
                    return Err(Refused::Odd(odd()));
                }
                Ok(odd())
            }

            /// Charged in the end, and then refused, with what is to be undone registered where it was charged.
            #[idempotent(
                                        key = id, scope = "values", operation = "values.undo", fingerprint = id,
                                        rejects = |error: &Refused| !matches!(error, Refused::Idem(_))
                                    )]
            pub async fn undo(steps: &mut $Steps, id: &str, log: &'static Log) -> Result<(), Refused> {
                let reserved: Option<()> = steps.call("reserve", async |_| log.call(Some(()))).await?;
                if reserved.is_some() {
                    steps.undo_call("reserve", async move |_| {
                        log.refunds.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, Error>(())
                    });
                }
                log.fails()?;
                Err(Refused::Odd(odd()))
            }

            #[idempotent(key = id, scope = "values", operation = "values.plain")]
            pub async fn plain(_tx: &mut $Tx, id: &str) -> Result<Receipt, Error> {
                Ok(receipt())
            }

            #[idempotent(key = id, scope = "values", operation = "values.refused", rejects = |_: &Refused| true)]
            pub async fn refused(_tx: &mut $Tx, id: &str) -> Result<Receipt, Refused> {
                Err(Refused::Receipt(receipt()))
            }

            #[idempotent(key = id, scope = "values", operation = "values.steps", fingerprint = id)]
            pub async fn in_steps(steps: &mut $Steps, id: &str, log: &Log) -> Result<(), Error> {
                log.see(steps.transaction("write", async |_| Ok::<_, Error>(receipt())).await?);
                log.see(steps.call("call", async |_| log.call(receipt())).await?);
                log.fails()
            }

            /// Its call's answer cannot be stored.
            #[idempotent(key = id, scope = "values", operation = "values.one_way", fingerprint = id)]
            pub async fn one_way(steps: &mut $Steps, id: &str, log: &Log) -> Result<(), Error> {
                steps.call("call", async |_| log.call(OneWay { _secret: String::new() })).await.map(|_| ())
            }

            /// Its result cannot.
            #[idempotent(key = id, scope = "values", operation = "values.one_way_result", fingerprint = id)]
            pub async fn one_way_result(steps: &mut $Steps, id: &str, log: &Log) -> Result<OneWay, Error> {
                steps.call("call", async |_| log.call(OneWay { _secret: String::new() })).await
            }

            /// What it is called with is recorded, and compared as it is.
            #[idempotent(key = id, scope = "values", operation = "values.input", record_input = (id, input))]
            pub async fn with_input(steps: &mut $Steps, id: &str, input: &Odd) -> Result<(), Error> {
                steps.call("call", async |_| Err(Error::new(Kind::StoreFailed).because("never"))).await
            }

            /// Each call of it has another trace, which is compared and not recorded.
            #[idempotent(key = id, scope = "values", operation = "values.traced", record_input = id)]
            pub async fn traced(steps: &mut $Steps, id: &str, trace: &str, log: &TracedLog) -> Result<(), Error> {
                let charge = async |key: StepKey| {
                    log.0.keys.lock().expect("keys").push(key.to_string());
                    log.0.call(())?;
                    log.0.fails()
                };
                steps.call("charge", charge).await
            }

            /// What is not compared.
            #[derive(Debug)]
            pub struct TracedLog(pub &'static Log);

            impl serde::Serialize for TracedLog {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_unit()
                }
            }

            /// It answers whatever became of its call.
            #[idempotent(key = id, scope = "values", operation = "values.hasty", fingerprint = id)]
            pub async fn hasty(steps: &mut $Steps, id: &str, way: &Way, log: &Log) -> Result<u8, Error> {
                let calls = log.calls();
                let charge = steps.call("charge", async |key: StepKey| {
                    log.keys.lock().expect("keys").push(key.to_string());
                    log.call(())?;
                    match way.call {
                        CallEnds::GivenUp => std::future::pending().await,
                        CallEnds::TooLong => Ok::<_, Error>("x".repeat(2 * crate::app::REPLY_LIMIT)),
                        CallEnds::Well => Ok("charged".to_owned()),
                    }
                });
                if way.call == CallEnds::GivenUp {
                    tokio::select! {
                        _ = charge => {}
                        () = eventually("it is called", async || log.calls() > calls) => {}
                    }
                } else {
                    _ = charge.await;
                }
                if way.finishes {
                    steps.finish(async |_| Ok::<_, Error>(())).await?;
                }
                Ok(1)
            }

            #[idempotent(key = message.id, scope = "values", operation = "values.tagged")]
            pub async fn tagged(_tx: &mut $Tx, message: &Tagged) -> Result<usize, Error> {
                Ok(message.tags.len())
            }

            #[idempotent(key = id, scope = "values", operation = "values.rated", fingerprint = rate)]
            pub async fn rated<T: serde::Serialize>(_tx: &mut $Tx, id: &str, rate: &T) -> Result<u8, Error> {
                Ok(1)
            }
        }
    };
}

values!(postgres_values, PgStore, PgSteps, PgTx);
values!(sqlite_values, SqliteStore, SqliteSteps, SqliteTx);

fn request(key: &str) -> Request {
    Request::new(
        Identity::new("values", "values.by_hand", key).expect("an identity"),
        Fingerprint::none(),
        Duration::from_secs(60),
    )
    .expect("a request")
}

async fn started<C: Context>(store: &C::Store, key: &str) -> Guard<C> {
    match begin::<C>(store, &request(key)).await.expect("an answer") {
        Start::Run(run) => run,
        Start::Stored(stored) => panic!("it is not over: {stored:?}"),
    }
}

async fn stored<C: Context>(store: &C::Store, key: &str) -> Stored {
    match begin::<C>(store, &request(key)).await.expect("an answer") {
        Start::Run(_) => panic!("it is over"),
        Start::Stored(stored) => stored,
    }
}

/// As the result, the final error, and a step's result of both kinds: the first caller and each later one get this.
async fn comes_back<D: Database, T>(store: &<D::Tx as Context>::Store, key: &str, value: T)
where
    T: Serialize + DeserializeOwned + Clone + Debug + Send + Sync,
{
    let expected = format!("{value:?}");
    let same = |read: &T| assert_eq!(format!("{read:?}"), expected);

    let key_of = |what: &str| format!("{key} {what}");
    same(&started::<D::Tx>(store, &key_of("result")).await.complete(&value).await.expect("completed"));
    match stored::<D::Tx>(store, &key_of("result")).await {
        Stored::Completed(read) => same(&read.read().expect("readable")),
        Stored::Rejected(error) => panic!("{error:?}"),
    }

    match started::<D::Tx>(store, &key_of("error")).await.reject(&value).await.expect("rejected") {
        Settled::Kept(error) => same(&error),
        Settled::Stored(stored) => panic!("{stored:?}"),
    }
    match stored::<D::Tx>(store, &key_of("error")).await {
        Stored::Rejected(read) => same(&read.read().expect("readable")),
        Stored::Completed(result) => panic!("{result:?}"),
    }

    for attempt in 1..=2 {
        let mut run = started::<Steps<D::Lease>>(store, &key_of("steps")).await;
        assert_eq!(run.attempt(), attempt);
        let written = run.transaction("write", async |_| Ok::<_, Error>(value.clone())).await;
        same(&written.expect("a step"));
        same(&run.call("call", async |_| Ok::<_, Error>(value.clone())).await.expect("a step"));
        run.release().await.expect("released");
    }
}

both! {
    async fn r20a_every_value_comes_back_as_it_was(db) {
        let store = db.store(4).await;
        let store = &store;
        comes_back::<D, _>(store, "unit", ()).await;
        comes_back::<D, _>(store, "some unit", Some(())).await;
        comes_back::<D, _>(store, "none", None::<()>).await;
        comes_back::<D, _>(store, "some none", Some(None::<()>)).await;
        comes_back::<D, _>(store, "nested", [Some(Some(Some(1_u8))), Some(Some(None)), Some(None), None]).await;
        comes_back::<D, _>(store, "null", Some(serde_json::Value::Null)).await;
        comes_back::<D, _>(store, "json", serde_json::json!({"a": [null, 1.5, -1, "x"], "~some": {}})).await;
        comes_back::<D, _>(store, "floats", (Some(f64::NAN), f64::NEG_INFINITY, -0.0_f64, 5e-324_f64)).await;
        comes_back::<D, _>(store, "singles", (f32::NAN, f32::INFINITY, 0.1_f32, f32::MIN_POSITIVE)).await;
        comes_back::<D, _>(store, "digits", vec![1.000_000_000_000_000_2_f64, 7.098_234_523_456_79e-14]).await;
        comes_back::<D, _>(store, "numbers", (u128::MAX, i128::MIN, u64::MAX, i64::MIN)).await;
        comes_back::<D, _>(store, "maps", BTreeMap::from([((1_u8, 'x'), Some(())), ((2, 'y'), None)])).await;
        comes_back::<D, _>(store, "names", BTreeMap::from([("~some".to_owned(), 1), (String::new(), 2)])).await;
        comes_back::<D, _>(store, "text", "\0\u{1}\"\\\u{1f600}".to_owned()).await;
        comes_back::<D, _>(store, "result", Err::<(), Option<char>>(Some('x'))).await;
    }

    async fn r20a_a_charge_is_read_as_a_charge_by_the_retry(db) {
        let (store, log) = (db.store(4).await, Log::failing(1));
        assert!(values::charge(&store, "k", &log).await.is_err());
        assert_eq!(values::charge(&store, "k", &log).await, Ok(odd()));
        assert_eq!(values::charge(&store, "k", &log).await, Ok(odd()));
        assert_eq!((log.calls(), log.seen()), (1, vec!["Some(())".to_owned(); 2]));
    }

    async fn r20a_what_is_to_be_undone_is_known_to_the_retry(db) {
        let (store, log): (_, &'static Log) = (db.store(4).await, Box::leak(Box::new(Log::failing(1))));
        assert!(matches!(values::undo(&store, "k", log).await, Err(Refused::Idem(_))));
        assert_eq!(log.refunds.load(Ordering::SeqCst), 0);
        for _ in 0..2 {
            assert_eq!(values::undo(&store, "k", log).await, Err(Refused::Odd(odd())));
        }
        assert_eq!((log.calls(), log.refunds.load(Ordering::SeqCst)), (1, 1));
    }

    async fn r20a_what_is_recorded_to_be_resumed_comes_back_as_it_was(db) {
        let store = db.store(4).await;
        let input = odd();
        assert!(values::with_input(&store, "k", &input).await.is_err());
        let seen = Mutex::new(Vec::new());
        let resumed = store.resume_abandoned("values.input", async |(id, input): (String, Odd)| {
            seen.lock().expect("seen").push((id.clone(), input.clone()));
            values::with_input(&store, &id, &input).await
        });
        assert_eq!(resumed.await.expect("an answer").failed, 1);
        assert_eq!(seen.into_inner().expect("seen"), [("k".to_owned(), input)]);
    }

    async fn r20b_the_first_caller_gets_what_every_later_one_reads(db) {
        let (store, log) = (db.store(4).await, Log::failing(1));
        let expected = Receipt { id: 7, trace: None };
        for is_replayed in [false, true] {
            let plain = observe(values::plain(&store, "k")).await;
            assert_eq!((plain.replayed, plain.result.expect("a result")), (is_replayed, expected.clone()));
            let refused = observe(values::refused(&store, "k")).await;
            assert_eq!((refused.replayed, refused.result), (is_replayed, Err(Refused::Receipt(expected.clone()))));
        }
        assert!(values::in_steps(&store, "k", &log).await.is_err());
        values::in_steps(&store, "k", &log).await.expect("a result");
        assert_eq!((log.calls(), log.seen()), (1, vec![format!("{expected:?}"); 4]));
    }

    async fn r20a_what_cannot_be_stored_is_refused_before_anything_is_called(db) {
        let (store, log) = (db.store(4).await, Log::default());
        for _ in 0..2 {
            assert_eq!(values::one_way(&store, "k", &log).await.expect_err("refused").kind(), Kind::ReplyFailed);
            assert_eq!(values::one_way_result(&store, "k", &log).await.expect_err("refused").kind(), Kind::ReplyFailed);
        }
        assert_eq!(log.calls(), 0);
        assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE operation = 'values.one_way_result'").await, 0);
    }

    async fn r05a_a_set_that_is_unordered_is_the_same_in_each_delivery(db) {
        let store = db.store(4).await;
        let tags: Vec<_> = (0..50).map(|tag| format!("tag {tag}")).collect();
        let body = serde_json::json!({"id": "k", "tags": tags}).to_string();
        for _ in 0..5 {
            let message: Tagged = serde_json::from_str(&body).expect("a message");
            assert_eq!(Action::of(&values::tagged(&store, &message).await), Action::Acknowledge);
        }
        assert_eq!(db.records().await, 1);
        let other = Tagged { id: "k".to_owned(), tags: tags.into_iter().skip(1).collect() };
        assert_eq!(values::tagged(&store, &other).await.expect_err("reused").kind(), Kind::KeyReused);
    }

    async fn r05a_options_units_and_floats_are_different_requests(db) {
        let store = db.store(4).await;
        assert_eq!(values::rated(&store, "k", &Some(f64::NAN)).await.expect("a result"), 1);
        assert!(observe(values::rated(&store, "k", &Some(f64::NAN))).await.replayed);
        for other in [None, Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(0.0)] {
            let refused = values::rated(&store, "k", &other).await;
            assert_eq!(refused.expect_err("reused").kind(), Kind::KeyReused, "{other:?}");
        }
        assert_eq!(values::rated(&store, "k", &Some(())).await.expect_err("reused").kind(), Kind::KeyReused);
    }

    async fn r05a_a_resumed_run_is_not_compared_and_keeps_the_keys_of_its_calls(db) {
        let (store, log): (_, &'static Log) = (db.store(4).await, Box::leak(Box::new(Log::failing(2))));
        for id in ["one", "two"] {
            assert!(values::traced(&store, id, "the first", &values::TracedLog(log)).await.is_err());
        }
        let handle = async |id: String| values::traced(&store, &id, "a later", &values::TracedLog(log)).await;
        let resumed = store.resume_abandoned("values.traced", handle).await.expect("an answer");
        assert_eq!((resumed.succeeded, resumed.failed), (2, 0));
        let keys = log.keys.lock().expect("keys").clone();
        let (first, resumed): (HashSet<_>, HashSet<_>) = (keys[..2].iter().collect(), keys[2..].iter().collect());
        assert_eq!((first.len(), first), (2, resumed), "the provider knows each call by its first key");
        // A caller is compared as before.
        let caller = values::traced(&store, "one", "another", &values::TracedLog(log)).await;
        assert_eq!(caller.expect_err("reused").kind(), Kind::KeyReused);
        values::traced(&store, "one", "the first", &values::TracedLog(log)).await.expect("replayed");
        assert_eq!(log.calls(), 4);
    }
    async fn r28a_a_call_whose_answer_is_not_recorded_is_not_forgotten_by_a_success(db) {
        let store = db.store(4).await;
        for call in [CallEnds::GivenUp, CallEnds::TooLong] {
            for finishes in [false, true] {
                let (id, log) = (format!("{call:?} {finishes}"), Log::default());
                for _ in 0..2 {
                    let hasty = values::hasty(&store, &id, &Way { call, finishes }, &log).await;
                    assert_eq!(hasty.expect_err("unknown").kind(), Kind::OutcomeUnknown, "{id}");
                    db.end_pauses().await;
                }
                let retry = async || values::hasty(&store, &id, &Way { call: CallEnds::Well, finishes }, &log).await;
                assert_eq!(retry().await.expect("done"), 1, "{id}");
                assert_eq!(retry().await.expect("replayed"), 1, "{id}");
                let keys = log.keys.lock().expect("keys").clone();
                assert_eq!((keys.len(), keys.iter().collect::<HashSet<_>>().len()), (3, 1), "{id}");
            }
        }
    }
}
