//! Leased runs whose caller does not come again: `record_input` and `resume_abandoned`.

use std::sync::atomic::{AtomicUsize, Ordering};

use idem_core::seal::{Keyring, SealKey};
use idem_core::{Error, Kind, Resumed};
use idem_testkit::logs::CANARY;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing_subscriber::layer::SubscriberExt;

use crate::client::eventually;
use crate::support::Database;

/// What the functions of these tests are called with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    pub id: String,
    pub to: String,
    pub text: String,
}

pub fn mail(id: impl ToString, to: &str) -> Mail {
    Mail { id: id.to_string(), to: to.to_owned(), text: CANARY.to_owned() }
}

/// Where mails are delivered.
#[derive(Debug)]
pub struct Office {
    /// Each time that the first step was entered.
    pub prepared: AtomicUsize,
    /// Each time that the delivery was tried.
    pub tried: AtomicUsize,
    /// Open, unless a test closes it.
    pub gate: Semaphore,
    /// How many tries from now on fail.
    pub failures: AtomicUsize,
}

impl Default for Office {
    fn default() -> Self {
        Self {
            prepared: AtomicUsize::new(0),
            tried: AtomicUsize::new(0),
            gate: Semaphore::new(1),
            failures: AtomicUsize::new(0),
        }
    }
}

impl Office {
    pub async fn deliver(&self) -> Result<(), Error> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.acquire().await.expect("a gate"));
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Error::new(Kind::StoreFailed).because("told to")) } else { Ok(()) }
    }

    pub fn failing(times: usize) -> Self {
        Self { failures: AtomicUsize::new(times), ..Self::default() }
    }

    fn tried(&self) -> usize {
        self.tried.load(Ordering::SeqCst)
    }

    fn prepared(&self) -> usize {
        self.prepared.load(Ordering::SeqCst)
    }
}

macro_rules! mails {
    ($module:ident, $Store:ident, $Steps:ident) => {
        pub mod $module {
            use std::sync::atomic::Ordering;

            use idem_core::{Error, idempotent, Resumed};
            use idem_sqlx::{$Steps, $Store};

            use super::{Mail, Office};

            #[idempotent(
                        key = mail.id, scope = mail.to, operation = "mails.send", fingerprint = mail, attempts = 3,
                        record_input = mail
                    )]
            pub async fn send(steps: &mut $Steps, mail: &Mail, office: &Office) -> Result<String, Error> {
                let prepare = async |_| {
                    office.prepared.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Error>(())
                };
                steps.call("prepare", prepare).await?;
                steps.call("deliver", async |_| office.deliver().await).await?;
                Ok(mail.to.clone())
            }

            /// The same without a recorded input, and under another name.
            #[idempotent(key = mail.id, scope = "mails", operation = "mails.forget", fingerprint = mail)]
            pub async fn forget(steps: &mut $Steps, mail: &Mail, office: &Office) -> Result<(), Error> {
                steps.call("deliver", async |_| office.deliver().await).await
            }

            /// Of several arguments, some are recorded.
            #[idempotent(
                        key = id, scope = "mails", operation = "mails.parts", fingerprint = to, record_input = (id, to)
                    )]
            pub async fn parts(steps: &mut $Steps, id: &str, to: &str, office: &Office) -> Result<String, Error> {
                steps.call("deliver", async |_| office.deliver().await).await?;
                Ok(to.to_owned())
            }

            /// Another operation whose input is recorded. Its callers wait.
            #[idempotent(
                key = mail.id, scope = mail.to, operation = "mails.other", fingerprint = mail, record_input = mail,
                in_flight = wait("5s")
            )]
            pub async fn other(steps: &mut $Steps, mail: &Mail, office: &Office) -> Result<(), Error> {
                steps.call("deliver", async |_| office.deliver().await).await
            }

            pub async fn go_on(store: &$Store, office: &Office) -> Resumed {
                let resumed = store.resume_abandoned("mails.send", async |mail: Mail| send(store, &mail, office).await);
                resumed.await.expect("an answer")
            }
        }
    };
}

mails!(postgres_mails, PgStore, PgSteps);
mails!(sqlite_mails, SqliteStore, SqliteSteps);

fn counts(resumed: Resumed) -> (u64, u64) {
    (resumed.succeeded, resumed.failed)
}

const INPUTS: &str = "SELECT count(*) FROM idem_journal WHERE position = -1";

