//! What a record means for a request, and what it means for a run.

use std::convert::Infallible;
use std::time::Duration;

use crate::error::Kind;
use crate::fingerprint::Fingerprint;
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Claim, Record, Reply, Request, State, Timestamp};

/// A decision about a request: what the store has to do.
///
/// `R` is what can be resumed: nothing in one transaction ([`Infallible`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<R = Resume> {
    /// There is no record. Claim the request; the primary key decides which of several claims wins.
    Claim,
    /// The record no longer counts. Claim the request in its place, if this claim still holds the record.
    Replace(Claim),
    /// A leased run was abandoned or released. Take it over, if the claim of the earlier attempt still holds the record.
    Resume(R),
    /// The same, but not before this time has passed: attempts that were released are spaced.
    TooSoon(R, Duration),
    /// The request has run: answer with this reply. The run was completed so long ago, if the store knows.
    Replay(Reply, Option<Duration>),
    /// The request must not run, and there is no reply to give.
    Refuse(Kind),
}

/// The earlier attempt of a leased run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The claim of the earlier attempt.
    pub claim: Claim,
    /// The number of the earlier attempt.
    pub attempt: u32,
    /// How many of the attempts were released.
    pub released: u32,
    /// Whether the run was rejected and is still to be undone.
    pub is_rejected: bool,
    /// The fingerprint of the first attempt. The keys of its calls are derived from it.
    pub fingerprint: Fingerprint,
}

impl Decision {
    /// Applies the lease terms: refuses a run whose attempts are used up, and refuses to begin a run if the caller may
    /// only resume. An attempt that was released is not counted. A rejected run is undone in any number of attempts.
    #[must_use]
    pub fn within(self, terms: &LeaseTerms, intent: Intent) -> Self {
        match self {
            Self::Resume(ref earlier) | Self::TooSoon(ref earlier, _) if earlier.has_used_up(terms) => {
                Self::Refuse(Kind::AttemptsExhausted)
            }
            Self::Claim | Self::Replace(_) if intent == Intent::Resume => Self::Refuse(Kind::NothingToResume),
            order => order,
        }
    }
}

impl<R> Decision<R> {
    /// Refuses to begin a run for this reason: its request was first sent too long ago. A run that has begun is resumed.
    pub(super) fn unless(self, refused: Option<Kind>) -> Self {
        match self {
            Self::Claim | Self::Replace(_) => refused.map_or(self, Self::Refuse),
            order => order,
        }
    }
}

impl Resume {
    /// Whether as many attempts as the terms allow ended without a word: by a crash, or by the loss of their lease.
    fn has_used_up(&self, terms: &LeaseTerms) -> bool {
        !self.is_rejected && self.attempt.saturating_sub(self.released) >= terms.attempts
    }
}

/// Decides what becomes of a request that runs in one transaction, from the record of its identity and the database's
/// clock.
///
/// ```
/// use idem_core::machine::{Decision, decide};
/// # use idem_core::{Fingerprint, Identity, Request, store::Timestamp};
/// # let identity = Identity::new("u1", "payments.create", "k1")?;
/// # let request = Request::new(identity, Fingerprint::none(), std::time::Duration::from_secs(60))?;
/// assert_eq!(decide(None, &request, Timestamp(0)), Decision::Claim);
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// The checks are in this order. An expired record counts as none. A record that cannot be compared is refused as
/// unreadable. Another fingerprint is refused as a reuse, in any state. A retry after the `ttl` of a record that is kept
/// longer is refused as too late, whether the sweep has removed the reply or not. Then the state decides. A run that was
/// begun in steps is refused: a transaction knows nothing of its steps. A request without a record that was
/// [first sent](crate::FirstSent) too long ago is refused, because it may have had one.
#[must_use]
pub fn decide(record: Option<&Record>, request: &Request, now: Timestamp) -> Decision<Infallible> {
    in_transaction(decide_on(record, Some(request.fingerprint), now)).unless(request.refused_at(now))
}

/// A transaction resumes no leased run.
pub(super) fn in_transaction(decision: Decision) -> Decision<Infallible> {
    match decision {
        Decision::Claim => Decision::Claim,
        Decision::Replace(expired) => Decision::Replace(expired),
        Decision::Resume(_) | Decision::TooSoon(..) => Decision::Refuse(Kind::StepMismatch),
        Decision::Replay(reply, age) => Decision::Replay(reply, age),
        Decision::Refuse(kind) => Decision::Refuse(kind),
    }
}

