//! Rule 34: no event, no metric and no log line has a scope, a key, content, or the words of a database's error.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idem_core::observer::{Backlog, Event, Observer};
use idem_core::seal::{Keyring, SealKey};
use idem_sqlx::Sweep;
use idem_testkit::logs::CANARY;

use crate::client::{Call, eventually};
use crate::observer::{Counters, Recorder};
use crate::plain;
use crate::script::{Act, Script};
use crate::support::Database;

/// Keeps each event as an event, as metrics, and as a word for its kind.
#[derive(Clone, Default)]
struct Everything {
    recorder: Recorder,
    counters: Counters,
    kinds: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Observer for Everything {
    fn observe(&self, event: &Event<'_>) {
        self.recorder.observe(event);
        self.counters.observe(event);
        self.kinds.lock().expect("no panic").insert(kind(event));
    }
}

fn kind(event: &Event<'_>) -> &'static str {
    match event {
        Event::RunBegan { .. } => "run began",
        Event::Settled(_) => "settled",
        Event::TakenOver { .. } => "taken over",
        Event::LeaseLost { .. } => "lease lost",
        Event::RenewalFailed { .. } => "renewal failed",
        Event::CommitUnknown { .. } => "commit unknown",
        Event::Step { .. } => "step",
        Event::Undo { .. } => "undo",
        Event::Swept { .. } => "swept",
        Event::Backlog(_) => "backlog",
        other => panic!("a kind that this test does not bring about: {other:?}"),
    }
}

impl Everything {
    fn kinds(&self) -> BTreeSet<&'static str> {
        self.kinds.lock().expect("no panic").clone()
    }
}

both! {
    // The word is in each key, scope, body, reply, row, input and error. The logs are searched for it in every test.
    async fn r34_nothing_that_is_told_has_content(db) {
        for is_sealed in [false, true] {
            let told = Everything::default();
            let keyring = is_sealed.then(|| Keyring::new(1, SealKey::from_bytes([1; 32])));
            let store = db.told_store(keyring, told.clone()).await;
            let name = |name: &str| format!("{name}-{is_sealed}-{CANARY}");

            // Over HTTP, in one transaction.
            let (app, gauge) = db.app_over(store.clone());
            for what in ["insert", "reject", "fail", "panic", "swallow", "raw_commit", "panicking_body"] {
                let call = Call::act(what).key(&name(what));
                call.send(&app).await;
                call.send(&app).await;
                Call::act("release_ok").key(&name(what)).send(&app).await;
            }
            // In steps, while no lease is renewed.
            let (script, leased) = (Script::default(), name("leased"));
            script.act("charge", Act::Wait);
            let run = steps::pay_briefly(&store, CANARY, &leased, CANARY, &script);
            let others = async {
                script.until_entered("charge").await;
                // The word as it cannot be found in the statement, which sqlx logs.
                db.refuse_completions(&format!("{}'||'{}", &CANARY[..3], &CANARY[3..])).await;
                let broken = Call::act("insert").key(&name("broken"));
                assert_eq!(broken.send(&app).await.status.as_u16(), 500);
                eventually("a renewal fails", async || told.kinds().contains("renewal failed")).await;
                db.refuse_no_completions().await;
                db.execute("UPDATE idem_records SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
                assert!(steps::pay_briefly(&store, CANARY, &leased, CANARY, &script).await.is_ok());
                script.open();
            };
            let (lost, ()) = tokio::join!(run, others);
            assert!(lost.is_err());
            let failing = Arc::new(Script::default());
            failing.act("undo reserve", Act::Fail);
            for _ in 0..2 {
                assert!(orders::order(&store, &name("order"), true, &failing).await.is_err());
            }

            // Plain functions.
            gauge.open(1000);
            for act in ["ship", "final", "later", "broken", "commit"] {
                let event = plain::Event::of(&name(act), act);
                _ = functions::handle(&store, &gauge, &event).await;
                _ = functions::reject(&gauge, &store, &event).await;
                _ = functions::reject(&gauge, &store, &event).await;
            }

            assert!(store.drain(Duration::from_secs(30)).await);
            db.expire().await;
            let sweeper = store.sweeper(Sweep::default());
            eventually("it is swept", async || told.recorder.backlog() == Some(Backlog::default())).await;
            sweeper.stop().await;

            let all = ["backlog", "lease lost", "renewal failed", "run began", "settled", "step", "swept", "taken over", "undo"];
            assert_eq!(told.kinds().into_iter().filter(|kind| *kind != "commit unknown").collect::<Vec<_>>(), all);
            told.recorder.expect_no_content();
            let counters = told.counters.all();
            assert!(counters.len() > 20, "{counters:?}");
            assert!(!format!("{counters:?}").contains(CANARY), "{counters:?}");
        }
    }
}