both! {
    async fn r28_abandoned_runs_are_gone_on_with_without_their_callers(db) {
        let (store, office) = (db.store(8).await, std::sync::Arc::new(Office::failing(2)));
        // Two that failed, one that is over, one that runs, and two that nobody recorded.
        for id in ["failed 1", "failed 2"] {
            assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
        }
        assert_eq!(mails::send(&store, &mail("over", "u1"), &office).await.expect("sent"), "u1");
        office.failures.store(1, Ordering::SeqCst);
        assert!(mails::forget(&store, &mail("forgotten", "u1"), &office).await.is_err());
        let closed = office.gate.acquire().await.expect("a gate");
        let (of_run, of_store) = (office.clone(), store.clone());
        let running = tokio::spawn(async move { mails::send(&of_store, &mail("runs", "u1"), &of_run).await });
        eventually("it is delivered", async || office.tried() == 5).await;
        assert_eq!(db.number(INPUTS).await, 3);
        drop(closed);
        running.await.expect("a task").expect("sent");

        let before = (office.prepared(), office.tried());
        assert_eq!(counts(mails::go_on(&store, &office).await), (2, 0));
        assert_eq!((office.prepared() - before.0, office.tried() - before.1), (0, 2));
        assert_eq!(db.number(INPUTS).await, 0);
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 0));
        // Its caller comes after all.
        assert_eq!(mails::send(&store, &mail("failed 1", "u1"), &office).await.expect("sent"), "u1");
        assert_eq!(office.tried() - before.1, 2);
    }

    async fn r25_a_run_whose_lease_lives_is_not_abandoned(db) {
        let (store, office) = (db.store(8).await, std::sync::Arc::new(Office::default()));
        let closed = office.gate.acquire().await.expect("a gate");
        let (of_run, of_store) = (office.clone(), store.clone());
        let running = tokio::spawn(async move { mails::send(&of_store, &mail("k", "u1"), &of_run).await });
        eventually("it is delivered", async || office.tried() == 1).await;
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 0));
        drop(closed);
        running.await.expect("a task").expect("sent");
        assert_eq!(office.tried(), 1);
    }

    async fn each_of_several_pages_is_given_once_in_a_pass_however_it_ends(db) {
        const MAILS: usize = 230;
        let (store, office) = (db.store(8).await, Office::failing(MAILS));
        // The same keys of several scopes, so that a page ends within one.
        for id in 0..MAILS {
            assert!(mails::send(&store, &mail(id / 5, &format!("u{}", id % 5)), &office).await.is_err());
        }
        office.failures.store(MAILS, Ordering::SeqCst);
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 230));
        assert_eq!(office.tried(), 2 * MAILS);
        db.end_pauses().await;
        assert_eq!(counts(mails::go_on(&store, &office).await), (230, 0));
        assert_eq!((office.tried(), office.prepared()), (3 * MAILS, MAILS));
    }

    async fn r26_two_processes_that_go_on_at_once_run_each_once(db) {
        let (one, other, office) = (db.store(4).await, db.store(4).await, Office::failing(20));
        for id in 0..20 {
            assert!(mails::send(&one, &mail(id, "u1"), &office).await.is_err());
        }
        let (first, second) = tokio::join!(mails::go_on(&one, &office), mails::go_on(&other, &office));
        assert!(first.succeeded + second.succeeded >= 20, "{first:?} {second:?}");
        assert_eq!((office.tried(), db.number(INPUTS).await), (40, 0));
    }

    async fn attempts_count_and_one_that_has_none_left_is_not_run(db) {
        let (store, office) = (db.store(4).await, Office::failing(3));
        for _ in 0..3 {
            assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
            db.forget_releases().await;
        }
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 1));
        assert_eq!(office.tried(), 3);
    }

    async fn r25a_one_that_may_not_be_resumed_yet_is_left_for_a_later_round(db) {
        let (store, office) = (db.store(4).await, Office::failing(8));
        for id in ["a", "b"] {
            for _ in 0..4 {
                assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
                db.end_pauses().await;
            }
        }
        // The one has just failed once more, and the other one's turn has come.
        office.failures.store(1, Ordering::SeqCst);
        assert!(mails::send(&store, &mail("a", "u1"), &office).await.is_err());
        assert_eq!(counts(mails::go_on(&store, &office).await), (1, 0));
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 0), "neither resumed nor failed");
        assert_eq!(office.tried(), 10);
        let refused = mails::send(&store, &mail("a", "u1"), &office).await.expect_err("too soon");
        assert_eq!(refused.kind(), Kind::AttemptTooSoon);
        db.end_pauses().await;
        assert_eq!(counts(mails::go_on(&store, &office).await), (1, 0));
        assert_eq!((office.tried(), db.number(INPUTS).await), (11, 0));
    }

    async fn r25a_who_resumes_waits_for_no_runs_turn(db) {
        let (store, office) = (db.store(4).await, Office::failing(4));
        for _ in 0..4 {
            db.end_pauses().await;
            assert!(mails::other(&store, &mail("k", "u1"), &office).await.is_err());
        }
        let resume = async || {
            let again = async |mail: Mail| mails::other(&store, &mail, &office).await;
            counts(store.resume_abandoned("mails.other", again).await.expect("an answer"))
        };
        // In four seconds, for which its caller would wait.
        assert_eq!(resume().await, (0, 0));
        db.end_pauses().await;
        assert_eq!(resume().await, (1, 0));
    }

    async fn r22_an_input_that_cannot_be_read_is_not_run_and_stays(db) {
        let (store, office) = (db.store(4).await, Office::failing(1));
        assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        db.execute("UPDATE idem_journal SET body = claim WHERE position = -1").await;
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 1));
        assert_eq!((office.tried(), db.number(INPUTS).await), (1, 1));
        assert_eq!(mails::send(&store, &mail("k", "u1"), &office).await.expect("its caller can"), "u1");
    }

    async fn r32_the_input_of_an_expired_run_is_forgotten(db) {
        let (store, office) = (db.store(4).await, Office::failing(2));
        assert!(mails::send(&store, &mail("k", "old"), &office).await.is_err());
        db.expire().await;
        assert_eq!(counts(mails::go_on(&store, &office).await), (0, 0));
        assert!(mails::send(&store, &mail("k", "new"), &office).await.is_err());
        assert_eq!(counts(mails::go_on(&store, &office).await), (1, 0));
        assert_eq!(mails::send(&store, &mail("k", "new"), &office).await.expect("sent"), "new");
    }

    async fn r32_what_is_over_or_has_expired_when_its_turn_comes_is_not_begun_anew(db) {
        let (store, office) = (db.store(4).await, Office::failing(3));
        for id in 0..3 {
            assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
        }
        // All three are found; while the first is handled, the others expire.
        let handled = AtomicUsize::new(0);
        let handle = async |mail: Mail| {
            if handled.fetch_add(1, Ordering::SeqCst) == 1 {
                db.expire().await;
            }
            mails::send(&store, &mail, &office).await
        };
        let resumed = store.resume_abandoned("mails.send", handle).await.expect("an answer");
        assert_eq!(counts(resumed), (1, 2));
        assert_eq!((office.prepared(), office.tried()), (3, 4));
    }

    async fn r32_however_often_the_handler_tries_it_begins_nothing(db) {
        let (store, office) = (db.store(4).await, Office::failing(1));
        assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        let kinds = std::sync::Mutex::new(Vec::new());
        let handle = async |mail: Mail| {
            db.expire().await;
            for _ in 0..3 {
                let sent = mails::send(&store, &mail, &office).await;
                kinds.lock().expect("kinds").push(sent.err().map(|error| error.kind()));
            }
            Err::<(), ()>(())
        };
        assert_eq!(counts(store.resume_abandoned("mails.send", handle).await.expect("an answer")), (0, 1));
        assert_eq!(kinds.into_inner().expect("kinds"), [Some(Kind::NothingToResume); 3]);
        assert_eq!((office.tried(), office.prepared()), (1, 1));
    }

    async fn another_operations_runs_are_not_given_and_another_key_is_not_begun(db) {
        let (store, office) = (db.store(4).await, Office::failing(2));
        assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        assert!(mails::other(&store, &mail("k", "u1"), &office).await.is_err());
        assert_eq!(counts(mails::go_on(&store, &office).await), (1, 0));
        let tried = office.tried();
        // The input of one function for another, or under another key: nothing runs.
        for change in ["operation", "key"] {
            let kinds = std::sync::Mutex::new(Vec::new());
            let handle = async |mut mail: Mail| {
                if change == "key" {
                    mail.id.push('2');
                }
                let sent = if change == "key" {
                    mails::other(&store, &mail, &office).await
                } else {
                    mails::send(&store, &mail, &office).await.map(|_| ())
                };
                kinds.lock().expect("kinds").push(sent.as_ref().err().map(Error::kind));
                sent
            };
            let resumed = store.resume_abandoned("mails.other", handle).await.expect("an answer");
            assert_eq!(counts(resumed), (0, 1), "{change}");
            assert_eq!(kinds.into_inner().expect("kinds"), [Some(Kind::NothingToResume)]);
        }
        assert_eq!((office.tried(), db.records().await), (tried, 2));
    }

    async fn what_a_resumed_run_calls_may_begin(db) {
        let (store, office) = (db.store(4).await, Office::failing(1));
        assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        let handle = async |mail: Mail| {
            let sent = mails::send(&store, &mail, &office).await?;
            mails::forget(&store, &mail, &office).await?;
            Ok::<_, Error>(sent)
        };
        assert_eq!(counts(store.resume_abandoned("mails.send", handle).await.expect("an answer")), (1, 0));
        assert_eq!(db.number("SELECT count(*) FROM idem_records WHERE completed_at IS NOT NULL").await, 2);
    }

    async fn one_that_panics_does_not_keep_the_others_from_being_gone_on_with(db) {
        let (store, office) = (db.store(4).await, Office::failing(2));
        for id in ["a", "b"] {
            assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
        }
        let handled = AtomicUsize::new(0);
        let handle = async |mail: Mail| {
            assert!(handled.fetch_add(1, Ordering::SeqCst) > 0, "the first one panics");
            mails::send(&store, &mail, &office).await
        };
        assert_eq!(counts(store.resume_abandoned("mails.send", handle).await.expect("an answer")), (1, 1));
    }

    async fn an_input_over_the_limit_is_refused_before_anything_runs(db) {
        let (store, office) = (db.store(4).await, Office::default());
        let long = mail("k", "u1").to.repeat(1024 * 1024);
        let refused = mails::parts(&store, "k", &long, &office).await;
        assert_eq!(refused.expect_err("refused").kind(), Kind::ReplyFailed);
        assert_eq!((office.tried(), db.records().await), (0, 0));
    }

    async fn the_input_may_be_made_of_several_arguments_and_read_in_a_task(db) {
        let (store, office) = (db.store(4).await, std::sync::Arc::new(Office::failing(1)));
        assert!(mails::parts(&store, "k", "u1", &office).await.is_err());
        let (of_task, in_task) = (store.clone(), office.clone());
        let resumed = tokio::spawn(async move {
            let run = async |(id, to): (String, String)| mails::parts(&of_task, &id, &to, &in_task).await;
            of_task.resume_abandoned("mails.parts", run).await
        });
        assert_eq!(counts(resumed.await.expect("a task").expect("an answer")), (1, 0));
        assert_eq!(mails::parts(&store, "k", "u1", &office).await.expect("replayed"), "u1");
        assert_eq!(office.tried(), 2);
    }
    async fn r35_a_run_whose_input_cannot_be_opened_is_not_resumed_and_the_operator_is_told(db) {
        let ring = |id: u8| Keyring::new(id.into(), SealKey::from_bytes([id; 32]));
        let (store, office) = (db.sealed_store(ring(1)).await, Office::failing(3));
        for id in ["dropped", "moved", "well"] {
            assert!(mails::send(&store, &mail(id, id), &office).await.is_err());
        }
        let before = (office.prepared(), office.tried());
        let go_on = async |store: &_| {
            let log = Log::default();
            let logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
            let resumed = counts(mails::go_on(store, &office).await);
            drop(logging);
            (resumed, log.codes(), log.text())
        };
        // The key of all three is missing, or there is no keyring at all.
        for (store, why) in [(db.sealed_store(ring(2)).await, "id 1"), (db.store(4).await, "cannot be read")] {
            let (resumed, codes, text) = go_on(&store).await;
            assert_eq!((resumed, codes), ((0, 3), vec!["record_unreadable".to_owned(); 3]), "{text}");
            assert!(text.contains(why), "{text}");
            assert!(!text.contains("dropped"), "a scope is in the log: {text}");
        }
        // The input of another run. The others are resumed.
        db.execute(
            "UPDATE idem_journal SET body = (SELECT body FROM idem_journal WHERE position = -1 AND scope = 'well')
            WHERE position = -1 AND scope = 'moved'",
        )
        .await;
        assert_eq!((office.prepared(), office.tried()), before, "nothing has run");
        let (resumed, codes, text) = go_on(&store).await;
        assert_eq!((resumed, codes), ((2, 1), vec!["record_unreadable".to_owned()]), "{text}");
        assert_eq!((office.prepared(), office.tried()), (before.0, before.1 + 2));
        // Its caller comes after all, and resumes it.
        assert_eq!(mails::send(&store, &mail("moved", "moved"), &office).await.expect("sent"), "moved");
    }

    async fn r35_a_run_that_an_index_key_names_is_resumed(db) {
        let ring = Keyring::new(1, SealKey::from_bytes([1; 32])).index(SealKey::from_bytes([7; 32]));
        let (store, office) = (db.sealed_store(ring).await, Office::failing(1));
        store.migrate().await.expect("a fresh database");
        assert!(mails::send(&store, &mail("k", "ada"), &office).await.is_err());
        assert_eq!(counts(mails::go_on(&store, &office).await), (1, 0));
        assert_eq!((office.prepared(), office.tried()), (1, 2));
        assert_eq!(mails::send(&store, &mail("k", "ada"), &office).await.expect("a replay"), "ada");
        assert_eq!(office.tried(), 2);
    }

    async fn r05a_one_that_cannot_be_resumed_says_why_and_keeps_no_other_from_it(db) {
        let (store, office) = (db.store(4).await, Office::failing(10));
        let ids = ["u-damaged", "u-other", "u-exhausted", "u-refused", "u-panics", "u-explodes", "u-changed", "u-well"];
        for id in ids {
            assert!(mails::send(&store, &mail("k", id), &office).await.is_err());
        }
        for _ in 0..2 {
            assert!(mails::send(&store, &mail("k", "u-exhausted"), &office).await.is_err());
            db.forget_releases().await;
        }
        office.failures.store(0, Ordering::SeqCst);
        let body = |id: &str, text: &str| {
            format!("UPDATE idem_journal SET body = CAST('{text}' AS {}) WHERE position = -1 AND scope = '{id}'", D::BYTES)
        };
        db.execute(&body("u-damaged", "{")).await;
        db.execute(&body("u-other", "[1, true]")).await;
        // Another release of the program has other steps.
        db.execute("UPDATE idem_journal SET name = 'renamed' WHERE position = 0 AND scope = 'u-changed'").await;
        let log = Log::default();
        let logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
        let handle = async |Explosive(mail): Explosive| match mail.to.as_str() {
            "u-panics" => panic!("told to: {CANARY}"),
            // Another operation than the run's own.
            "u-refused" => mails::other(&store, &mail, &office).await.map(|()| String::new()),
            _ => mails::send(&store, &mail, &office).await,
        };
        let resumed = store.resume_abandoned("mails.send", handle).await.expect("an answer");
        drop(logging);
        assert_eq!(counts(resumed), (1, 7));
        let mut codes = log.codes();
        codes.sort_unstable();
        let expected = [
            "attempts_exhausted",
            "handler_panicked",
            "handler_panicked",
            "nothing_to_resume",
            "record_unreadable",
            "record_unreadable",
            "step_mismatch",
        ];
        assert_eq!(codes, expected);
        assert!(!ids.iter().any(|scope| log.text().contains(scope)), "a scope is in the log: {}", log.text());
    }
}

