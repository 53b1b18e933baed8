//! The rows, and the checks of each operation before it changes them.

use std::collections::HashMap;

use crate::entry::{Entry, EntryKind};
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::identity::{Identity, Scope};
use crate::machine::{
    Decision, Details, Expected, Explanation, Resume, Retry, Seen, SeenStep, decide, decide_leased, explain,
};
use crate::observer::Backlog;
use crate::operate::{Change, Condition, Counted, Counts, Cursor, Forgotten, Listed, Page, Query, Reason};
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Claim, Outcome, Record, Request, State, Timestamp};
use crate::seal::{Mark, Sealer, other_index};
use crate::store::{Abandoned, Claimed, Place};

/// A run that is still to be undone does not expire.
const NEVER: Timestamp = Timestamp(i64::MAX);

/// All rows of a store in memory, under one lock: each of these functions is one commit.
#[derive(Default)]
pub(super) struct Rows {
    records: HashMap<Identity, Row>,
    /// The transactions that hold a claim. Their records are written by their commit.
    running: HashMap<Identity, Fingerprint>,
    /// The mark of the index under which the records are named, from the first claim on.
    mark: Option<Option<Mark>>,
}

struct Row {
    record: Record,
    /// Each entry with the claim that wrote it.
    journal: Vec<(Claim, Entry)>,
    input: Option<crate::record::Input>,
    created_at: Timestamp,
    /// Why an operator has given the run up.
    reason: Option<Reason>,
}

/// The values with which a leased run begins.
pub(super) struct Leased {
    pub(super) attempt: u32,
    pub(super) fingerprint: Fingerprint,
    pub(super) entries: Vec<Entry>,
}

impl Rows {
    /// Claims the identity for a transaction, until it is [left](Self::leave).
    pub(super) fn enter(&mut self, request: &Request, now: Timestamp, sealer: &Sealer) -> Result<Claimed<()>, Error> {
        self.check_mark(sealer)?;
        match decide(self.record(&request.identity), request, now) {
            Decision::Claim | Decision::Replace(_) => {}
            Decision::Replay(reply, age) => return Ok(Claimed::Replay(reply, age)),
            // The same request may be running since a time at which it could begin.
            Decision::Refuse(kind) => return Ok(Claimed::Refuse(self.in_flight(request).unwrap_or(kind))),
        }
        if let Some(kind) = self.in_flight(request) {
            return Ok(Claimed::Refuse(kind));
        }
        // A stalled attempt of an expired run must not complete any more: two runs would have taken effect.
        self.records.remove(&request.identity);
        self.running.insert(request.identity.clone(), request.fingerprint);
        Ok(Claimed::Run(()))
    }

    /// Refuses a claim under another index than that of the first claim: the same request would have two names.
    fn check_mark(&mut self, sealer: &Sealer) -> Result<(), Error> {
        match *self.mark.get_or_insert(sealer.mark()) == sealer.mark() {
            true => Ok(()),
            false => Err(other_index()),
        }
    }

    /// What is left to do.
    pub(super) fn backlog(&self, now: Timestamp) -> Backlog {
        let expired = || self.records.values().filter(|row| row.record.has_expired(now));
        let oldest = expired().map(|row| now.0.saturating_sub(row.record.expires_at.0)).max().unwrap_or(0);
        let abandoned = self.records.values().filter(|row| {
            !row.record.has_expired(now) && matches!(row.record.state, State::Leased { until, .. } if until <= now)
        });
        let oldest = std::time::Duration::from_micros(u64::try_from(oldest).unwrap_or(0));
        Backlog::new(expired().count() as u64, oldest, abandoned.count() as u64)
    }

    /// Ends the claim of a transaction.
    pub(super) fn leave(&mut self, identity: &Identity) {
        self.running.remove(identity);
    }

    /// Commits the transaction's record with this outcome.
    pub(super) fn complete(&mut self, request: &Request, claim: Claim, outcome: &Outcome, now: Timestamp) {
        let record = completed(request, Some(request.fingerprint), claim, outcome, now);
        self.records.insert(request.identity.clone(), Row::new(record, None, now));
    }

