//! The clients of the model, and everything that may happen to them.

use std::time::Duration;

use idem_core::machine::{Decision, decide};
use idem_core::{Claim, Fingerprint, Identity, Kind, Lease, Request, Timestamp};
use stateright::{Model, Property};

use crate::store::{Broken, Guard, Progress, STEPS, Store, after, claim, reply_of};

const CLIENTS: usize = 3;

/// How many claims are given in all, to whichever clients: what bounds the model, with the clock.
const CLAIMS: u8 = 3;

/// How often a run may be begun: what all claims can use up. How long a lease lives is up to the store.
const LIMIT: Lease = Lease { attempts: 3, ..Lease::DEFAULT };

/// When the clock stops: late enough for a record that was completed at once to expire, and for the lease of the one in
/// its place to end.
const END: Timestamp = Timestamp(3);

// What must be so always.
pub(crate) const ONE_COMPLETION: &str = "a record is completed at most once";
pub(crate) const STALE_CHANGES_NOTHING: &str = "a stale claim changes nothing";
pub(crate) const REPLY_IS_COMMITTED: &str = "every reply is the committed one";
pub(crate) const FINISHED_STEP_STAYS: &str = "a finished step is not entered again";
pub(crate) const LIVE_LEASE_STAYS: &str = "nobody takes over a lease that is live by the store's clock";
pub(crate) const LIVE_RECORD_STAYS: &str = "nobody replaces a record that counts by the store's clock";
pub(crate) const OTHER_BODY_IS_NOT_SERVED: &str = "another body neither takes a run over nor gets its reply";

/// Leased runs, as they are or in a way that must be found out.
pub(crate) struct Leased {
    wrong: Wrong,
    /// What is asked under the one key: this, and something else.
    requests: [Request; 2],
}

/// What is wrong with the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The updates ask whether the record is leased, and not by whom.
    NoTokenCheck,
    /// A client claims by its own clock.
    ApplicationClock,
    /// A release ends the lease of whoever holds it.
    ReleaseWithoutToken,
    /// The completion is written to whatever is there.
    FinishUnguarded,
    /// All requests have the same fingerprint.
    NoFingerprint,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) store: Store,
    clients: [Client; CLIENTS],
    /// What a client was told just now.
    told: Option<Told>,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    /// It has nothing: it has not asked, or was answered, or has crashed.
    Idle,
    /// It has seen the record, in a transaction that began then, and is to carry this out.
    Looked { body: usize, began: Timestamp, order: Order },
    /// It runs, and `next` is the step at hand.
    Runs { claim: Claim, next: usize, entered: bool },
}

/// The answer to a client, which then has nothing: it may ask again, as may another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// The reply of its own run.
    Reply,
    /// The reply of an earlier run.
    Replay,
    Refused(Kind),
}

/// A [`Decision`] to be carried out. That one cannot be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Order {
    Lease,
    LeaseAgain(Claim),
    TakeOver(Claim),
}

/// What may happen next. A client that sleeps is one for which something else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Sweep,
    /// The client asks, with one of the two requests: it reads the record and decides.
    Look(usize, usize, Clock),
    /// It carries the decision out and commits, and reads the recorded steps.
    Claim(usize),
    /// It enters the step at hand, for which the store must say that the lease is held.
    Enter(usize),
    /// The step's result is recorded.
    Keep(usize),
    /// All steps are finished, and the run is completed.
    Finish(usize),
    Renew(usize),
    /// The handler fails, or is given up: the lease is given back.
    Release(usize),
    /// The client loses all it had. That it lost an answer is not told from that it asks again.
    Crash(usize),
}

/// Whose clock a client goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Store,
    /// Wrong: its own, which is ahead by a tick.
    Ahead,
}

impl Leased {
    pub(crate) fn new(wrong: Wrong) -> Self {
        let identity = Identity::new("scope", "operation", "key").expect("valid");
        let request =
            |fingerprint| Request { identity: identity.clone(), fingerprint, ttl: Duration::ZERO, input: None };
        let other = if wrong == Wrong::NoFingerprint { "this" } else { "that" };
        let requests = ["this", other].map(|body| request(Fingerprint::of_value(body).expect("serialisable")));
        Self { wrong, requests }
    }

    fn guard(&self, action: Action) -> Guard {
        match (self.wrong, action) {
            (Wrong::NoTokenCheck, _) | (Wrong::ReleaseWithoutToken, Action::Release(_)) => Guard::Leased,
            (Wrong::FinishUnguarded, Action::Finish(_)) => Guard::Nothing,
            _ => Guard::Claim,
        }
    }

