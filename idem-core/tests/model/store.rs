//! The store of the model: one record with its steps, and what `idem-sqlx` does to them.
//!
//! Each function is one atomic change with the guard of its namesake in `postgres/leases.rs`. What is recorded are the
//! entries of the journal.

use bytes::Bytes;
use idem_core::Fingerprint;
use idem_core::store::{Claim, Entry, EntryKind, Format, Outcome, Record, Reply, State, Timestamp};

use crate::past::{Broken, Past};
use crate::wrong::Wrong;

/// A tick of the clock, in the clock's microseconds: the shortest pause between two attempts.
const TICK: i64 = 1_000_000;

/// How long a lease lives, in ticks of the clock.
const LEASE: i64 = 1;

/// How long a record counts behind the last sign of life: longer than a lease, or nothing could be taken over.
const TTL: i64 = 2;

/// When a record expires of which something is to be undone.
const NEVER: Timestamp = Timestamp(i64::MAX);

/// How many steps a run has. The first is a transaction, the second a call.
pub(crate) const STEPS: usize = 2;

/// Which of them is the call.
pub(crate) const CALL: usize = 1;

/// What the steps are called.
pub(crate) fn name(step: usize) -> &'static str {
    ["reserve", "charge"][step]
}

/// Which step an entry is about.
pub(crate) fn step_of(entry: &Entry) -> usize {
    (0..STEPS).find(|step| name(*step) == entry.name).expect("a step of the model")
}

/// The database: its clock, and the rows of one identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) now: Timestamp,
    pub(crate) row: Option<Row>,
    pub(crate) kept: Kept,
    /// How many claims were given. They are random in truth, and here numbered: nobody else has one, either way.
    pub(crate) claims: u8,
    pub(crate) past: Past,
}

/// The stored record. It is what [`Record`] is; that one cannot be hashed, and the checker knows states by their hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) claim: Claim,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) progress: Progress,
    pub(crate) expires_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Progress {
    Leased { until: Timestamp, attempt: u32, released: u32, is_rejected: bool },
    Completed(Ending),
}

/// How a record is completed. The reply is the claim of the run that gave it, so that no two runs give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Success(Claim),
    Rejection(Claim),
}

/// What is recorded beside the record, and goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kept(Vec<Entry>);

