//! Late retries under the model checker: one key, runs in one transaction, the clock, and the sweep.
//!
//! A request says when it was first sent, by the database's clock. A look at the record, the insert of the running record,
//! and its COMMIT are three changes, between which anything may happen. `decide` is the library's own, and so are the times
//! between which a request may begin. The statements are modelled, with the guards that they have in SQL.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use idem_core::machine::{Decision, decide};
use idem_core::store::{Claim, Format, Record, Reply, State, Timestamp};
use idem_core::{Fingerprint, FirstSent, Identity, Kind, Request, Then};
use stateright::{Model, Property};

/// A tick of the clock: the `ttl`, and the time for which later retries are refused.
const TICK: Duration = Duration::from_secs(1);

/// When the clock stops. A record that was begun at once has expired by then, and so has the next one.
const END: i64 = 5;

/// How many requests there are under the key, and how many clients send them.
const REQUESTS: usize = 2;
const CLIENTS: usize = 3;

pub(crate) const RUNS_ONCE: &str = "a request that says when it was first sent runs at most once";
pub(crate) const KEPT_REFUSES: &str = "no run begins as long as a record refuses retries";
pub(crate) const KEPT_ANSWERS: &str = "no retry is told that there is no record as long as there is one";

/// What is wrong with it on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The times are compared when the record is looked for, and not where it is inserted.
    InsertAsksNothing,
    /// A client says when it sent the request this time.
    SentAnew,
    /// Nobody looks at the times.
    Ignored,
    /// The sweep removes a record at the end of its `ttl`, whatever it refuses after that.
    SweepRemovesAll,
    /// A decision takes a record that refuses retries for an expired one.
    KeptCountsAsExpired,
}

