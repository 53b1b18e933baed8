//! The checks of what is recorded, on either database.

use std::time::Duration;

use idem_core::operate::Condition;

use super::Finding;
use super::postgres::several;
use crate::database::Database;
use crate::failure::Failure;
use crate::text::duration;

pub(super) async fn backlog(database: &Database) -> Result<Finding, Failure> {
    /// The sweep looks once a minute.
    const SLOW: Duration = Duration::from_secs(10 * 60);
    const NONE: Duration = Duration::from_secs(24 * 60 * 60);
    let backlog = database.operate().backlog().await?;
    let oldest = duration(backlog.oldest);
    let found = format!("{} expired records are not swept, the oldest for {oldest}", backlog.expired);
    Ok(match backlog.oldest {
        oldest if oldest >= NONE => Finding::fail(
            found,
            "no sweep runs: start `store.sweeper(…)` in the application, or run `idem sweep` from a scheduled job",
        ),
        oldest if oldest >= SLOW => {
            Finding::warn(found, "the sweep is too slow: more sweepers, a larger batch, a shorter rest")
        }
        _ => Finding::ok(found),
    })
}

pub(super) async fn abandoned(database: &Database) -> Result<Finding, Failure> {
    let abandoned = database.operate().backlog().await?.abandoned;
    Ok(if abandoned == 0 {
        Finding::ok("no leased run is abandoned")
    } else {
        Finding::warn(
            format!("{abandoned} leased runs are not over, and no process holds them"),
            "a retry or `resume_abandoned` resumes them; `idem list --stuck` names them, `idem explain` says what stops one",
        )
    })
}

/// What no retry ends.
pub(super) async fn stuck(database: &Database) -> Result<Finding, Failure> {
    let counts = database.operate().counts().await?;
    let of = |condition: Condition| -> u64 {
        counts.counted.iter().filter(|counted| counted.condition == condition).map(|counted| counted.records).sum()
    };
    let (poisoned, unreadable) = (of(Condition::Poisoned), of(Condition::Unreadable));
    Ok(if poisoned + unreadable == 0 {
        Finding::ok("no key is poisoned, and no record unreadable")
    } else {
        Finding::warn(
            format!(
                "{poisoned} keys are poisoned by handlers that ended their transactions; {unreadable} records cannot be read"
            ),
            "`idem list --state poisoned --state unreadable` names them; look what was kept before they expire",
        )
    })
}

/// Rejected runs that are not undone, and runs with a call of which no answer is known. No process holds any of them.
pub(super) fn owed(undos: i64, calls: i64) -> Finding {
    if undos + calls == 0 {
        return Finding::ok("no undo and no answer of a call is owed");
    }
    Finding::warn(
        format!(
            "{} not undone, {} without an answer",
            several(undos, "rejected run is", "rejected runs are"),
            several(calls, "started call is", "started calls are")
        ),
        "`idem list --stuck` names the runs; mend what they call and let their clients retry, or settle one by hand and \
         `idem give-up`",
    )
}

pub(super) fn not_asked() -> Finding {
    Finding::ok("not checked: name the keys of the application's keyring by --key-id")
}

/// How many contents each key has sealed, by its id in hexadecimal digits.
pub(super) fn sealed(contents: &[(String, i64)], ring: &[u32]) -> Finding {
    let ids = contents.iter().map(|(hex, number)| (u32::from_str_radix(hex, 16).ok(), *number));
    let missing: Vec<_> = ids
        .filter(|(id, _)| id.is_none_or(|id| !ring.contains(&id)))
        .map(|(id, number)| {
            let id = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
            format!("{id} ({})", several(number, "content", "contents"))
        })
        .collect();
    if missing.is_empty() {
        return Finding::ok("the keyring has the key of every sealed content");
    }
    Finding::fail(
        format!("the keyring lacks keys: {}", missing.join(", ")),
        "put them back by `Keyring::reads`: without them the records are refused as `record_unreadable`",
    )
}