/// Decides for a leased run, [within](Decision::within) its terms.
///
/// A process that resumes a run has rebuilt the request from the record, maybe with another release of the types. So
/// its fingerprint is not compared.
#[must_use]
pub fn decide_leased(
    record: Option<&Record>,
    request: &Request,
    terms: &LeaseTerms,
    intent: Intent,
    now: Timestamp,
) -> Decision {
    let asked = (intent == Intent::Run).then_some(request.fingerprint);
    decide_on(record, asked, now).within(terms, intent).unless(request.refused_at(now))
}

pub(super) fn decide_on(record: Option<&Record>, asked: Option<Fingerprint>, now: Timestamp) -> Decision {
    let Some(record) = record else {
        return Decision::Claim;
    };
    if record.has_expired(now) {
        return Decision::Replace(record.claim);
    }
    let Some(fingerprint) = record.fingerprint else {
        return Decision::Refuse(Kind::RecordUnreadable);
    };
    let same = asked.is_none_or(|asked| asked == fingerprint);
    match (&record.state, same) {
        (
            State::Running
            | State::Leased { .. }
            | State::Completed(_)
            | State::Oversized
            | State::Late
            | State::GivenUp,
            false,
        ) => Decision::Refuse(Kind::KeyReused),
        (State::Completed(_) | State::Oversized, true) if record.refuses_retries(now) => {
            Decision::Refuse(Kind::RetryTooLate)
        }
        (State::Late, true) => Decision::Refuse(Kind::RetryTooLate),
        (State::GivenUp, true) => Decision::Refuse(Kind::GivenUp),
        (&State::Leased { until, .. }, true) if until > now => Decision::Refuse(Kind::KeyInFlight),
        (&State::Leased { until, attempt, released, is_rejected }, true) => {
            let earlier = Resume { claim: record.claim, attempt, released, is_rejected, fingerprint };
            match rest(until, released, now) {
                Duration::ZERO => Decision::Resume(earlier),
                rest => Decision::TooSoon(earlier, rest),
            }
        }
        (State::Running, true) => Decision::Refuse(Kind::TransactionEnded),
        (State::Completed(reply), true) => Decision::Replay(reply.clone(), record.age(now)),
        (State::Oversized, true) => Decision::Refuse(Kind::ReplyTooLarge),
        (State::Unreadable, true | false) => Decision::Refuse(Kind::RecordUnreadable),
    }
}

/// The pause between the end of a run's last lease and its next attempt, if so many of its attempts were released.
///
/// The first retry runs at once. Then the pause grows, so that an outage of a service that the run calls is not met by
/// as many calls as there are retries.
///
/// ```
/// use idem_core::machine::pause;
///
/// let pauses = [0, 1, 2, 3, 7, 8, u32::MAX].map(|released| pause(released).as_secs());
/// assert_eq!(pauses, [0, 0, 1, 2, 32, 60, 60]);
/// ```
#[must_use]
pub fn pause(released: u32) -> Duration {
    match released.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => LONGEST_PAUSE.min(Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(doublings))),
    }
}

/// A service that was down for hours is asked again at most a minute after it is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is left of the pause after a lease that has ended. Whether the lease was released or has run out is not
/// recorded: after a crash the pause of the earlier releases is kept, too.
fn rest(until: Timestamp, released: u32, now: Timestamp) -> Duration {
    // At most a minute.
    let pause = pause(released).as_micros() as i64;
    let rest = until.0.saturating_add(pause).saturating_sub(now.0);
    Duration::from_micros(u64::try_from(rest).unwrap_or(0))
}

/// By how much the expiry of a record is put off at its completion.
///
/// The record of a run in one transaction expires `ttl` after its claim if the run took up to a hundredth of that, and
/// `ttl` after its completion if it took longer. So it is replayed for the `ttl` after its completion, less at most a
/// hundredth. An update of the expiry costs more than one that leaves it alone. The record of a leased run always expires
/// `ttl` after its completion.
#[must_use]
pub fn lateness(ttl: Duration, elapsed: Duration) -> Duration {
    if elapsed > ttl / 100 { elapsed } else { Duration::ZERO }
}

/// What a record means for a run whose commit did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The run's completion is recorded: everything was committed.
    Kept,
    /// The run left no trace: nothing was committed.
    NotKept,
    /// The run's claim is recorded without its completion: the handler ended the transaction itself.
    Ended,
}

