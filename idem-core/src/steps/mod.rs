//! The leased context: a run in recorded steps.

mod context;
mod key;
mod open;
mod undo;
mod undoing;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use key::StepKey;

use crate::bounds::UndoIn;
use crate::disposition::Disposition;
use crate::entry::Entry;
use crate::error::{Error, Kind};
use crate::machine::{Journal, Next, Refused, Registered, StepKind};
use crate::record::{Claim, Format, Outcome, Reply};
use crate::renewal::Renewal;
use crate::resume;
use crate::store::{Lease, Store, Transaction};
use crate::value::{self, Value};
use key::digest;
use open::{Open, Turn};
use undo::{Failure, Undo};

/// The steps of a leased run: what a handler gets as `steps: &mut PgSteps` or `steps: &mut SqliteSteps`.
///
/// Between a foreign call and its record a crash can make the call happen again: [`call`](Self::call) gives it a key that
/// is the same on every attempt, for the other side to know it by.
///
/// # Rules
/// - The claim is committed before the handler runs, and renewed every third of the lease while it runs.
/// - A finished step does not run again, in whatever attempt: its result is read instead.
/// - A step gives its result as a retry reads it: what is not serialised is missing on the first attempt, too. A type of which
///   a value does not read back is refused before the step runs ([`Kind::ReplyFailed`]).
/// - A step is known by its name and its place. Where an attempt meets another step than an earlier one has finished
///   there, or one twice, that is [`Kind::StepMismatch`], before the step runs.
/// - Whoever has lost the lease changes nothing: each write asks for it, in its own transaction.
/// - A handler that fails is released: its finished steps stay, and the retry goes on behind them. They stay for the `ttl`
///   behind the end of the last lease.
/// - A handler that is rejected ([`Disposition::Reject`]) has its finished steps undone by what they have registered with
///   [`undo`](Self::undo) and [`undo_call`](Self::undo_call), the last first, each once and recorded. Where that is cut
///   short, the retry runs the handler again, which comes past its finished steps and enters no other
///   ([`Kind::RunRejected`]); then it goes on behind what is undone, and its caller gets the reply of the first rejection.
///   Until all is undone the record does not expire, and attempts do not count.
/// - Behind a step that failed, or that the handler gave up, only the same one may be entered: another attempt might come
///   past it and go another way. A failure that the handler lives with is the step's result: `Ok(None)`, `Ok(Declined)`.
/// - An attempt that would be completed without having come past all steps that an earlier one has finished, and to the call
///   that it has made, is a [`Kind::StepMismatch`], too, and is not kept.
/// - An attempt that would be completed after it has given up a call, or after a call whose answer could not be recorded, is
///   [`Kind::OutcomeUnknown`]: the call may have happened. The retry makes it again, under the same key.
///
/// # Cancel safety
/// Dropped at any await, a step is finished or not begun, but for a foreign call, which may have happened. The lease is
/// given back, or ends by itself. A handler that gives up a step (a timeout around it) gets no other one in this attempt, and
/// if the step was being kept, none at all: [`Kind::OutcomeUnknown`]. The next attempt knows.
///
/// # Limitations
/// - A finished step without an undo stays as it is when the run is rejected. So does a call whose body failed: reject only
///   on an answer that says that nothing was done. Where a call was given up, or answered and could not be recorded, or was
///   made by an earlier attempt and is not finished, a rejection is [`Kind::OutcomeUnknown`] until this attempt has made the
///   call, under the same key, and has its answer: let nothing reject between a step and the call behind it.
/// - A rejection that cannot be undone waits for its retry for ever: an undo that can never succeed answers `Ok` and leaves
///   the rest to people. Over HTTP only the client retries. What waits is found by
///   `SELECT * FROM idem_records WHERE state = 5 AND lease_until < now()` (on SQLite `unixepoch('subsec') * 1000000`), and
///   forgotten when its `expires_at` is set.
/// - The lease of a step that was given up is renewed until the database has ended it, for a minute at the most.
/// - What a handler does between its steps is done again by each attempt.
/// - A step that ends its transaction and begins another is not found out where the other one fails, or its connection is
///   lost: the next attempt runs the step again.
/// - A request that is not recorded (a `GET`, a missing key that may be missing) runs its steps without a record: each as
///   a transaction of its own, each call under a key that nobody else gets.
pub struct Steps<L: Lease> {
    store: L::Store,
    /// `None` in a request that is not recorded.
    run: Option<Run<L>>,
    /// The last writes, which are committed with the outcome.
    last: Option<Open<L>>,
    /// What may come next.
    journal: Journal,
    /// What undoes the passed steps, by their names. In a mutex only so that `&Steps` may go to another thread.
    undos: std::sync::Mutex<Vec<(String, Undo<L::Tx>)>>,
}