    fn look(&self, store: &mut Store, body: usize, clock: Clock) -> Result<Client, Told> {
        let record = store.row.as_ref().map(|row| row.record());
        let began = match clock {
            Clock::Store => store.now,
            Clock::Ahead => after(store.now, 1),
        };
        let order = match decide(record.as_ref(), &self.requests[body], began).within(&LIMIT) {
            Decision::Claim => Order::Lease,
            Decision::Replace(expired) => Order::LeaseAgain(expired),
            Decision::Resume { claim, .. } => Order::TakeOver(claim),
            Decision::Replay(reply) => {
                store.answer(&reply);
                if store.past.asked != body {
                    store.broken.insert(Broken::OtherBodyServed);
                }
                return Err(Told::Replay);
            }
            Decision::Refuse(kind) => return Err(Told::Refused(kind)),
        };
        Ok(Client::Looked { body, began, order })
    }

    fn claim(&self, store: &mut Store, body: usize, began: Timestamp, order: Order) -> Client {
        let fingerprint = self.requests[body].fingerprint;
        let claimed = match order {
            Order::Lease => store.lease(began, fingerprint),
            Order::LeaseAgain(expired) => store.lease_again(began, fingerprint, expired),
            Order::TakeOver(earlier) => store.take_over(began, earlier),
        };
        match order {
            Order::TakeOver(_) if claimed.is_some() && store.past.asked != body => {
                store.broken.insert(Broken::OtherBodyServed);
            }
            Order::Lease | Order::LeaseAgain(_) if claimed.is_some() => store.past.asked = body,
            _ => {}
        }
        match claimed {
            Some(claim) => Client::Runs { claim, next: store.steps.iter().flatten().count(), entered: false },
            // Somebody else was first: it looks again.
            None => Client::Idle,
        }
    }

    /// One step of a client that runs. Any `false` of the store is a lost lease.
    fn run(&self, store: &mut Store, action: Action, claim: Claim, next: usize, entered: bool) -> Result<Client, Told> {
        let guard = self.guard(action);
        let (is_held, then) = match action {
            Action::Enter(_) => {
                // The first step is a transaction, which looks; the second is a call, which renews.
                let is_held = if next == 0 { store.held(claim, guard) } else { store.renew(claim, guard) };
                if is_held {
                    store.enter(next);
                }
                (is_held, Ok(Client::Runs { claim, next, entered: true }))
            }
            Action::Keep(_) => {
                (store.keep(claim, guard, next), Ok(Client::Runs { claim, next: next + 1, entered: false }))
            }
            Action::Renew(_) => (store.renew(claim, guard), Ok(Client::Runs { claim, next, entered })),
            Action::Finish(_) => {
                let finished = store.finish(claim, guard);
                if finished {
                    store.answer(&reply_of(claim));
                }
                (finished, Err(Told::Reply))
            }
            // Whoever gives back what is lost is not told so.
            Action::Release(_) => {
                store.let_go(claim, guard);
                (true, Ok(Client::Idle))
            }
            _ => unreachable!("{action:?} is not of a run"),
        };
        if is_held { then } else { Err(Told::Refused(Kind::LeaseLost)) }
    }
}