    /// Claims the identity for a leased run, or takes it over. A run whose entries cannot be opened stays as it is.
    pub(super) fn lease(
        &mut self,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
        claim: Claim,
        now: Timestamp,
        sealer: &Sealer,
    ) -> Result<Claimed<Leased>, Error> {
        self.check_mark(sealer)?;
        let (until, expires_at) = lives(request, terms, now);
        Ok(match decide_leased(self.record(&request.identity), request, terms, intent, now) {
            Decision::Claim | Decision::Replace(_) => {
                if let Some(kind) = self.in_flight(request) {
                    return Ok(Claimed::Refuse(kind));
                }
                let state = State::Leased { until, attempt: 1, released: 0, is_rejected: false };
                let record = Record::new(Some(request.fingerprint), state, claim, expires_at);
                let row = Row::new(record, request.input.clone(), now);
                self.records.insert(request.identity.clone(), row);
                Claimed::Run(Leased { attempt: 1, fingerprint: request.fingerprint, entries: Vec::new() })
            }
            Decision::Resume(Resume { attempt, released, is_rejected, fingerprint, .. }) => {
                let row = self.records.get_mut(&request.identity).expect("the record that was decided on");
                let open = |(_, entry): &(Claim, Entry)| sealer.open_entry(&request.identity, entry.clone());
                let entries = row.journal.iter().map(open).collect::<Result<_, _>>()?;
                row.record.state = State::Leased { until, attempt: attempt + 1, released, is_rejected };
                row.record.claim = claim;
                row.record.expires_at = row.record.expires_at.max(expires_at);
                Claimed::Run(Leased { attempt: attempt + 1, fingerprint, entries })
            }
            Decision::Replay(reply, age) => Claimed::Replay(reply, age),
            // A transaction may be running the same request since a time at which it could begin.
            Decision::Refuse(kind @ (Kind::FirstSentTooOld | Kind::FirstSentInvalid)) => {
                Claimed::Refuse(self.in_flight(request).unwrap_or(kind))
            }
            Decision::Refuse(kind) => Claimed::Refuse(kind),
            Decision::TooSoon(_, rest) => Claimed::TooSoon(rest),
        })
    }

    /// Whether the lease is held.
    pub(super) fn holds(&self, identity: &Identity, claim: Claim) -> bool {
        self.records.get(identity).is_some_and(|row| row.is_held(claim))
    }

    /// Renews the lease. Returns whether it is held.
    pub(super) fn renew(&mut self, request: &Request, terms: &LeaseTerms, claim: Claim, now: Timestamp) -> bool {
        let Some(row) = self.held(&request.identity, claim) else { return false };
        let (lives_until, expires) = lives(request, terms, now);
        if let State::Leased { until, .. } = &mut row.record.state {
            *until = lives_until.max(*until);
        }
        row.record.expires_at = row.record.expires_at.max(expires);
        true
    }

    /// Records an entry, once, and renews the lease. Returns whether that was done.
    pub(super) fn record_entry(
        &mut self,
        request: &Request,
        terms: &LeaseTerms,
        claim: Claim,
        entry: &Entry,
        now: Timestamp,
    ) -> bool {
        let Some(row) = self.held(&request.identity, claim) else { return false };
        let is_rejection = entry.kind == EntryKind::REJECTION;
        match row.journal.iter_mut().find(|(_, there)| there.position == entry.position) {
            None => row.journal.push((claim, entry.clone())),
            Some((by, there)) => {
                let is_started = there.kind == EntryKind::CALL_STARTED;
                let is_same = *by == claim && there.name == entry.name && there.kind == entry.kind;
                if !(is_same || is_started && (there.name == entry.name || is_rejection)) {
                    return false;
                }
                (*by, *there) = (claim, entry.clone());
            }
        }
        row.journal.sort_by_key(|(_, entry)| entry.position);
        if is_rejection {
            if let State::Leased { is_rejected, .. } = &mut row.record.state {
                *is_rejected = true;
            }
            row.record.expires_at = NEVER;
        }
        self.renew(request, terms, claim, now)
    }

    /// Completes the record of a leased run, and removes its journal. Returns whether that was done.
    pub(super) fn complete_leased(
        &mut self,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
        now: Timestamp,
    ) -> bool {
        let Some(row) = self.held(&request.identity, claim) else { return false };
        let record = completed(request, row.record.fingerprint, claim, outcome, now);
        *row = Row::new(record, None, row.created_at);
        true
    }

    /// Ends the lease and keeps the journal. The claim is replaced by `nobodys`, which no run holds. Returns whether
    /// the lease was held.
    pub(super) fn release(&mut self, identity: &Identity, claim: Claim, nobodys: Claim, now: Timestamp) -> bool {
        let Some(row) = self.held(identity, claim) else { return false };
        if let State::Leased { until, released, .. } = &mut row.record.state {
            *until = now;
            *released += 1;
        }
        row.record.claim = nobodys;
        true
    }

    /// Resets the attempts of a run that is not over and whose lease has ended. Returns whether there is such a run.
    pub(super) fn reset_attempts(&mut self, identity: &Identity, now: Timestamp) -> bool {
        match self.records.get_mut(identity).map(|row| &mut row.record.state) {
            Some(State::Leased { until, attempt, released, .. }) if *until <= now => {
                (*attempt, *released) = (0, 0);
                true
            }
            _ => false,
        }
    }