struct Run<L> {
    lease: L,
    /// What the keys of foreign calls are made of.
    seed: [u8; 32],
    attempt: u32,
    renewal: Renewal,
    /// Locked while a transaction of a step is open. Whether a step has ended its transaction itself.
    busy: Arc<Mutex<bool>>,
}

impl<L: Lease> Steps<L> {
    fn of(store: &L::Store, run: Option<Run<L>>, journal: Journal) -> Self {
        Self { store: store.clone(), run, last: None, journal, undos: std::sync::Mutex::default() }
    }

    /// Runs a step that writes to the store's database: its writes and its record are one commit.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn write<T>(_: &mut T) -> Result<u32, Error> { Ok(1) }
    /// async fn reserve<L: Lease>(steps: &mut Steps<L>) -> Result<u32, Error> {
    ///     steps.transaction("reserve", async |tx| write(tx).await).await
    /// }
    /// ```
    ///
    /// # Errors
    /// The step's own, which undoes its writes; by [`Kind`], [`Kind::LeaseLost`], [`Kind::StepMismatch`],
    /// [`Kind::ReplyFailed`] where the result cannot be stored, [`Kind::RecordUnreadable`] where a stored one cannot be
    /// read, and what the store says. In each case the step is not finished, unless the kind is
    /// [`Kind::OutcomeUnknown`], which the next attempt finds out, or [`Kind::TransactionEnded`].
    pub async fn transaction<T, E>(
        &mut self,
        name: &str,
        body: impl AsyncFnOnce(&mut L::Tx) -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        value::check::<T>()?;
        if let Next::Finished(reply) = self.enter(name, StepKind::Transaction)? {
            return Ok(self.read(name, reply)?);
        }
        let mut open = self.begin().await?;
        match body(open.tx()).await {
            Ok(value) => {
                let read_back = match self.finished(StepKind::Transaction, &value) {
                    Ok((entry, read_back)) => {
                        self.record(open, entry).await?;
                        read_back
                    }
                    Err(error) => {
                        self.roll_back(open).await?;
                        return Err(error.into());
                    }
                };
                self.journal.pass(name);
                Ok(read_back)
            }
            Err(error) => {
                self.roll_back(open).await?;
                Err(error)
            }
        }
    }

