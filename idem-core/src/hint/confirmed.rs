//! What a database has said of itself, and for how long that counts.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use crate::record::Timestamp;
use crate::redacted::Beginning;

/// The history of a database, as a value that is another one after the database has lost a part of it: by a failover,
/// by a restored backup, or because an operator had records forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// The length in bytes.
    pub const LEN: usize = 16;

    /// The epoch that these parts stand for.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&digest.finalize()[..Self::LEN]);
        Self(bytes)
    }

    pub(super) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Epoch").field(&Beginning(&self.0)).finish()
    }
}

/// A moment by both clocks of the process.
///
/// The steady clock measures how long ago something was. It stands still while a virtual machine is suspended, and only
/// the other clock shows that.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the steady clock.
    pub steady: Instant,
    /// By the clock that can be set.
    pub wall: SystemTime,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// How much later this is, or `None` if the clocks disagree by more than [`MARGIN`].
    fn since(self, earlier: Self) -> Option<Duration> {
        let steady = self.steady.saturating_duration_since(earlier.steady);
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        (steady.abs_diff(wall) <= MARGIN).then_some(steady)
    }
}

/// How long before its end an entry is no longer used: more than clocks drift apart in the life of a confirmation.
const MARGIN: Duration = Duration::from_secs(1);

/// The answer of a database to the question for its epoch and its time.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed {
    epoch: Epoch,
    /// By the database's clock, at some time between the question and the answer.
    read: Timestamp,
    asked: Moment,
    answered: Instant,
}

impl Confirmed {
    /// For how long an answer counts, from the question on.
    pub const LIFE: Duration = Duration::from_secs(2);

    /// After which time the database should be asked again.
    pub const AGE: Duration = Duration::from_secs(1);

    /// The answer to a question that was asked at this moment. It has just come.
    #[must_use]
    pub fn new(epoch: Epoch, read: Timestamp, asked: Moment) -> Self {
        Self { epoch, read, asked, answered: Instant::now() }
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the database should be asked again.
    #[must_use]
    pub fn is_old(&self, now: Moment) -> bool {
        now.since(self.asked).is_none_or(|age| age > Self::AGE)
    }

    /// Whether the database's time can still be told from the answer: two clocks drift apart by much less than a second in a
    /// minute.
    #[must_use]
    pub fn is_usable_for_times(&self, now: Moment) -> bool {
        now.since(self.asked).is_some_and(|age| age <= Duration::from_secs(60))
    }

    /// What is known of the database at this moment. `None` if the answer is too old to count.
    #[must_use]
    pub fn known(&self, now: Moment) -> Option<Known> {
        let age = now.since(self.asked).filter(|age| *age <= Self::LIFE)?;
        Some(Known { epoch: self.epoch, latest: later(self.read, age) })
    }

    /// A time that the database's clock had not yet passed before this moment, which may be before the question.
    #[must_use]
    pub fn earliest(&self, at: Instant) -> Timestamp {
        match at.checked_duration_since(self.answered) {
            Some(after) => later(self.read, after),
            None => earlier(self.read, self.answered.duration_since(at)),
        }
    }
}

/// What is known of a database at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its epoch.
    pub epoch: Epoch,
    /// The latest time that its clock can show.
    pub latest: Timestamp,
}

impl Known {
    /// Whether something that ends at this time has surely not ended yet.
    #[must_use]
    pub fn is_before(&self, end: Timestamp) -> bool {
        later(self.latest, MARGIN) < end
    }

    /// The end of something that should be used for so long from now on.
    #[must_use]
    pub fn in_time(&self, time: Duration) -> Timestamp {
        later(later(self.latest, MARGIN), time)
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(micros(by)))
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_sub(micros(by)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn confirmed() -> (Confirmed, Moment) {
        let asked = Moment::now();
        let answered = asked.steady + SECOND / 10;
        (Confirmed { epoch: Epoch::of(&[b"one"]), read: Timestamp(50_000_000), asked, answered }, asked)
    }

    fn after(asked: Moment, steady: Duration, wall: Duration) -> Moment {
        Moment { steady: asked.steady + steady, wall: asked.wall + wall }
    }

    #[test]
    fn r38_an_answer_of_the_database_counts_for_two_seconds() {
        let (confirmed, asked) = confirmed();
        let known = |time| confirmed.known(after(asked, time, time));
        assert_eq!(known(2 * SECOND).map(|known| known.latest), Some(Timestamp(52_000_000)));
        assert_eq!(known(2 * SECOND + SECOND / 1000), None);
        assert!(!confirmed.is_old(after(asked, SECOND, SECOND)));
        assert!(confirmed.is_old(after(asked, SECOND + SECOND / 1000, SECOND)));
    }

    /// The steady clock of a suspended machine stands still. A clock that was set is no reason to trust the answer.
    #[test]
    fn r38_an_answer_does_not_count_after_a_suspension() {
        let (confirmed, asked) = confirmed();
        assert_eq!(confirmed.known(after(asked, SECOND, 3600 * SECOND)), None);
        let set_back = Moment { wall: asked.wall - 3600 * SECOND, ..after(asked, SECOND, SECOND) };
        assert!(confirmed.known(set_back).is_some(), "the steady clock has measured the second");
        assert!(confirmed.is_old(after(asked, SECOND, 3600 * SECOND)));
    }

    #[test]
    fn r38_the_clock_of_the_database_is_bounded_on_both_sides() {
        let (confirmed, asked) = confirmed();
        let known = confirmed.known(after(asked, SECOND, SECOND)).expect("it counts");
        assert_eq!(known.latest, Timestamp(51_000_000), "as if it was read with the question");
        assert_eq!(confirmed.earliest(asked.steady + SECOND), Timestamp(50_900_000), "as if read with the answer");
        assert_eq!(confirmed.earliest(asked.steady), Timestamp(49_900_000));
        assert!(known.is_before(Timestamp(52_000_001)), "a second before the end");
        assert!(!known.is_before(Timestamp(52_000_000)));
        assert!(known.is_before(known.in_time(SECOND)));
    }
}
