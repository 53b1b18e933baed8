//! The store of the model: one record with its steps, and what `idem-sqlx` does to them.
//!
//! Each function is one atomic change with the guard of its namesake in `postgres/leases.rs`. Beside them stands what
//! no store knows: what has become of the record so far, and what a store must never do.

use std::collections::BTreeSet;

use bytes::Bytes;
use idem_core::{Claim, Fingerprint, Format, Record, Reply, State, Timestamp};

/// How long a lease lives, in ticks of the clock.
const LEASE: i64 = 1;

/// How long a record counts behind the last sign of life: longer than a lease, or nothing could be taken over.
const TTL: i64 = 2;

/// How many steps a run has. The first is a transaction, the second a call.
pub(crate) const STEPS: usize = 2;

/// The database: its clock, and the rows of one identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) now: Timestamp,
    pub(crate) row: Option<Row>,
    /// The finished steps that are recorded, each with the claim that wrote it.
    pub(crate) steps: [Option<Claim>; STEPS],
    /// How many claims were given. They are random in truth, and here numbered: nobody else has one, either way.
    pub(crate) claims: u8,
    pub(crate) past: Past,
    pub(crate) broken: BTreeSet<Broken>,
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
    Leased {
        until: Timestamp,
        attempt: u32,
    },
    /// Completed. The reply is the claim of the run that gave it, so that no two runs give the same.
    Completed(Claim),
}

/// What has become of the record since it was begun, whatever its rows say now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// Which of the model's requests began it.
    pub(crate) asked: usize,
    finished: [bool; STEPS],
    /// Who has completed it, in this order.
    pub(crate) completed: Vec<Claim>,
}

/// What happened and must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Broken {
    /// An update changed something by a claim that the record was not held by.
    StaleChange,
    /// A step was entered that was finished.
    Reentered,
    /// A record was completed of which a step was never finished.
    StepLeftOut,
    /// A lease was taken over that was live.
    LiveLeaseTaken,
    /// A record was replaced that counts.
    LiveRecordReplaced,
    /// A request that asked for something else took a run over, or got its reply.
    OtherBodyServed,
    /// A reply was given that is not the committed one, or counts no more.
    OtherReply,
}

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
        Self {
            now: Timestamp(0),
            row: None,
            steps: [None; STEPS],
            claims: 0,
            past: Past::default(),
            broken: BTreeSet::new(),
        }
    }

    /// Inserts the record. `began` is `now()`: when the client's transaction began.
    pub(crate) fn lease(&mut self, began: Timestamp, fingerprint: Fingerprint) -> Option<Claim> {
        self.row.is_none().then(|| self.begin_anew(began, fingerprint))
    }

    /// Takes the place of the expired record that was seen.
    pub(crate) fn lease_again(&mut self, began: Timestamp, fingerprint: Fingerprint, expired: Claim) -> Option<Claim> {
        let row = self.row.as_ref()?;
        (row.claim == expired && row.expires_at <= began).then(|| self.begin_anew(began, fingerprint))
    }

    fn begin_anew(&mut self, began: Timestamp, fingerprint: Fingerprint) -> Claim {
        if self.row.is_some() && !self.is_expired() {
            self.broken.insert(Broken::LiveRecordReplaced);
        }
        let claim = self.next_claim();
        let progress = Progress::Leased { until: after(began, LEASE), attempt: 1 };
        self.row = Some(Row { claim, fingerprint, progress, expires_at: after(began, TTL) });
        self.steps = [None; STEPS];
        self.past = Past::default();
        claim
    }

    /// Takes over from an attempt that is over. It does not ask for the fingerprint: that is up to `decide`.
    pub(crate) fn take_over(&mut self, began: Timestamp, earlier: Claim) -> Option<Claim> {
        let row = self.row.as_ref()?;
        let Progress::Leased { until, attempt } = row.progress else { return None };
        if row.claim != earlier || until > began || row.expires_at <= began {
            return None;
        }
        if until > self.now {
            self.broken.insert(Broken::LiveLeaseTaken);
        }
        let progress = Progress::Leased { until: after(began, LEASE), attempt: attempt + 1 };
        let row = Row { progress, expires_at: after(began, TTL), ..row.clone() };
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

    /// Commits a step with its record.
    pub(crate) fn keep(&mut self, claim: Claim, guard: Guard, step: usize) -> bool {
        let kept = self.update(claim, guard, |row, steps, now| {
            row.live_on(now);
            steps[step] = Some(claim);
        });
        self.past.finished[step] |= kept;
        kept
    }

    /// Completes the record and removes its steps.
    pub(crate) fn finish(&mut self, claim: Claim, guard: Guard) -> bool {
        let finished = self.update(claim, guard, |row, steps, now| {
            row.progress = Progress::Completed(claim);
            row.expires_at = after(now, TTL);
            *steps = [None; STEPS];
        });
        if finished {
            if self.past.finished.contains(&false) {
                self.broken.insert(Broken::StepLeftOut);
            }
            self.past.completed.push(claim);
        }
        finished
    }

    /// Ends the lease and keeps the steps.
    pub(crate) fn let_go(&mut self, claim: Claim, guard: Guard) -> bool {
        self.update(claim, guard, |row, _, now| {
            if let Progress::Leased { until, .. } = &mut row.progress {
                *until = now;
            }
        })
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.expires_at <= self.now)
    }

    /// Deletes the expired record, and its steps with it.
    pub(crate) fn sweep(&mut self) {
        self.row = None;
        self.steps = [None; STEPS];
    }

    /// A step's body begins.
    pub(crate) fn enter(&mut self, step: usize) {
        if self.past.finished[step] {
            self.broken.insert(Broken::Reentered);
        }
    }

    /// A client gets this reply.
    pub(crate) fn answer(&mut self, reply: &Reply) {
        if self.is_expired() || self.past.completed.first().is_none_or(|committed| *reply != reply_of(*committed)) {
            self.broken.insert(Broken::OtherReply);
        }
    }

    fn update(
        &mut self,
        claim: Claim,
        guard: Guard,
        change: impl FnOnce(&mut Row, &mut [Option<Claim>; STEPS], Timestamp),
    ) -> bool {
        let Some(row) = self.row.as_mut().filter(|row| row.passes(claim, guard)) else { return false };
        let before = (row.clone(), self.steps);
        change(row, &mut self.steps, self.now);
        if before.0.claim != claim && before != (row.clone(), self.steps) {
            self.broken.insert(Broken::StaleChange);
        }
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
            Progress::Leased { until, attempt } => State::Leased { until, attempt, is_rejected: false },
            Progress::Completed(claim) => State::Completed(reply_of(claim)),
        };
        Record { fingerprint: Some(self.fingerprint), state, claim: self.claim, expires_at: self.expires_at }
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
        self.expires_at = after(now, TTL);
    }
}

/// The claim that was given as the `number`th.
pub(crate) fn claim(number: u8) -> Claim {
    Claim::from_bytes(&[number; 16]).expect("16 bytes")
}

/// The reply of the run that held this claim.
pub(crate) fn reply_of(claim: Claim) -> Reply {
    let body = Bytes::copy_from_slice(claim.as_bytes());
    Reply { format: Format::VALUE, status: None, headers: Bytes::new(), body }
}

pub(crate) fn after(now: Timestamp, ticks: i64) -> Timestamp {
    Timestamp(now.0 + ticks)
}
