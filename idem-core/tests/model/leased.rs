//! The clients of the model, and everything that may happen to them.

use idem_core::machine::{Decision, Resume, decide_leased};
use idem_core::store::{Claim, Intent, LeaseTerms, Timestamp};
use idem_core::{Fingerprint, Identity, Kind, Request};
use stateright::{Model, Property};

use crate::past::Broken;
use crate::run::Run;
use crate::store::{Progress, Store, after, claim, nobodys};
use crate::wrong::Wrong;

/// How many claims are given in all, to whichever clients: what bounds the model, with the clock.
const CLAIMS: u8 = 3;

/// How often a run may be begun: what all claims can use up. How long a lease lives is up to the store.
const LIMIT: LeaseTerms = LeaseTerms::DEFAULT.attempts(3);

/// When the clock stops: late enough for a record that was completed at once to expire, and for the lease of the one in
/// its place to end.
const END: Timestamp = after(Timestamp(0), 3);

// What must be so always.
pub(crate) const ONE_COMPLETION: &str = "a record is completed at most once";
pub(crate) const STALE_CHANGES_NOTHING: &str = "a stale claim changes nothing";
pub(crate) const REPLY_IS_COMMITTED: &str = "every reply is the committed one";
pub(crate) const FINISHED_STEP_STAYS: &str = "a finished step is not entered again";
pub(crate) const LIVE_LEASE_STAYS: &str = "nobody takes over a lease that is live by the store's clock";
pub(crate) const LIVE_RECORD_STAYS: &str = "nobody replaces a record that counts by the store's clock";
pub(crate) const OTHER_BODY_IS_NOT_SERVED: &str = "another body neither takes a run over nor gets its reply";
pub(crate) const REJECTION_STANDS: &str = "a recorded rejection is what the record is completed with";
pub(crate) const NO_REJECTION_OVER_A_CALL: &str = "no rejection is recorded over a call that nobody has an answer to";
pub(crate) const ALL_STEPS_PASSED: &str = "a record is completed by a run that has passed all its finished steps";
pub(crate) const NO_COMPLETION_OVER_A_CALL: &str = "no record is completed over a call that nobody has an answer to";
pub(crate) const NO_STEP_BEHIND_REJECTION: &str = "no step is entered behind a recorded rejection";
pub(crate) const REJECTED_IS_UNDONE: &str = "a rejected record has all its finished steps undone";
pub(crate) const SUCCESS_IS_NOT_UNDONE: &str = "a record that succeeds has no step undone";
pub(crate) const REJECTED_IS_NOT_FORGOTTEN: &str = "no record is forgotten of which something is to be undone";
pub(crate) const UNDONE_ONCE: &str = "what is undone is not undone again";
pub(crate) const RELEASED_IS_SPACED: &str = "no attempt begins at once behind two that were released";
pub(crate) const RELEASED_IS_NOT_COUNTED: &str = "only attempts that ended without a word use a run up";
pub(crate) const LAST_IS_UNDONE_FIRST: &str = "only a finished step is undone, and the last one first";

/// Leased runs, as they are or in a way that must be found out.
pub(crate) struct Leased {
    pub(crate) wrong: Wrong,
    clients: usize,
    /// Whether a handler may reject.
    rejects: bool,
    /// What is asked under the one key: this, and something else.
    requests: [Request; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) store: Store,
    clients: Vec<Client>,
    /// What a client was told just now.
    told: Option<Told>,
}

/// How far a client is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// It has nothing: it has not asked, or was answered, or has crashed.
    Idle,
    /// It has seen the record, in a transaction that began then, and is to carry this out.
    Looked {
        body: usize,
        began: Timestamp,
        order: Order,
    },
    Runs(Run),
}

/// The answer to a client, which then has nothing: it may ask again, as may another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// The reply of its own run.
    Reply,
    /// The reply of an earlier run.
    Replay,
    Refused(Kind),
}