    /// What a retry would get now.
    pub(super) fn explain(&self, identity: &Identity, retry: &Retry, now: Timestamp, sealer: &Sealer) -> Explanation {
        let running = self.running.get(identity);
        let is_same = |running: &Fingerprint| retry.fingerprint.is_none_or(|asked| asked == *running);
        let in_flight = running.map(|running| if is_same(running) { Kind::KeyInFlight } else { Kind::KeyReused });
        let details = Details { is_here: running.is_some(), ..self.details(identity) };
        let mut explanation = explain(self.record(identity), in_flight, retry, now).with(details);
        if !self.is_readable(identity, explanation.expected, sealer) {
            explanation.expected = Expected::Refuse(Kind::RecordUnreadable);
        }
        sealer.explanation(identity, explanation)
    }

    /// Whether the contents can be opened that a request would get.
    fn is_readable(&self, identity: &Identity, expected: Expected, sealer: &Sealer) -> bool {
        let Some(row) = self.records.get(identity) else { return true };
        match (expected, &row.record.state) {
            (Expected::Replay, State::Completed(reply)) => sealer.reply(identity, reply.clone()).is_ok(),
            (Expected::Resume(_), _) => {
                row.journal.iter().all(|(_, entry)| sealer.open_entry(identity, entry.clone()).is_ok())
            }
            _ => true,
        }
    }

    /// What is known of a record beyond what decides. A store in memory has one process.
    fn details(&self, identity: &Identity) -> Details {
        let Some(row) = self.records.get(identity) else { return Details::default() };
        let step = |(_, entry): &(Claim, Entry)| SeenStep {
            position: entry.position,
            kind: entry.kind,
            name: entry.name.clone(),
            at: None,
        };
        Details {
            created_at: Some(row.created_at),
            steps: row.journal.iter().map(step).collect(),
            reason: row.reason.clone(),
            is_here: true,
            session: None,
        }
    }

    /// A page of records.
    pub(super) fn list(&self, query: &Query, now: Timestamp) -> Page {
        let mut all: Vec<Listed> = self.records.iter().map(|(identity, row)| row.listed(identity, now)).collect();
        all.sort_by(|one, other| one.at.cmp(&other.at));
        all.retain(|listed| query.after.as_ref().is_none_or(|after| listed.at > *after) && query.asks_for(listed, now));
        let is_last = all.len() <= query.page_size();
        all.truncate(query.page_size());
        let next = all.last().filter(|_| !is_last).map(|listed| listed.at.clone());
        Page::new(all, next, now)
    }

    /// How many records there are.
    pub(super) fn counts(&self, now: Timestamp) -> Counts {
        const DAY: i64 = 24 * 60 * 60 * 1_000_000;
        let counted = |(identity, row): (&Identity, &Row)| Counted {
            operation: identity.operation.as_str().to_owned(),
            condition: Condition::of(&row.record, now),
            records: 1,
            today: u64::from(row.created_at.0 > now.0.saturating_sub(DAY)),
        };
        Counts::new(self.records.iter().map(counted).take(Counts::MOST as usize), now)
    }

    /// Removes the finished records of a scope, or counts them.
    pub(super) fn forget(&mut self, scope: &Scope, is_dry: bool, now: Timestamp) -> Forgotten {
        let mut forgotten = Forgotten::default();
        self.records.retain(|identity, row| {
            if identity.scope != *scope {
                return true;
            }
            let fate = row.fate(now);
            forgotten += fate;
            if !is_dry && fate.emptied > 0 {
                row.empty();
            }
            is_dry || fate.removed == 0
        });
        forgotten
    }

    /// Gives a run up that no process holds, under a claim that no process has.
    pub(super) fn give_up(&mut self, identity: &Identity, reason: &Reason, nobodys: Claim, now: Timestamp) -> Change {
        let change = self.may_change(identity, now);
        if let (Change::Made, Some(row)) = (change, self.records.get_mut(identity)) {
            let record =
                Record::new(row.record.fingerprint, State::GivenUp, nobodys, NEVER).with_completed_at(Some(now));
            *row = Row { reason: Some(reason.clone()), ..Row::new(record, None, row.created_at) };
        }
        change
    }

    /// Whether there is a run that is not over, and that no process holds.
    pub(super) fn may_change(&self, identity: &Identity, now: Timestamp) -> Change {
        let record = self.record(identity).filter(|record| !record.has_expired(now));
        match record.map(|record| &record.state) {
            Some(&State::Leased { until, .. }) if until > now => Change::Held(until),
            Some(State::Leased { .. }) => Change::Made,
            _ => Change::NoRun,
        }
    }