    /// Runs a step that calls the outside world, with a key for the other side to know it by.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
    /// async fn charge<L: Lease>(steps: &mut Steps<L>) -> Result<String, Error> {
    ///     steps.call("charge", async |key| post(key.as_str()).await).await
    /// }
    /// ```
    ///
    /// That the call is made is recorded before it is: whoever has lost the lease does not call, and no later attempt is
    /// completed or rejected without having made it again.
    ///
    /// A call that is not finished is made again however late the next attempt comes: until the `ttl` is over behind the
    /// end of the last lease. The other side has to know the key for as long (Stripe: 24 hours at least).
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction). The call may have happened all the same; the next attempt makes it
    /// again, under the same key.
    pub async fn call<T, E>(&mut self, name: &str, body: impl AsyncFnOnce(StepKey) -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        // Not after the call: its answer would be lost.
        value::check::<T>()?;
        if let Next::Finished(reply) = self.enter(name, StepKind::Call)? {
            return Ok(self.read(name, reply)?);
        }
        let seed = match &self.run {
            Some(run) => run.seed,
            // Nobody else gets the keys of a request that is not recorded.
            None => digest([Claim::random()?.as_bytes()]),
        };
        self.record_in_tries(&self.journal.call_started()).await?;
        self.journal.started();
        let answer = body(StepKey::of(&seed, name)).await;
        if answer.is_err() {
            self.journal.failed();
        }
        let value = answer?;
        let (entry, read_back) = self.finished(StepKind::Call, &value)?;
        self.record_in_tries(&entry).await?;
        self.journal.pass(name);
        Ok(read_back)
    }

    /// What has happened already is worth more than one try to record it.
    async fn record_in_tries(&mut self, entry: &Entry) -> Result<(), Error> {
        const PAUSES: [u64; 6] = [0, 50, 100, 200, 400, 800];
        let (mut recorded, mut is_in_doubt) = (Ok(()), false);
        for pause in PAUSES {
            // A sleep of nothing takes a millisecond.
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            recorded = match self.begin_alone().await {
                Ok(open) => self.record(open, entry.clone()).await,
                Err(error) => Err(error),
            };
            let Err(error) = recorded else { return Ok(()) };
            let may_help = matches!(error.kind(), Kind::RetryLater | Kind::StoreUnavailable | Kind::OutcomeUnknown);
            is_in_doubt |= error.kind() == Kind::OutcomeUnknown;
            // An earlier try may have committed. Stay in doubt even if this wait is abandoned.
            recorded = match is_in_doubt {
                true => self.noted(Err(Error::new(Kind::OutcomeUnknown).caused_by(error))),
                false => Err(error),
            };
            if !may_help || self.is_lost() {
                break;
            }
        }
        recorded
    }

    /// The last writes: they are committed with the reply. No step comes after it.
    ///
    /// It is not a step: its result is not recorded, since a retry gets the reply.
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction).
    pub async fn finish<T, E>(&mut self, body: impl AsyncFnOnce(&mut L::Tx) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error>,
    {
        self.check_lease()?;
        self.may(Journal::may_finish)?;
        let mut open = self.begin().await?;
        match body(open.tx()).await {
            Ok(value) => {
                self.last = Some(open);
                self.journal.finishing();
                Ok(value)
            }
            Err(error) => {
                self.roll_back(open).await?;
                Err(error)
            }
        }
    }

    /// Registers what undoes a step in the store's database, should the run be rejected.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn reserve<T>(_: &mut T, _: u32) -> Result<u32, Error> { Ok(1) }
    /// # async fn give_back<T>(_: &mut T, _: u32) -> Result<(), Error> { Ok(()) }
    /// async fn order<L: Lease>(steps: &mut Steps<L>, item: u32) -> Result<u32, Error> {
    ///     let reserved = steps.transaction("reserve", async |tx| reserve(tx, item).await).await?;
    ///     steps.undo("reserve", async move |tx| give_back(tx, reserved).await);
    ///     Ok(reserved)
    /// }
    /// ```
    ///
    /// # Rules
    /// - It is done only where the step is finished and the run is rejected ([`Disposition::Reject`], `rejects`); not
    ///   where it is released, since the retry goes on behind the step.
    /// - Its writes and the note that they are done are one commit.
    /// - Register it right behind its step, with no await between, so that every attempt has it that came past the step: a
    ///   name that no step behind it has is [`Kind::StepMismatch`]. Turn two for one step the later counts.
    /// - An error or a panic rolls its writes back and releases the run as [`Kind::UndoFailed`]: the retry does it again.
    ///   So does an attempt whose handler fails before it has registered all of them: let what stands before and between
    ///   the steps succeed on a retry, too.
    pub fn undo<E, F>(&mut self, step: &str, body: F)
    where
        E: Into<Failure> + 'static,
        F: AsyncFnOnce(&mut L::Tx) -> Result<(), E> + for<'t> UndoIn<'t, L::Tx, E> + Send + 'static,
    {
        self.register(step, Undo::transaction(body));
    }

    /// Registers the call that undoes a step, should the run be rejected: a refund for a charge.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn charge(_: &str) -> Result<String, Error> { Ok(String::new()) }
    /// # async fn refund(_: &str, _: &str) -> Result<(), Error> { Ok(()) }
    /// async fn order<L: Lease>(steps: &mut Steps<L>) -> Result<String, Error> {
    ///     let charged = steps.call("charge", async |key| charge(key.as_str()).await).await?;
    ///     let charge = charged.clone();
    ///     steps.undo_call("charge", async move |key| refund(&charge, key.as_str()).await);
    ///     Ok(charged)
    /// }
    /// ```
    ///
    /// # Rules
    /// - Those of [`undo`](Self::undo). The key is another than the step's, and the same on every attempt: between the
    ///   call and its note a crash can make it happen again.
    /// - It may wait for its retry for longer than the provider remembers keys. Let the provider refuse a second refund of
    ///   one charge by itself.
    /// - When the record has expired the same request runs anew under the same keys. A provider that still remembers them
    ///   answers with the charge that was refunded: look at what it says of that.
    pub fn undo_call<E, F, R>(&mut self, step: &str, body: F)
    where
        E: Into<Failure>,
        F: FnOnce(StepKey) -> R + Send + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.register(step, Undo::call(body));
    }

    fn register(&mut self, step: &str, undo: Undo<L::Tx>) {
        match self.journal.register(step) {
            Ok(Registered::Kept) => {
                let undos = self.undos();
                undos.retain(|(earlier, _)| earlier != step);
                undos.push((step.to_owned(), undo));
            }
            Ok(Registered::Dropped) => {}
            // There is nobody to tell it to yet.
            Err(refused) => {
                tracing::error!(target: "idem", "{refused}");
                resume::note_end(refused.kind());
            }
        }
    }

    fn undos(&mut self) -> &mut Vec<(String, Undo<L::Tx>)> {
        self.undos.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which attempt this is: 1 is the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.run.as_ref().map_or(1, |run| run.attempt)
    }

    /// Whether an earlier attempt has finished this step.
    #[must_use]
    pub fn is_replay(&self, name: &str) -> bool {
        self.journal.has_finished(name)
    }

    /// What the step is to do, or why it may not run.
    fn enter(&mut self, name: &str, kind: StepKind) -> Result<Next, Error> {
        self.check_lease()?;
        self.may(|journal| journal.enter(name, kind))
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str, reply: Reply) -> Result<T, Error> {
        // Without its result, the handler cannot say what undoes it.
        let value = self.noted(Value::of(reply).read())?;
        self.journal.pass(name);
        Ok(value)
    }

    /// Asks the journal, and notes a refusal.
    fn may<T>(&mut self, ask: impl FnOnce(&mut Journal) -> Result<T, Refused>) -> Result<T, Error> {
        let asked = ask(&mut self.journal).map_err(Error::from);
        self.noted(asked)
    }

    fn check_lease(&mut self) -> Result<(), Error> {
        if self.journal.stopped().is_none() && self.is_lost() {
            return self.noted(Err(Error::new(Kind::LeaseLost)));
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.renewal.is_lost())
    }

    /// A step with a transaction.
    async fn begin(&mut self) -> Result<Open<L>, Error> {
        let Some(of) = self.turn().await? else {
            return Ok(Open::new(Some(L::Tx::begin(&self.store).await?), None));
        };
        let begun = of.lease.begin().await;
        let tx = self.noted(begun)?;
        let excluded = self.run.as_ref().filter(|_| L::EXCLUSIVE).map(|run| run.renewal.exclude());
        Ok(Open::new(Some(tx), Some(Turn { _excluded: excluded, ..of })))
    }

    /// A step that writes nothing but its own record.
    async fn begin_alone(&mut self) -> Result<Open<L>, Error> {
        Ok(Open::new(None, self.turn().await?))
    }

    /// Waits until no other step is open: one that the handler has given up may still be on its way to its end.
    async fn turn(&mut self) -> Result<Option<Turn<L>>, Error> {
        let Some(run) = &self.run else { return Ok(None) };
        let (busy, lease) = (Arc::clone(&run.busy).lock_owned().await, run.lease.clone());
        if *busy {
            return self.noted(Err(Error::new(Kind::TransactionEnded)));
        }
        Ok(Some(Turn { lease, busy, _excluded: None }))
    }

    async fn roll_back(&mut self, open: Open<L>) -> Result<(), Error> {
        let undone = open.undo().await;
        self.noted(undone)
    }

    async fn record(&mut self, open: Open<L>, entry: Entry) -> Result<(), Error> {
        let asked = Instant::now();
        self.journal.in_doubt();
        let recorded = open.end(Disposition::Commit, |lease, tx| async move { lease.record(tx, &entry).await }).await;
        self.journal.known();
        if let (Ok(()), Some(run)) = (&recorded, &self.run) {
            run.renewal.renewed(asked);
        }
        self.noted(recorded)
    }

    /// Notes what lets nothing more be recorded.
    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && self.journal.stop(error.kind())
        {
            resume::note_end(error.kind());
        }
        result
    }

    fn finished<T: Serialize + DeserializeOwned>(&self, kind: StepKind, value: &T) -> Result<(Entry, T), Error> {
        let written = value::write(Format::VALUE, value, self.store.reply_limit())?;
        match written.outcome {
            Outcome::Reply(reply) => Ok((self.journal.finished(kind, reply), written.read_back)),
            Outcome::Oversized => Err(Error::new(Kind::ReplyFailed)
                .because("the result of a step is over the store's limit; the step was not kept")),
        }
    }
}

impl<L: Lease> fmt::Debug for Steps<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}