/// A [`Decision`] to be carried out. That one cannot be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Lease,
    ReplaceLeased(Claim),
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
    /// It enters the step at hand, or its undo, for which the store must say that the lease is held.
    Enter(usize),
    /// The step's result is recorded, or that it is undone.
    Keep(usize),
    /// The handler says that the run is rejected.
    Reject(usize),
    /// All steps are finished, or undone, and the run is completed.
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
    /// Runs that are completed or released.
    pub(crate) fn without_rejections(wrong: Wrong) -> Self {
        Self::new(wrong, 3, false)
    }

    /// Runs that may be rejected, too, of one client fewer: of three, there are 1.1 million states, which is too long
    /// for a test. It takes two for one to be overtaken by the other, at whatever it is.
    pub(crate) fn with_rejections(wrong: Wrong) -> Self {
        Self::new(wrong, 2, true)
    }

    fn new(wrong: Wrong, clients: usize, rejects: bool) -> Self {
        let identity = Identity::new("scope", "operation", "key").expect("valid");
        let request = |fingerprint| Request::new(identity.clone(), fingerprint, Request::MIN_TTL).expect("valid");
        let other = if wrong == Wrong::NoFingerprint { "this" } else { "that" };
        let requests = ["this", other].map(|body| request(Fingerprint::of_value(body).expect("serialisable")));
        Self { wrong, clients, rejects, requests }
    }

    fn look(&self, store: &mut Store, body: usize, clock: Clock) -> Result<Client, Told> {
        let record = store.row.as_ref().map(|row| row.record());
        let began = match clock {
            Clock::Store => store.now,
            Clock::Ahead => after(store.now, 1),
        };
        let order = match decide_leased(record.as_ref(), &self.requests[body], &LIMIT, Intent::Run, began) {
            Decision::Claim => Order::Lease,
            Decision::Replace(expired) => Order::ReplaceLeased(expired),
            Decision::Resume(Resume { claim, .. }) => Order::TakeOver(claim),
            Decision::TooSoon(Resume { claim, .. }, _) if self.wrong == Wrong::NotSpaced => Order::TakeOver(claim),
            Decision::TooSoon(..) => return Err(Told::Refused(Kind::AttemptTooSoon)),
            Decision::Replay(reply, _) => {
                store.answer(&reply);
                store.past.note(Broken::OtherBodyServed, store.past.asked != body);
                return Err(Told::Replay);
            }
            Decision::Refuse(kind) => {
                if kind == Kind::AttemptsExhausted {
                    store.past.use_up(LIMIT.attempts);
                }
                return Err(Told::Refused(kind));
            }
        };
        Ok(Client::Looked { body, began, order })
    }

    fn claim(&self, store: &mut Store, body: usize, began: Timestamp, order: Order) -> Client {
        let fingerprint = self.requests[body].fingerprint;
        let claimed = match order {
            Order::Lease => store.lease(began, fingerprint),
            Order::ReplaceLeased(expired) => store.replace_leased(began, fingerprint, expired),
            Order::TakeOver(earlier) => store.take_over(began, earlier),
        };
        match order {
            Order::TakeOver(_) if claimed.is_some() => {
                store.past.note(Broken::OtherBodyServed, store.past.asked != body);
            }
            Order::Lease | Order::ReplaceLeased(_) if claimed.is_some() => store.past.asked = body,
            _ => {}
        }
        match claimed {
            Some(claim) => Client::Runs(Run::of(claim, store, self.wrong)),
            // Somebody else was first: it looks again.
            None => Client::Idle,
        }
    }
}