/// What an update asks of the record that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// That it is leased by this claim.
    Claim,
    /// Wrong: only that it is leased.
    Leased,
    /// Wrong: nothing.
    Nothing,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { now: Timestamp(0), row: None, kept: Kept::default(), claims: 0, past: Past::default() }
    }

    /// Inserts the record. `began` is `now()`: when the client's transaction began.
    pub(crate) fn lease(&mut self, began: Timestamp, fingerprint: Fingerprint) -> Option<Claim> {
        self.row.is_none().then(|| self.begin_anew(began, fingerprint))
    }

    /// Takes the place of the expired record that was seen.
    pub(crate) fn replace_leased(
        &mut self,
        began: Timestamp,
        fingerprint: Fingerprint,
        expired: Claim,
    ) -> Option<Claim> {
        let row = self.row.as_ref()?;
        (row.claim == expired && row.expires_at <= began).then(|| self.begin_anew(began, fingerprint))
    }

    fn begin_anew(&mut self, began: Timestamp, fingerprint: Fingerprint) -> Claim {
        self.past.note(Broken::LiveRecordReplaced, self.row.is_some() && !self.is_expired());
        let claim = self.next_claim();
        let progress = Progress::Leased { until: after(began, LEASE), attempt: 1, released: 0, is_rejected: false };
        self.row = Some(Row { claim, fingerprint, progress, expires_at: after(began, TTL) });
        self.kept = Kept::default();
        self.past.forget();
        self.past.begin_anew();
        claim
    }

    /// Takes over from an attempt that is over. It does not ask for the fingerprint: that is up to `decide`.
    pub(crate) fn take_over(&mut self, began: Timestamp, earlier: Claim) -> Option<Claim> {
        let row = self.row.as_ref()?;
        let Progress::Leased { until, attempt, released, is_rejected } = row.progress else { return None };
        if row.claim != earlier || until > began || row.expires_at <= began {
            return None;
        }
        self.past.note(Broken::LiveLeaseTaken, until > self.now);
        self.past.begin_attempt(began);
        let progress = Progress::Leased { until: after(began, LEASE), attempt: attempt + 1, released, is_rejected };
        let row = Row { progress, expires_at: row.expires_at.max(after(began, TTL)), ..row.clone() };
        let claim = self.next_claim();
        self.row = Some(Row { claim, ..row });
        Some(claim)
    }

    /// Whether the lease is held, as a transaction step asks when it begins.
    pub(crate) fn held(&self, claim: Claim, guard: Guard) -> bool {
        self.row.as_ref().is_some_and(|row| row.passes(claim, guard))
    }

    pub(crate) fn renew(&mut self, claim: Claim, guard: Guard) -> bool {
        self.update(claim, guard, |row, _, now| row.live_on(now))
    }

    /// Records that a call is started, before it is made.
    pub(crate) fn start(&mut self, claim: Claim, guard: Guard, started: &Entry, recorded: bool) -> bool {
        self.update(claim, guard, |row, kept, now| {
            row.live_on(now);
            if recorded {
                kept.record(started);
            }
        })
    }

    /// Commits a step with its entry.
    pub(crate) fn keep(&mut self, claim: Claim, guard: Guard, finished: &Entry) -> bool {
        let kept = self.update(claim, guard, |row, kept, now| {
            row.live_on(now);
            kept.record(finished);
        });
        if kept {
            self.past.finish(step_of(finished));
        }
        kept
    }

    /// Records that the run is rejected, and what is to be undone. `heard` is whether the step at hand has answered.
    pub(crate) fn reject(&mut self, claim: Claim, guard: Guard, rejection: &Entry, expires: bool, heard: bool) -> bool {
        let rejected = self.update(claim, guard, |row, kept, now| {
            row.live_on(now);
            if let Progress::Leased { is_rejected, .. } = &mut row.progress {
                *is_rejected = true;
            }
            if !expires {
                row.expires_at = NEVER;
            }
            kept.record(rejection);
        });
        if rejected {
            self.past.reject(claim, heard);
        }
        rejected
    }

    /// Commits the undo of a step with its entry.
    pub(crate) fn undo(&mut self, claim: Claim, guard: Guard, undone: &Entry) -> bool {
        let is_undone = self.update(claim, guard, |row, kept, now| {
            row.live_on(now);
            kept.record(undone);
        });
        if is_undone {
            self.past.undo(step_of(undone));
        }
        is_undone
    }

    /// Completes the record and removes its entries, by a run that has passed so many steps. `heard` is whether the
    /// step at hand has answered.
    pub(crate) fn finish(&mut self, claim: Claim, guard: Guard, ending: Ending, passed: usize, heard: bool) -> bool {
        let finished = self.update(claim, guard, |row, kept, now| {
            row.progress = Progress::Completed(ending);
            row.expires_at = after(now, TTL);
            *kept = Kept::default();
        });
        if finished {
            self.past.complete(ending, passed, heard);
        }
        finished
    }

    /// Ends the lease and keeps the steps. The claim is nobody's then.
    pub(crate) fn let_go(&mut self, claim: Claim, guard: Guard, wrong: Wrong) -> bool {
        let is_released = self.update(claim, guard, |row, _, now| {
            if let Progress::Leased { until, released, .. } = &mut row.progress {
                *until = now;
                *released += u32::from(wrong != Wrong::ReleaseNotNoted);
            }
            if wrong != Wrong::ReleaseKeepsClaim {
                row.claim = nobodys(row.claim);
            }
        });
        if is_released {
            self.past.release(self.now);
        }
        is_released
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.expires_at <= self.now)
    }

    /// Deletes the expired record, and its steps with it.
    pub(crate) fn sweep(&mut self) {
        self.past.forget();
        self.row = None;
        self.kept = Kept::default();
    }

    /// A client gets this reply.
    pub(crate) fn answer(&mut self, reply: &Reply) {
        self.past.answer(reply, !self.is_expired());
    }

    fn update(&mut self, claim: Claim, guard: Guard, change: impl FnOnce(&mut Row, &mut Kept, Timestamp)) -> bool {
        let Some(row) = self.row.as_mut().filter(|row| row.passes(claim, guard)) else { return false };
        let before = (row.clone(), self.kept.clone());
        change(row, &mut self.kept, self.now);
        let is_changed = before.0 != *row || before.1 != self.kept;
        self.past.note(Broken::StaleChange, is_changed && before.0.claim != claim);
        true
    }

    fn next_claim(&mut self) -> Claim {
        self.claims += 1;
        claim(self.claims)
    }
}