impl Model for Leased {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World { store: Store::new(), clients: [Client::Idle; CLIENTS], told: None }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.store.now < END {
            actions.push(Action::Tick);
        }
        if world.store.is_expired() {
            actions.push(Action::Sweep);
        }
        for (i, client) in world.clients.iter().enumerate() {
            match *client {
                Client::Idle => {
                    // Whatever is claimed first is the first of the two.
                    for body in 0..=world.store.claims.min(1).into() {
                        actions.push(Action::Look(i, body, Clock::Store));
                        if self.wrong == Wrong::ApplicationClock {
                            actions.push(Action::Look(i, body, Clock::Ahead));
                        }
                    }
                }
                Client::Looked { .. } => {
                    if world.store.claims < CLAIMS {
                        actions.push(Action::Claim(i));
                    }
                    actions.push(Action::Crash(i));
                }
                Client::Runs { next, entered, .. } => {
                    actions.push(match (next, entered) {
                        (_, true) => Action::Keep(i),
                        (STEPS, false) => Action::Finish(i),
                        (_, false) => Action::Enter(i),
                    });
                    actions.extend([Action::Renew(i), Action::Release(i), Action::Crash(i)]);
                }
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        let World { store, clients, told } = &mut world;
        *told = None;
        match action {
            Action::Tick => store.now = after(store.now, 1),
            Action::Sweep => store.sweep(),
            Action::Look(i, body, clock) => {
                (clients[i], *told) = gone_on(self.look(store, body, clock));
                // It is to claim, and no claim is left.
                if told.is_none() && store.claims == CLAIMS {
                    return None;
                }
            }
            Action::Claim(i) => {
                let Client::Looked { body, began, order } = clients[i] else { return None };
                clients[i] = self.claim(store, body, began, order);
            }
            Action::Enter(i) | Action::Keep(i) | Action::Finish(i) | Action::Renew(i) | Action::Release(i) => {
                let Client::Runs { claim, next, entered } = clients[i] else { return None };
                (clients[i], *told) = gone_on(self.run(store, action, claim, next, entered));
            }
            Action::Crash(i) => clients[i] = Client::Idle,
        }
        // The clients are alike, so which is which makes no other state.
        clients.sort_by_key(Client::rank);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Spelt out for the closures: their types are not inferred through the model's.
        type Expected = Property<Leased>;
        vec![
            Expected::always(ONE_COMPLETION, |_, world| world.store.past.completed.len() <= 1),
            Expected::always(STALE_CHANGES_NOTHING, |_, world| world.keeps(Broken::StaleChange)),
            Expected::always(REPLY_IS_COMMITTED, |_, world| world.keeps(Broken::OtherReply)),
            Expected::always(FINISHED_STEP_STAYS, |_, world| world.keeps(Broken::Reentered)),
            Expected::always("a record is completed behind all its steps", |_, world| world.keeps(Broken::StepLeftOut)),
            Expected::always(LIVE_LEASE_STAYS, |_, world| world.keeps(Broken::LiveLeaseTaken)),
            Expected::always(LIVE_RECORD_STAYS, |_, world| world.keeps(Broken::LiveRecordReplaced)),
            Expected::always(OTHER_BODY_IS_NOT_SERVED, |_, world| world.keeps(Broken::OtherBodyServed)),
            Expected::sometimes("a lease is taken over from a client that sleeps", |_, world| world.is_taken_over()),
            Expected::sometimes("a run goes on behind the steps of an earlier one", |_, world| world.is_resumed()),
            Expected::sometimes("a lease is lost", |_, world| world.refuses(Kind::LeaseLost)),
            Expected::sometimes("another body is refused", |_, world| world.refuses(Kind::KeyReused)),
            Expected::sometimes("the attempts are used up", |_, world| world.refuses(Kind::AttemptsExhausted)),
            Expected::sometimes("a reply is replayed", |_, world| world.told == Some(Told::Replay)),
            Expected::sometimes("an expired record is begun anew", |_, world| world.is_begun_anew()),
        ]
    }
}

/// Where a client is then, and what it was told.
fn gone_on(then: Result<Client, Told>) -> (Client, Option<Told>) {
    (then.unwrap_or(Client::Idle), then.err())
}

impl Client {
    /// Where it stands among the clients.
    fn rank(&self) -> (u8, i64, usize) {
        match *self {
            Self::Idle => (0, 0, 0),
            Self::Looked { body, began, .. } => (1, began.0, body),
            Self::Runs { claim, .. } => (2, claim.as_bytes()[0].into(), 0),
        }
    }
}

impl World {
    fn keeps(&self, broken: Broken) -> bool {
        !self.store.broken.contains(&broken)
    }

    fn refuses(&self, kind: Kind) -> bool {
        self.told == Some(Told::Refused(kind))
    }

    /// Two clients run, and one does not know that it is a successor's turn.
    fn is_taken_over(&self) -> bool {
        let Some(row) = &self.store.row else { return false };
        let is_stale = |client: &Client| matches!(*client, Client::Runs { claim, .. } if claim != row.claim);
        matches!(row.progress, Progress::Leased { attempt: 2.., .. }) && self.clients.iter().any(is_stale)
    }

    fn is_resumed(&self) -> bool {
        matches!(self.store.steps, [Some(first), Some(second)] if first != second)
    }

    /// A first attempt that is not by the first claim.
    fn is_begun_anew(&self) -> bool {
        let Some(row) = &self.store.row else { return false };
        matches!(row.progress, Progress::Leased { attempt: 1, .. }) && row.claim != claim(1)
    }
}
