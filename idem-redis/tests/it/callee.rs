//! A service that the handlers call: it honours the keys of calls and refuses late holders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use idem_core::{Error, Kind, idempotent};
use idem_redis::RedisSteps;

/// What it has been asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Callee(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    /// By the key of a call: how often it has taken effect, and how often it came.
    calls: HashMap<String, (u32, u32)>,
    /// By the name of what is changed: the greatest fence number.
    fences: HashMap<String, u64>,
    refused: u32,
}

impl Callee {
    /// Changes something once for each key. A smaller number than one that was seen is a late holder's.
    pub(crate) fn change(&self, what: &str, key: &str, fence: u64) -> Result<String, Error> {
        let mut asked = self.0.lock().expect("no poison");
        let greatest = asked.fences.entry(what.to_owned()).or_default();
        if fence < *greatest {
            asked.refused += 1;
            return Err(Error::new(Kind::DataRefused).because("a late holder"));
        }
        *greatest = fence;
        let (effects, came) = asked.calls.entry(key.to_owned()).or_default();
        *came += 1;
        if *effects == 0 {
            *effects += 1;
        }
        Ok(format!("changed {what}"))
    }

    /// How often anything has taken effect, by key.
    pub(crate) fn effects(&self) -> Vec<u32> {
        self.0.lock().expect("no poison").calls.values().map(|(effects, _)| *effects).collect()
    }

    /// How often calls came that had come before.
    pub(crate) fn repeated(&self) -> u32 {
        self.0.lock().expect("no poison").calls.values().map(|(_, came)| came - 1).sum()
    }

    /// How many late holders were refused.
    pub(crate) fn refused(&self) -> u32 {
        self.0.lock().expect("no poison").refused
    }
}

/// Two calls, each recorded.
#[idempotent(
    key = id, scope = "callee", operation = "callee.change", ttl = "1h", fingerprint = id, lease = "1s", attempts = 1000,
    record_input = id
)]
pub(crate) async fn change(steps: &mut RedisSteps, id: &str, callee: &Callee) -> Result<(String, u64), Error> {
    let fence = steps.fence().ok_or_else(|| Error::new(Kind::StepMismatch))?;
    let first = steps.call("first", async |key| callee.change(&format!("{id} 1"), key.as_str(), fence)).await?;
    let second = steps.call("second", async |key| callee.change(&format!("{id} 2"), key.as_str(), fence)).await?;
    Ok((format!("{first}, {second}"), fence))
}