impl Row {
    pub(crate) fn record(&self) -> Record {
        let state = match self.progress {
            Progress::Leased { until, attempt, released, is_rejected } => {
                State::Leased { until, attempt, released, is_rejected }
            }
            Progress::Completed(ending) => State::Completed(ending.reply()),
        };
        Record::new(Some(self.fingerprint), state, self.claim, self.expires_at)
    }

    pub(crate) fn is_leased(&self) -> bool {
        matches!(self.progress, Progress::Leased { .. })
    }

    fn passes(&self, claim: Claim, guard: Guard) -> bool {
        match guard {
            Guard::Claim => self.is_leased() && self.claim == claim,
            Guard::Leased => self.is_leased(),
            Guard::Nothing => true,
        }
    }

    fn live_on(&mut self, now: Timestamp) {
        if let Progress::Leased { until, .. } = &mut self.progress {
            *until = after(now, LEASE);
        }
        self.expires_at = self.expires_at.max(after(now, TTL));
    }
}

impl Kept {
    /// Puts an entry in its place, as the statement does: where there is another, only over a call that was started, or
    /// over the rejection that a process without the lease has written.
    fn record(&mut self, entry: &Entry) {
        match self.0.iter_mut().find(|there| there.position == entry.position) {
            Some(there) => *there = entry.clone(),
            None => self.0.push(entry.clone()),
        }
        self.0.sort_by_key(|entry| entry.position);
    }

    /// What the next attempt reads.
    pub(crate) fn entries(&self, claim: Claim, wrong: Wrong) -> Vec<Entry> {
        let is_read = |entry: &&Entry| match entry.kind {
            EntryKind::REJECTION | EntryKind::UNDO => {
                !matches!(wrong, Wrong::RejectionNotRead | Wrong::RejectionNotRecorded)
            }
            EntryKind::CALL_STARTED => wrong != Wrong::CallNotRead,
            _ => true,
        };
        let read = self.0.iter().filter(is_read).cloned();
        read.map(|entry| match entry.kind {
            EntryKind::REJECTION if wrong == Wrong::OwnReply => entry.with_reply(reply(claim)),
            _ => entry,
        })
        .collect()
    }

    /// Whether two steps are finished, by two claims.
    pub(crate) fn is_by_two(&self) -> bool {
        let finished: Vec<_> = self.0.iter().filter(|entry| entry.kind.0 <= EntryKind::CALL.0).collect();
        matches!(finished[..], [first, second] if first.reply != second.reply)
    }
}

impl Ending {
    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::Success(claim) => reply(claim),
            Self::Rejection(claim) => Reply { format: Format::ERROR, ..reply(claim) },
        }
    }

    /// Whose outcome it is.
    pub(crate) fn claim_in(outcome: &Outcome) -> Claim {
        let Outcome::Reply(reply) = outcome else { panic!("the model's replies are small") };
        Claim::from_bytes(&reply.body).expect("a claim")
    }
}

/// The reply that only the run of this claim gives.
pub(crate) fn reply(claim: Claim) -> Reply {
    let body = Bytes::copy_from_slice(claim.as_bytes());
    Reply { format: Format::VALUE, status: None, headers: Bytes::new(), body }
}

/// The claim that was given as the `number`th.
pub(crate) fn claim(number: u8) -> Claim {
    Claim::from_bytes(&[number; 16]).expect("16 bytes")
}

/// What is left of a claim when it is released: who has looked at it before cannot take it over.
pub(crate) fn nobodys(claim: Claim) -> Claim {
    Claim::from_bytes(&claim.as_bytes().map(|byte| byte | 0x80)).expect("16 bytes")
}

pub(crate) const fn after(now: Timestamp, ticks: i64) -> Timestamp {
    Timestamp(now.0 + ticks * TICK)
}