impl Model for Leased {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World { store: Store::new(), clients: vec![Client::Idle; self.clients], told: None }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.store.now < END {
            actions.push(Action::Tick);
        }
        if world.store.is_expired() {
            actions.push(Action::Sweep);
        }
        for (i, client) in world.clients.iter().enumerate() {
            match client {
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
                Client::Runs(run) => run.actions(i, self.rejects, self.wrong, actions),
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
            Action::Enter(i)
            | Action::Keep(i)
            | Action::Reject(i)
            | Action::Finish(i)
            | Action::Renew(i)
            | Action::Release(i) => {
                let Client::Runs(run) = std::mem::replace(&mut clients[i], Client::Idle) else { return None };
                (clients[i], *told) = gone_on(run.act(store, action, self.wrong));
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
        let mut expected = vec![
            Expected::always(ONE_COMPLETION, |_, world| world.keeps(Broken::CompletedAgain)),
            Expected::always(STALE_CHANGES_NOTHING, |_, world| world.keeps(Broken::StaleChange)),
            Expected::always(REPLY_IS_COMMITTED, |_, world| world.keeps(Broken::OtherReply)),
            Expected::always(FINISHED_STEP_STAYS, |_, world| world.keeps(Broken::Reentered)),
            Expected::always(ALL_STEPS_PASSED, |_, world| world.keeps(Broken::StepLeftOut)),
            Expected::always(NO_COMPLETION_OVER_A_CALL, |_, world| world.keeps(Broken::CompletedOverCall)),
            Expected::always(LIVE_LEASE_STAYS, |_, world| world.keeps(Broken::LiveLeaseTaken)),
            Expected::always(LIVE_RECORD_STAYS, |_, world| world.keeps(Broken::LiveRecordReplaced)),
            Expected::always(OTHER_BODY_IS_NOT_SERVED, |_, world| world.keeps(Broken::OtherBodyServed)),
            Expected::always(REJECTION_STANDS, |_, world| world.keeps(Broken::OtherEnding)),
            Expected::always(NO_STEP_BEHIND_REJECTION, |_, world| world.keeps(Broken::EnteredBehindRejection)),
            Expected::always(NO_REJECTION_OVER_A_CALL, |_, world| world.keeps(Broken::RejectedOverCall)),
            Expected::always(REJECTED_IS_UNDONE, |_, world| world.keeps(Broken::NotUndone)),
            Expected::always(REJECTED_IS_NOT_FORGOTTEN, |_, world| world.keeps(Broken::RejectionForgotten)),
            Expected::always(SUCCESS_IS_NOT_UNDONE, |_, world| world.keeps(Broken::UndoneSuccess)),
            Expected::always(UNDONE_ONCE, |_, world| world.keeps(Broken::UndoneAgain)),
            Expected::always(RELEASED_IS_SPACED, |_, world| world.keeps(Broken::BegunTooSoon)),
            Expected::always(RELEASED_IS_NOT_COUNTED, |_, world| world.keeps(Broken::UsedUpByReleases)),
            Expected::always(LAST_IS_UNDONE_FIRST, |_, world| world.keeps(Broken::UndoneOutOfOrder)),
            Expected::sometimes("a lease is taken over from a client that sleeps", |_, world| world.is_taken_over()),
            Expected::sometimes("a run goes on behind the steps of an earlier one", |_, world| world.is_resumed()),
            Expected::sometimes("a lease is lost", |_, world| world.refuses(Kind::LeaseLost)),
            Expected::sometimes("another body is refused", |_, world| world.refuses(Kind::KeyReused)),
            Expected::sometimes("the attempts are used up", |_, world| world.refuses(Kind::AttemptsExhausted)),
            Expected::sometimes("a client comes too soon", |_, world| world.refuses(Kind::AttemptTooSoon)),
            Expected::sometimes("a reply is replayed", |_, world| world.told == Some(Told::Replay)),
            Expected::sometimes("an expired record is begun anew", |_, world| world.is_begun_anew()),
        ];
        if self.rejects {
            expected.extend([
                Expected::sometimes("a rejection with no undo is completed", |_, world| world.is_rejected(0)),
                Expected::sometimes("a rejection with two undos is completed", |_, world| world.is_rejected(2)),
                Expected::sometimes("a rejection is gone on with by another claim", |_, world| world.is_gone_on_with()),
            ]);
        }
        expected
    }
}

/// Where a client is then, and what it was told.
fn gone_on(then: Result<Client, Told>) -> (Client, Option<Told>) {
    match then {
        Ok(client) => (client, None),
        Err(told) => (Client::Idle, Some(told)),
    }
}

impl Client {
    /// Where it stands among the clients.
    fn rank(&self) -> (u8, i64, usize) {
        match self {
            Self::Idle => (0, 0, 0),
            Self::Looked { body, began, .. } => (1, began.0, *body),
            Self::Runs(run) => (2, run.claim.as_bytes()[0].into(), 0),
        }
    }
}

impl World {
    fn keeps(&self, broken: Broken) -> bool {
        !self.store.past.has(broken)
    }

    fn refuses(&self, kind: Kind) -> bool {
        self.told == Some(Told::Refused(kind))
    }

    /// Two clients run, and one does not know that it is a successor's turn.
    fn is_taken_over(&self) -> bool {
        let Some(row) = &self.store.row else { return false };
        let is_stale = |client: &Client| matches!(client, Client::Runs(run) if run.claim != row.claim);
        matches!(row.progress, Progress::Leased { attempt: 2.., .. }) && self.clients.iter().any(is_stale)
    }

    fn is_resumed(&self) -> bool {
        self.store.kept.is_by_two()
    }

    fn is_rejected(&self, undone: usize) -> bool {
        self.store.past.rejection().is_some_and(|(_, steps)| steps == undone)
    }

    /// Whoever has completed the record has not rejected it.
    fn is_gone_on_with(&self) -> bool {
        let (Some(row), Some((by, _))) = (&self.store.row, self.store.past.rejection()) else { return false };
        row.claim != by
    }

    /// A first attempt that is not by the first claim.
    fn is_begun_anew(&self) -> bool {
        let Some(row) = &self.store.row else { return false };
        matches!(row.progress, Progress::Leased { attempt: 1, .. })
            && ![claim(1), nobodys(claim(1))].contains(&row.claim)
    }
}