    /// A page of the abandoned runs of an operation.
    pub(super) fn abandoned(&self, operation: &str, after: Option<&Place>, now: Timestamp) -> Vec<Abandoned> {
        let is_abandoned = |row: &Row| {
            let is_over = matches!(row.record.state, State::Leased { until, .. } if until <= now);
            is_over && !row.record.has_expired(now)
        };
        let mut page: Vec<_> = self
            .records
            .iter()
            .filter(|(identity, row)| identity.operation.as_str() == operation && is_abandoned(row))
            .filter_map(|(identity, row)| Some(Abandoned { place: Place::of(identity), input: row.input.clone()? }))
            .filter(|run| after.is_none_or(|after| run.place > *after))
            .collect();
        page.sort_by(|one, other| one.place.cmp(&other.place));
        page.truncate(100);
        page
    }

    /// Removes expired records, and returns how many. Of a record that still refuses retries, it removes the reply.
    pub(super) fn sweep(&mut self, now: Timestamp) -> u64 {
        for record in self.records.values_mut().map(|row| &mut row.record) {
            if record.refuses_retries(now)
                && let Some(kept_until) = record.kept_until.take()
            {
                (record.state, record.expires_at) = (State::Late, kept_until);
            }
        }
        let before = self.records.len();
        self.records.retain(|_, row| !row.record.has_expired(now));
        (before - self.records.len()) as u64
    }

    fn record(&self, identity: &Identity) -> Option<&Record> {
        self.records.get(identity).map(|row| &row.record)
    }

    fn held(&mut self, identity: &Identity, claim: Claim) -> Option<&mut Row> {
        self.records.get_mut(identity).filter(|row| row.is_held(claim))
    }

    /// The refusal of a duplicate of a running transaction.
    fn in_flight(&self, request: &Request) -> Option<Kind> {
        let running = self.running.get(&request.identity)?;
        Some(if *running == request.fingerprint { Kind::KeyInFlight } else { Kind::KeyReused })
    }
}

impl Row {
    fn new(record: Record, input: Option<crate::record::Input>, created_at: Timestamp) -> Self {
        Self { record, journal: Vec::new(), input, created_at, reason: None }
    }

    fn listed(&self, identity: &Identity, now: Timestamp) -> Listed {
        let seen = Seen { created_at: Some(self.created_at), ..Seen::of(&self.record, now) };
        Listed::new(Cursor::of(identity), seen)
    }

    /// What becomes of it if its scope is forgotten: one of the three counts.
    fn fate(&self, now: Timestamp) -> Forgotten {
        let (removed, emptied, kept) = (Forgotten::new(1, 0, 0), Forgotten::new(0, 1, 0), Forgotten::new(0, 0, 1));
        match &self.record.state {
            _ if self.record.has_expired(now) => removed,
            State::Completed(_) | State::Oversized if self.record.kept_until.is_some_and(|until| until > now) => {
                emptied
            }
            State::Completed(_) | State::Oversized => removed,
            State::GivenUp if self.reason.is_some() => emptied,
            State::Late | State::GivenUp | State::Running | State::Leased { .. } | State::Unreadable => kept,
        }
    }

    /// Takes the reply or the reason off. What is left goes on refusing retries.
    fn empty(&mut self) {
        self.reason = None;
        if let Some(kept_until) = self.record.kept_until.take() {
            (self.record.state, self.record.expires_at) = (State::Late, kept_until);
        }
    }

    fn is_held(&self, claim: Claim) -> bool {
        self.record.claim == claim && matches!(self.record.state, State::Leased { .. })
    }
}

fn completed(
    request: &Request,
    fingerprint: Option<Fingerprint>,
    claim: Claim,
    outcome: &Outcome,
    now: Timestamp,
) -> Record {
    let state = match outcome {
        Outcome::Reply(reply) => State::Completed(reply.clone()),
        Outcome::Oversized => State::Oversized,
    };
    let expires_at = after(now, request.ttl);
    let kept_until = request.refused_for().map(|time| after(expires_at, time));
    Record::new(fingerprint, state, claim, expires_at).kept_until(kept_until).with_completed_at(Some(now))
}

/// When a lease that begins now ends, and when its record expires: the `ttl` after the end of the lease.
fn lives(request: &Request, terms: &LeaseTerms, now: Timestamp) -> (Timestamp, Timestamp) {
    let until = after(now, terms.duration);
    (until, after(until, request.ttl))
}

fn after(now: Timestamp, duration: std::time::Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
}
