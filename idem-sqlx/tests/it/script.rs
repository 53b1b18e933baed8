//! What the steps of a test do, and what they did.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::client::eventually;
use crate::pay::Failed;

#[derive(Debug, Default)]
pub struct Script {
    /// What happens in a step, by its name, once.
    acts: Mutex<HashMap<&'static str, Act>>,
    /// The steps that were entered, with the key of those that call.
    entered: Mutex<Vec<(String, String)>>,
    attempts: Mutex<Vec<u32>>,
    /// Whether the gate is open.
    gate: watch::Sender<bool>,
    /// Each step that hangs has a share in it.
    hanging: Arc<()>,
    /// Another release of the handler has no second step.
    pub left_out: AtomicBool,
    /// Another release of the handler has another second step.
    pub changed: AtomicBool,
    /// Whether a step fails that has waited for the gate.
    fails: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Fail,
    Panic,
    /// Stands still until the test opens the gate.
    Wait,
    /// Stands still for ever.
    Hang,
    /// Ends the transaction by itself.
    Commit,
    /// The same, and then fails.
    CommitAndFail,
    /// The same, and then stands still for ever.
    CommitAndHang,
}

impl Script {
    pub fn act(&self, step: &'static str, act: Act) {
        self.acts.lock().expect("acts").insert(step, act);
    }

    pub fn begin(&self, attempt: u32) {
        self.attempts.lock().expect("attempts").push(attempt);
    }

    /// What happens in the step before its writes. The answer is what is left to happen behind them: a COMMIT.
    pub async fn enter(&self, step: &'static str, key: &str) -> Result<Option<Act>, Failed> {
        self.entered.lock().expect("entered").push((step.to_owned(), key.to_owned()));
        let act = self.acts.lock().expect("acts").remove(step);
        match act {
            None => Ok(None),
            Some(Act::Fail) => Err(Failed::Told),
            Some(Act::Panic) => panic!("told to"),
            Some(Act::Wait) => {
                self.gate.subscribe().wait_for(|is_open| *is_open).await.expect("a gate");
                if self.fails.load(Ordering::SeqCst) { Err(Failed::Told) } else { Ok(None) }
            }
            Some(Act::Hang) => self.hang().await,
            Some(Act::Commit | Act::CommitAndFail | Act::CommitAndHang) => Ok(act),
        }
    }

    /// What happens behind the COMMIT.
    pub async fn leave(&self, act: Act) -> Result<(), Failed> {
        match act {
            Act::CommitAndFail => Err(Failed::Told),
            Act::CommitAndHang => self.hang().await,
            _ => Ok(()),
        }
    }

    async fn hang<T>(&self) -> T {
        let _share = Arc::clone(&self.hanging);
        pending().await
    }

    /// Whether a step hangs that was not given up.
    pub fn is_hanging(&self) -> bool {
        Arc::strong_count(&self.hanging) > 1
    }

    pub fn fail_when_opened(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until the step was entered.
    pub async fn until_entered(&self, step: &str) {
        eventually(&format!("{step} is entered"), async || self.times(step) > 0).await;
    }

    pub fn steps(&self) -> Vec<String> {
        self.entered.lock().expect("entered").iter().map(|(step, _)| step.clone()).collect()
    }

    pub fn times(&self, step: &str) -> usize {
        self.steps().iter().filter(|entered| *entered == step).count()
    }

    pub fn keys(&self) -> Vec<String> {
        let entered = self.entered.lock().expect("entered");
        entered.iter().filter(|(_, key)| !key.is_empty()).map(|(_, key)| key.clone()).collect()
    }

    pub fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().expect("attempts").clone()
    }
}