/// Its own code takes one mail for impossible.
#[derive(Debug, Deserialize)]
#[serde(from = "Mail")]
struct Explosive(Mail);

impl From<Mail> for Explosive {
    fn from(mail: Mail) -> Self {
        assert_ne!(mail.to, "u-explodes", "{}", mail.text);
        Self(mail)
    }
}

/// What the library has said at WARN and above.
#[derive(Debug, Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<(String, String)>>>);

impl Log {
    fn codes(&self) -> Vec<String> {
        let said = self.0.lock().expect("a log");
        said.iter().filter(|(name, _)| name == "code").map(|(_, value)| value.clone()).collect()
    }

    fn text(&self) -> String {
        format!("{:?}", self.0.lock().expect("a log"))
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Fields<'l>(&'l Log);

        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let value = format!("{value:?}").trim_matches('"').to_owned();
                self.0.0.lock().expect("a log").push((field.name().to_owned(), value));
            }
        }

        if *event.metadata().level() <= tracing::Level::WARN && event.metadata().target() == "idem" {
            event.record(&mut Fields(self));
        }
    }
}

/// A column of SQLite takes values of every type, and one row of another type hides no other.
#[tokio::test]
async fn r05a_sqlite_a_row_of_another_type_keeps_no_other_from_being_resumed() {
    let db = crate::support::Sqlite::create().await;
    let (store, office) = (db.store(4).await, Office::failing(2));
    for id in ["a", "b"] {
        assert!(sqlite_mails::send(&store, &mail(id, "u1"), &office).await.is_err());
    }
    db.execute(
        "UPDATE idem_journal SET body = 42 WHERE position = -1 AND key_hash = (SELECT min(key_hash) FROM idem_records)",
    )
    .await;
    assert_eq!(counts(sqlite_mails::go_on(&store, &office).await), (1, 1));
}
