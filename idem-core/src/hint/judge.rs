//! What an entry means for a request.

use std::time::Duration;

use super::confirmed::Known;
use super::entry::{Content, Entry, age};
use crate::record::Reply;

/// An answer that a hint may give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The request has run: its reply as it is stored, and how long ago the run was completed, if that is known.
    Replay(Reply, Option<Duration>),
    /// The request is running.
    InFlight,
}

/// Decides whether an entry answers the request for which it was [read](Entry::read), from what is known of the
/// database. `None`: the database decides.
///
/// The record of a reply cannot be gone: it does not expire before the entry does, and a statement that removes it earlier
/// changes the epoch. So the database would say the same.
#[must_use]
pub fn judge(entry: Entry, known: Option<Known>) -> Option<Answer> {
    let known = known?;
    if entry.epoch != known.epoch {
        return None;
    }
    if !known.is_before(entry.expires_at) {
        return None;
    }
    Some(match entry.content {
        Content::Reply { reply, completed_at } => Answer::Replay(reply, age(completed_at, known.latest)),
        Content::Running => Answer::InFlight,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::hint::Epoch;
    use crate::record::{Format, Timestamp};

    #[test]
    fn r38_only_what_is_proven_is_an_answer() {
        let (ours, theirs) = (Epoch::of(&[b"one"]), Epoch::of(&[b"two"]));
        let reply =
            Reply { format: Format::HTTP, status: Some(201), headers: Bytes::new(), body: Bytes::from_static(b"done") };
        let finished = Content::Reply { reply: reply.clone(), completed_at: Some(Timestamp(4_000_000)) };
        let replay = Answer::Replay(reply, Some(Duration::from_secs(6)));
        let known = Known { epoch: ours, latest: Timestamp(10_000_000) };
        let second_before_the_end = Timestamp(11_000_000);
        // The epoch of the entry, its end, what is known; whether it is an answer.
        let table = [
            (ours, Timestamp(11_000_001), Some(known), true),
            (ours, Timestamp(i64::MAX), Some(known), true),
            (ours, second_before_the_end, Some(known), false),
            (ours, Timestamp(9_000_000), Some(known), false),
            (ours, Timestamp(i64::MIN), Some(known), false),
            (theirs, Timestamp(i64::MAX), Some(known), false),
            (ours, Timestamp(i64::MAX), None, false),
            (ours, Timestamp(i64::MAX), Some(Known { latest: Timestamp(i64::MAX), ..known }), false),
            (ours, Timestamp(11_000_001), Some(Known { epoch: theirs, ..known }), false),
        ];
        for (epoch, expires_at, known, is_answer) in table {
            for (content, answer) in [(&finished, &replay), (&Content::Running, &Answer::InFlight)] {
                let entry = Entry { content: content.clone(), epoch, expires_at };
                let answer = is_answer.then(|| answer.clone());
                assert_eq!(judge(entry.clone(), known), answer, "{entry:?} {known:?}");
            }
        }
    }
}