pub(crate) struct Late {
    pub(crate) wrong: Wrong,
    then: Then,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    now: i64,
    row: Option<Row>,
    clients: [Client; CLIENTS],
    /// When each request was first sent, and how often it has run.
    sent: [Option<i64>; REQUESTS],
    runs: [u8; REQUESTS],
    /// Until when the last committed record refuses retries, whatever has become of it.
    refuses_until: i64,
    claims: u8,
    late_run: bool,
    denied: bool,
    told: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    claim: u8,
    expires_at: i64,
    kept_until: Option<i64>,
    is_late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Client {
    Idle,
    /// It has looked, and is to insert or to replace this claim.
    Looked {
        request: usize,
        sent: i64,
        replaces: Option<u8>,
    },
    Runs {
        request: usize,
        began: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Sweep,
    Look(usize, usize),
    Claim(usize),
    Commit(usize),
    Crash(usize),
}

/// The time of a tick. The first is late enough for every time that is computed from it.
fn time(tick: i64) -> i64 {
    (1_000 + tick) * 1_000_000
}

fn claim(number: u8) -> Claim {
    Claim::from_bytes(&[number; 16]).expect("16 bytes")
}

impl Late {
    pub(crate) fn new(wrong: Wrong, refuses: bool) -> Self {
        Self { wrong, then: if refuses { Then::Refuse(TICK) } else { Then::Run } }
    }

    fn request(&self, sent: i64) -> Request {
        let identity = Identity::new("scope", "operation", "key").expect("valid");
        let request = Request::new(identity, Fingerprint::none(), TICK).and_then(|request| request.then(self.then));
        let sent = FirstSent::at(UNIX_EPOCH + Duration::from_micros(time(sent).cast_unsigned()));
        request.expect("valid").with_first_sent(Some(sent).filter(|_| self.wrong != Wrong::Ignored))
    }

    fn record(&self, row: Row) -> Record {
        let reply = Reply { format: Format::VALUE, status: None, headers: Bytes::new(), body: Bytes::new() };
        let state = if row.is_late { State::Late } else { State::Completed(reply) };
        let kept_until = row.kept_until.filter(|_| self.wrong != Wrong::KeptCountsAsExpired);
        Record::new(Some(Fingerprint::none()), state, claim(row.claim), Timestamp(time(row.expires_at)))
            .kept_until(kept_until.map(|tick| Timestamp(time(tick))))
    }

    /// The record is looked for, and its meaning is decided.
    fn look(&self, world: &mut World, at: usize, request: usize) {
        let first = *world.sent[request].get_or_insert(world.now);
        let sent = if self.wrong == Wrong::SentAnew { world.now } else { first };
        let record = world.row.map(|row| self.record(row));
        let replaces = match decide(record.as_ref(), &self.request(sent), Timestamp(time(world.now))) {
            Decision::Claim => None,
            Decision::Replace(_) => world.row.map(|row| row.claim),
            Decision::Replay(..) => return,
            Decision::Refuse(kind) => {
                let is_there = world.row.is_some_and(|row| row.kept_until.unwrap_or(row.expires_at) > world.now);
                world.denied |= kind == Kind::FirstSentTooOld && is_there;
                world.told = Some(kind);
                return;
            }
            Decision::Resume(never) | Decision::TooSoon(never, _) => match never {},
        };
        world.clients[at] = Client::Looked { request, sent, replaces };
    }

    /// The statement that claims. It waits for no other transaction.
    fn claim(&self, world: &mut World, at: usize) {
        let Client::Looked { request, sent, replaces } = world.clients[at] else { unreachable!("it has looked") };
        world.clients[at] = Client::Idle;
        let (first, last) = self.request(sent).may_begin();
        let is_in_time = self.wrong == Wrong::InsertAsksNothing || (first..=last).contains(&Timestamp(time(world.now)));
        let may = match (replaces, world.row) {
            (None, None) => is_in_time,
            // It is the very record that was seen, and its `ttl` is over.
            (Some(seen), Some(row)) => row.claim == seen && row.expires_at <= world.now,
            _ => false,
        };
        // Somebody else has inserted the record, and has not committed it.
        let is_held = world.clients.iter().any(|client| matches!(client, Client::Runs { .. }));
        if may && !is_held {
            world.late_run |= world.now < world.refuses_until;
            world.clients[at] = Client::Runs { request, began: world.now };
        }
    }

    fn commit(&self, world: &mut World, at: usize) {
        let Client::Runs { request, began } = world.clients[at] else { unreachable!("it runs") };
        world.clients[at] = Client::Idle;
        world.runs[request] += 1;
        world.claims += 1;
        let expires_at = began + 1;
        let kept_until = matches!(self.then, Then::Refuse(_)).then_some(expires_at + 1);
        world.refuses_until = kept_until.unwrap_or(expires_at);
        world.row = Some(Row { claim: world.claims, expires_at, kept_until, is_late: false });
    }

    fn sweep(&self, world: &mut World) {
        world.row = world.row.and_then(|row| match row.kept_until {
            Some(kept) if kept > world.now && self.wrong != Wrong::SweepRemovesAll => {
                Some(Row { expires_at: kept, kept_until: None, is_late: true, ..row })
            }
            _ => None,
        });
    }
}

impl Model for Late {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            row: None,
            clients: [Client::Idle; CLIENTS],
            sent: [None; REQUESTS],
            runs: [0; REQUESTS],
            refuses_until: 0,
            claims: 0,
            late_run: false,
            denied: false,
            told: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.now < END {
            actions.push(Action::Tick);
        }
        if world.row.is_some_and(|row| row.expires_at <= world.now) {
            actions.push(Action::Sweep);
        }
        for (at, client) in world.clients.iter().enumerate() {
            match client {
                // The second request is sent after the first one.
                Client::Idle => {
                    let known = if world.sent[0].is_some() { REQUESTS } else { 1 };
                    actions.extend((0..known).map(|request| Action::Look(at, request)));
                }
                Client::Looked { .. } => actions.extend([Action::Claim(at), Action::Crash(at)]),
                Client::Runs { .. } => actions.extend([Action::Commit(at), Action::Crash(at)]),
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        world.told = None;
        match action {
            Action::Tick => world.now += 1,
            Action::Sweep => self.sweep(&mut world),
            Action::Look(at, request) => self.look(&mut world, at, request),
            Action::Claim(at) => self.claim(&mut world, at),
            Action::Commit(at) => self.commit(&mut world, at),
            Action::Crash(at) => world.clients[at] = Client::Idle,
        }
        // The clients are alike, so which is which makes no other state.
        world.clients.sort_unstable();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        type Expected = Property<Late>;
        let mut expected = vec![
            Expected::always(RUNS_ONCE, |_, world: &World| world.runs.iter().all(|runs| *runs <= 1)),
            Expected::always(KEPT_REFUSES, |_, world: &World| !world.late_run),
            Expected::always(KEPT_ANSWERS, |_, world: &World| !world.denied),
            Expected::sometimes("both requests run", |_, world: &World| world.runs == [1, 1]),
            Expected::sometimes("a request is too old", |_, world: &World| world.told == Some(Kind::FirstSentTooOld)),
        ];
        if matches!(self.then, Then::Refuse(_)) {
            expected.push(Expected::sometimes("a retry is too late", |_, world: &World| {
                world.told == Some(Kind::RetryTooLate)
            }));
        }
        expected
    }
}