/// Decides what became of the run that held `claim`, from the record of its identity after the end of the run's
/// transaction.
#[must_use]
pub fn verdict(record: Option<&Record>, claim: Claim) -> Verdict {
    match record {
        None => Verdict::NotKept,
        Some(record) if record.claim != claim => Verdict::NotKept,
        Some(record) => match record.state {
            State::Running => Verdict::Ended,
            // This claim holds the lease, and the run is not over.
            State::Leased { .. } => Verdict::NotKept,
            // An operator gives up under a claim of its own.
            State::GivenUp => Verdict::NotKept,
            // Only the completion writes another state under this claim, so an unreadable state was committed, too.
            State::Completed(_) | State::Oversized | State::Late | State::Unreadable => Verdict::Kept,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;

    use super::*;
    use crate::first_sent::FirstSent;
    use crate::identity::{Identity, Key, Operation, Scope};
    use crate::policy::Then;
    use crate::record::Format;

    const NOW: Timestamp = Timestamp(1_000);

    fn asked(what: &str) -> Request {
        Request {
            identity: Identity {
                scope: Scope::global(),
                operation: Operation::new("test"),
                key: Key::of("k").expect("valid").expect("a key"),
            },
            fingerprint: Fingerprint::of_value(what).expect("serialisable"),
            ttl: Duration::from_secs(1),
            then: Then::Run,
            first_sent: None,
            is_retry: false,
            input: None,
        }
    }

    fn reply() -> Reply {
        Reply { format: Format::HTTP, status: Some(201), headers: Bytes::new(), body: Bytes::from_static(b"done") }
    }

    fn record(state: State) -> Record {
        Record {
            fingerprint: Some(asked("this").fingerprint),
            state,
            claim: Claim::from_bytes(&[7; 16]).expect("16 bytes"),
            expires_at: Timestamp(NOW.0 + 1),
            kept_until: None,
            completed_at: None,
        }
    }

    fn leased(until: i64) -> State {
        State::Leased { until: Timestamp(until), attempt: 3, released: 0, is_rejected: false }
    }

    fn states() -> [State; 7] {
        [
            State::Running,
            leased(NOW.0 + 1),
            State::Completed(reply()),
            State::Oversized,
            State::Late,
            State::GivenUp,
            State::Unreadable,
        ]
    }

    #[test]
    fn r25_a_lease_is_in_flight_until_it_ends_and_is_then_taken_over() {
        let terms = LeaseTerms::DEFAULT;
        let decide = |until| decide_leased(Some(&record(leased(until))), &asked("this"), &terms, Intent::Run, NOW);
        assert_eq!(decide(NOW.0 + 1), Decision::Refuse(Kind::KeyInFlight));
        let claim = record(State::Running).claim;
        let fingerprint = asked("this").fingerprint;
        let earlier = Resume { claim, attempt: 3, released: 0, is_rejected: false, fingerprint };
        assert_eq!(decide(NOW.0), Decision::Resume(earlier));
    }

    #[test]
    fn r28_a_transaction_resumes_no_leased_run() {
        let decide = |until, what| decide(Some(&record(leased(until))), &asked(what), NOW);
        assert_eq!(decide(NOW.0, "this"), Decision::Refuse(Kind::StepMismatch));
        assert_eq!(decide(NOW.0 + 1, "this"), Decision::Refuse(Kind::KeyInFlight));
        assert_eq!(decide(NOW.0, "that"), Decision::Refuse(Kind::KeyReused));
    }

    #[test]
    fn r32_a_short_run_leaves_the_expiry_alone() {
        let ttl = Duration::from_secs(100);
        let late = |milliseconds| lateness(ttl, Duration::from_millis(milliseconds)).as_millis();
        assert_eq!([0, 1000, 1001, 5000].map(late), [0, 0, 1001, 5000]);
    }

    #[test]
    fn r25_an_attempt_too_many_is_refused() {
        let claim = record(State::Running).claim;
        let fingerprint = asked("this").fingerprint;
        let resume =
            |attempt, is_rejected| Decision::Resume(Resume { claim, attempt, released: 0, is_rejected, fingerprint });
        let terms = LeaseTerms::DEFAULT.attempts(3);
        assert_eq!(resume(2, false).within(&terms, Intent::Run), resume(2, false));
        assert_eq!(resume(3, false).within(&terms, Intent::Run), Decision::Refuse(Kind::AttemptsExhausted));
        assert_eq!(Decision::Claim.within(&terms, Intent::Run), Decision::Claim);
        // A rejected run is undone in the end.
        assert_eq!(resume(3, true).within(&terms, Intent::Run), resume(3, true));
    }

    /// A run of which so many attempts were released, that much time after the end of its last lease.
    fn released(released: u32, after: Duration, terms: &LeaseTerms, is_rejected: bool) -> Decision {
        let until = Timestamp(NOW.0 - after.as_micros() as i64);
        let state = State::Leased { until, attempt: 2_000, released, is_rejected };
        decide_leased(Some(&record(state)), &asked("this"), terms, Intent::Run, NOW)
    }

    #[test]
    fn r25a_attempts_that_were_released_are_spaced_and_not_counted() {
        let terms = LeaseTerms::DEFAULT.attempts(2_000);
        let second = Duration::from_secs(1);
        let tick = Duration::from_micros(1);
        for (released_so_far, pause) in
            [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60), (1_999, 60)]
        {
            for is_rejected in [false, true] {
                let after = |time| released(released_so_far, time, &terms.attempts(2_001), is_rejected);
                let pause = second * pause;
                assert!(matches!(after(pause), Decision::Resume(_)), "{released_so_far}: it is time");
                if let Some(early) = pause.checked_sub(tick) {
                    assert!(matches!(after(early), Decision::TooSoon(_, rest) if rest == tick), "{released_so_far}");
                    assert!(matches!(after(Duration::ZERO), Decision::TooSoon(_, rest) if rest == pause));
                }
            }
        }
        // By what is left, and whenever it comes.
        let exhausted = Decision::Refuse(Kind::AttemptsExhausted);
        for time in [Duration::ZERO, second * 60] {
            assert_ne!(released(1, time, &terms, false), exhausted);
            assert_eq!(released(0, time, &terms, false), exhausted);
            assert_ne!(released(1_991, time, &terms.attempts(10), false), exhausted);
            assert_eq!(released(1_990, time, &terms.attempts(10), false), exhausted);
            // By a hand that has changed the row.
            assert_ne!(released(3_000, time, &terms.attempts(1), false), exhausted);
        }
    }

    #[test]
    fn r25a_another_fingerprint_and_a_transaction_are_refused_however_soon_they_come() {
        let state = State::Leased { until: NOW, attempt: 9, released: 9, is_rejected: false };
        let (record, terms) = (record(state), LeaseTerms::DEFAULT);
        let other = decide_leased(Some(&record), &asked("that"), &terms, Intent::Run, NOW);
        assert_eq!(other, Decision::Refuse(Kind::KeyReused));
        assert_eq!(decide(Some(&record), &asked("this"), NOW), Decision::Refuse(Kind::StepMismatch));
    }

    #[test]
    fn r32_where_there_is_only_something_to_go_on_with_nothing_begins() {
        let claim = record(State::Running).claim;
        let terms = LeaseTerms::DEFAULT;
        for order in [Decision::Claim, Decision::Replace(claim)] {
            assert_eq!(order.within(&terms, Intent::Resume), Decision::Refuse(Kind::NothingToResume));
        }
        let fingerprint = asked("this").fingerprint;
        let resume = Decision::Resume(Resume { claim, attempt: 1, released: 0, is_rejected: false, fingerprint });
        assert_eq!(resume.clone().within(&terms, Intent::Resume), resume);
        assert_eq!(Decision::Replay(reply(), None).within(&terms, Intent::Resume), Decision::Replay(reply(), None));
    }

    #[test]
    fn r05a_a_process_that_resumes_by_the_record_is_not_compared() {
        let terms = LeaseTerms::DEFAULT;
        let resume = |state| decide_leased(Some(&record(state)), &asked("that"), &terms, Intent::Resume, NOW);
        let (claim, fingerprint) = (record(State::Running).claim, asked("this").fingerprint);
        assert_eq!(
            resume(leased(NOW.0)),
            Decision::Resume(Resume { claim, attempt: 3, released: 0, is_rejected: false, fingerprint })
        );
        assert_eq!(resume(leased(NOW.0 + 1)), Decision::Refuse(Kind::KeyInFlight));
        assert_eq!(resume(State::Completed(reply())), Decision::Replay(reply(), None));
        assert_eq!(resume(State::Running), Decision::Refuse(Kind::TransactionEnded));
        let compared = decide_leased(Some(&record(leased(NOW.0))), &asked("that"), &terms, Intent::Run, NOW);
        assert_eq!(compared, Decision::Refuse(Kind::KeyReused));
    }

    #[test]
    fn r28_another_fingerprint_never_takes_over() {
        for until in [NOW.0 - 1, NOW.0 + 1] {
            let decision = decide(Some(&record(leased(until))), &asked("that"), NOW);
            assert_eq!(decision, Decision::Refuse(Kind::KeyReused));
        }
    }

    #[test]
    fn r07_another_fingerprint_is_refused_in_every_readable_state() {
        for state in [State::Running, State::Completed(reply()), State::Oversized] {
            let decision = decide(Some(&record(state)), &asked("that"), NOW);
            assert_eq!(decision, Decision::Refuse(Kind::KeyReused));
        }
    }

    #[test]
    fn r16_a_record_left_running_is_refused_and_never_run() {
        let decision = decide(Some(&record(State::Running)), &asked("this"), NOW);
        assert_eq!(decision, Decision::Refuse(Kind::TransactionEnded));
    }

    #[test]
    fn r19_a_completed_record_is_replayed() {
        let decision = decide(Some(&record(State::Completed(reply()))), &asked("this"), NOW);
        assert_eq!(decision, Decision::Replay(reply(), None));
    }

    #[test]
    fn r37_what_an_operator_has_given_up_is_refused_however_it_is_asked() {
        let given_up = record(State::GivenUp);
        let (this, that) = (asked("this"), asked("that"));
        let refused = Decision::Refuse(Kind::GivenUp);
        assert_eq!(decide_leased(Some(&given_up), &this, &LeaseTerms::DEFAULT, Intent::Run, NOW), refused);
        assert_eq!(decide_leased(Some(&given_up), &that, &LeaseTerms::DEFAULT, Intent::Resume, NOW), refused);
        assert_eq!(decide(Some(&given_up), &this, NOW), Decision::Refuse(Kind::GivenUp));
        assert_eq!(decide(Some(&given_up), &that, NOW), Decision::Refuse(Kind::KeyReused));
    }

    #[test]
    fn r21_a_tombstone_is_refused_with_its_own_kind() {
        let decision = decide(Some(&record(State::Oversized)), &asked("this"), NOW);
        assert_eq!(decision, Decision::Refuse(Kind::ReplyTooLarge));
    }

    #[test]
    fn r22_what_cannot_be_read_is_refused_whatever_was_asked() {
        for what in ["this", "that"] {
            let decision = decide(Some(&record(State::Unreadable)), &asked(what), NOW);
            assert_eq!(decision, Decision::Refuse(Kind::RecordUnreadable));
        }
        for state in states() {
            let unknown = Record { fingerprint: None, ..record(state) };
            assert_eq!(decide(Some(&unknown), &asked("this"), NOW), Decision::Refuse(Kind::RecordUnreadable));
        }
    }

    #[test]
    fn r32_an_expired_record_is_as_good_as_none_in_every_state() {
        assert_eq!(decide(None, &asked("this"), NOW), Decision::Claim);
        for state in states() {
            for what in ["this", "that"] {
                let expired = Record { expires_at: NOW, ..record(state.clone()) };
                assert_eq!(decide(Some(&expired), &asked(what), NOW), Decision::Replace(expired.claim));
            }
        }
    }

    #[test]
    fn r16_a_lost_commit_is_judged_by_the_claim_and_the_state() {
        let ours = record(State::Running).claim;
        let other = Claim::from_bytes(&[8; 16]).expect("16 bytes");
        assert_eq!(verdict(None, ours), Verdict::NotKept);
        assert_eq!(verdict(Some(&record(State::Running)), ours), Verdict::Ended);
        assert_eq!(verdict(Some(&record(leased(NOW.0 + 1))), ours), Verdict::NotKept);
        for state in [State::Completed(reply()), State::Oversized, State::Unreadable] {
            assert_eq!(verdict(Some(&record(state)), ours), Verdict::Kept);
        }
        for state in states() {
            assert_eq!(verdict(Some(&record(state)), other), Verdict::NotKept);
        }
    }

    #[test]
    fn r36_a_request_that_was_first_sent_too_long_ago_begins_no_run_and_is_answered_by_its_record() {
        let sent = |seconds: i64, then| {
            // The `ttl` is a second. That a finished record refuses retries for a minute more changes nothing: what is
            // left of another run lives for the second.
            let time = FirstSent::at(UNIX_EPOCH + Duration::from_secs(1_000));
            let request = Request { then, ..asked("this").with_first_sent(Some(time)) };
            (request, Timestamp((1_000 + seconds) * 1_000_000))
        };
        let minute = Then::Refuse(Duration::from_secs(60));
        let terms = LeaseTerms::DEFAULT;
        let too_old = Decision::Refuse(Kind::FirstSentTooOld);
        let invalid = Decision::Refuse(Kind::FirstSentInvalid);
        let tick = |now: Timestamp, by: i64| Timestamp(now.0 + by);
        for then in [Then::Run, minute] {
            for (seconds, by, refused) in
                [(-300, -1, Some(&invalid)), (-300, 0, None), (0, 0, None), (1, -1, None), (1, 0, Some(&too_old))]
            {
                let (request, now) = sent(seconds, then);
                let now = tick(now, by);
                let expired = Record { expires_at: now, ..record(State::Completed(reply())) };
                for (record, begun) in [(None, Decision::Claim), (Some(&expired), Decision::Replace(expired.claim))] {
                    let expected = refused.cloned().unwrap_or(begun);
                    assert_eq!(decide(record, &request, now), in_transaction(expected.clone()), "{seconds} {by}");
                    let leased = decide_leased(record, &request, &terms, Intent::Run, now);
                    assert_eq!(leased, expected, "{seconds} {by}");
                }
                // A record answers, whatever the time is.
                let live = |state| Record { expires_at: tick(now, 1), ..record(state) };
                assert_eq!(
                    decide(Some(&live(State::Completed(reply()))), &request, now),
                    Decision::Replay(reply(), None)
                );
                assert_eq!(decide(Some(&live(State::Late)), &request, now), Decision::Refuse(Kind::RetryTooLate));
                let other = Request { fingerprint: asked("that").fingerprint, ..request.clone() };
                assert_eq!(decide(Some(&live(State::Late)), &other, now), Decision::Refuse(Kind::KeyReused));
                let resumed = decide_leased(Some(&live(leased(now.0))), &request, &terms, Intent::Run, now);
                assert!(matches!(resumed, Decision::Resume(_)), "{resumed:?}");
            }
        }
        // Who only resumes is told that there is nothing to resume.
        let (request, now) = sent(1, Then::Run);
        let resumed = decide_leased(None, &request, &terms, Intent::Resume, now);
        assert_eq!(resumed, Decision::Refuse(Kind::NothingToResume));
    }

    #[test]
    fn r36_a_kept_record_refuses_retries_from_its_ttl_on_until_it_expires() {
        let decide_at = |state: State, expires_at: i64, kept_until: Option<i64>, what: &str| {
            let record =
                Record { expires_at: Timestamp(expires_at), kept_until: kept_until.map(Timestamp), ..record(state) };
            decide(Some(&record), &asked(what), NOW)
        };
        let late = Decision::Refuse(Kind::RetryTooLate);
        let reused = Decision::Refuse(Kind::KeyReused);
        let expired = Decision::Replace(record(State::Running).claim);
        // The sweep has not come by yet.
        for state in [State::Completed(reply()), State::Oversized] {
            assert_ne!(decide_at(state.clone(), NOW.0 + 1, Some(NOW.0 + 9), "this"), late, "the ttl is not over");
            assert_eq!(decide_at(state.clone(), NOW.0, Some(NOW.0 + 1), "this"), late);
            assert_eq!(decide_at(state.clone(), NOW.0, Some(NOW.0 + 1), "that"), reused);
            assert_eq!(decide_at(state.clone(), NOW.0, Some(NOW.0), "this"), expired);
            assert_eq!(decide_at(state, NOW.0, None, "this"), expired);
        }
        // It has.
        assert_eq!(decide_at(State::Late, NOW.0 + 1, None, "this"), late);
        assert_eq!(decide_at(State::Late, NOW.0 + 1, None, "that"), reused);
        assert_eq!(decide_at(State::Late, NOW.0, None, "this"), expired);
        // What cannot be read does not become readable by that.
        let unreadable = Decision::Refuse(Kind::RecordUnreadable);
        assert_eq!(decide_at(State::Unreadable, NOW.0, Some(NOW.0 + 1), "this"), unreadable);
    }
}
