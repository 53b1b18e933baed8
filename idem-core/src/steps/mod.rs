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
use tokio::time::{Instant, timeout};

pub use key::StepKey;

use crate::bounds::{UndoIn, Writable};
use crate::disposition::Disposition;
use crate::entry::Entry;
use crate::error::{Error, Kind};
use crate::machine::{Journal, Next, Refused, Registered, StepKind};
use crate::observer::{StepResult, StepWatch, Teller};
use crate::record::{Claim, Format, Outcome, Reply};
use crate::renewal::Renewal;
use crate::resume;
use crate::store::{Lease, RELEASE_PATIENCE, Store, Transaction};
use crate::value::{self, Value};
use key::digest;
use open::{Open, Turn};
use undo::{Failure, Undo};

/// The steps of a leased run. A handler gets them as `steps: &mut PgSteps` or `steps: &mut SqliteSteps`.
///
/// A crash between a foreign call and its record can make the call happen again. [`call`](Self::call) gives the call a
/// key that is the same on every attempt, so that the other side can recognise the repetition.
///
/// # Rules
/// - The claim is committed before the handler runs, and renewed every third of the lease while it runs.
/// - A finished step never runs again, in any attempt: its result is read from its record.
/// - A step returns its result as a retry reads it: a field that is not serialised is missing on the first attempt,
///   too. A type whose values cannot be read back is refused before the step runs ([`Kind::ReplyFailed`]).
/// - A step is known by its name and its place. If an earlier attempt finished another step in this place, or this
///   attempt has already passed a step of this name, that is [`Kind::StepMismatch`], before the step runs.
/// - A process that has lost the lease changes nothing: each write asks for the lease in its own transaction.
/// - A handler that fails is released: its finished steps stay, and the retry resumes after them. They stay for the
///   `ttl`, counted from the end of the last lease. The first retry runs at once, later ones are spaced
///   ([`Kind::AttemptTooSoon`]).
/// - When a handler rejects the run ([`Disposition::Reject`]), its finished steps are undone by the undos that were
///   registered with [`undo`](Self::undo) and [`undo_call`](Self::undo_call), the last step first. Each undo runs once
///   and is recorded. If the undoing is cut short, the retry runs the handler again. The handler passes its finished
///   steps and cannot enter any other ([`Kind::RunRejected`]). Then the undoing resumes, and the caller gets the reply
///   of the first rejection. Until everything is undone the record does not expire, and attempts are spaced but do not
///   count.
/// - After a step that failed, or that the handler gave up, only the same step may be entered: the next attempt might
///   pass that step and take another way. If the handler can live with a failure, the step returns it as its value:
///   `Ok(None)`, `Ok(Declined)`.
/// - An attempt must pass every step that an earlier attempt finished, and make the call that an earlier attempt
///   started. Otherwise its completion is a [`Kind::StepMismatch`], too, and is not committed.
/// - An attempt that gave up a call, or could not record the answer of a call, is not completed: it is
///   [`Kind::OutcomeUnknown`], since the call may have happened. The retry makes the call again, under the same key.
///
/// # Cancel safety
/// Dropped at any await, a step is finished or not begun, except for a foreign call, which may have happened. The lease
/// is released, or ends by itself. After a handler has given up a step (a timeout around it), it can enter only that
/// step again in this attempt. If the step's record was being written, it can enter none: [`Kind::OutcomeUnknown`]. The
/// next attempt reads what was recorded.
///
/// # Limitations
/// - A finished step without an undo stays as it is when the run is rejected. So does a call whose body failed: reject
///   only on an answer that says that nothing was done.
/// - A rejection is [`Kind::OutcomeUnknown`] if a call was given up, or its answer could not be recorded, or an earlier
///   attempt started the call and it is not finished. It stays so until this attempt has made the call, under the same
///   key, and has its answer. So do not reject between a step and the call after it.
/// - A rejection that cannot be undone waits for its retry for ever. An undo that can never succeed should return `Ok`
///   and leave the rest to an operator. Over HTTP only the client retries.
///   `SELECT * FROM idem_records WHERE state = 5 AND lease_until < now()` (on SQLite `unixepoch('subsec') * 1000000`)
///   finds the waiting rejections. Setting `expires_at` makes the store forget one of them.
/// - The lease of a step that was given up is renewed until the database has ended the step, for a minute at most.
/// - Each attempt runs the handler's code between its steps again.
/// - A step that ends its transaction and begins another is not detected if the second one fails or its connection is
///   lost: the next attempt runs the step again.
/// - A request that is not recorded (a `GET`, or an allowed missing key) runs its steps without records: each
///   transaction step in a transaction of its own, each call under a key that no other run gets.
#[doc(alias = "saga")]
#[doc(alias = "workflow")]
pub struct Steps<L: Lease> {
    store: L::Store,
    /// `None` in a request that is not recorded.
    run: Option<Run<L>>,
    /// The last writes. They are committed together with the outcome.
    last: Option<Open<L>>,
    /// The steps of this attempt, and which step may come next.
    journal: Journal,
    /// The undos of the passed steps, by step name. The mutex is here only so that `&Steps` may go to another thread.
    undos: std::sync::Mutex<Vec<(String, Undo<L::Tx>)>>,
    /// How long the undos may take.
    deadline: Duration,
}

struct Run<L> {
    lease: L,
    /// The keys of foreign calls are derived from this seed.
    seed: [u8; 32],
    attempt: u32,
    renewal: Renewal,
    teller: Teller,
    /// Locked while a step is open. The value tells whether a step has ended its transaction itself.
    busy: Arc<Mutex<bool>>,
}

impl<L: Lease> Steps<L> {
    fn of(store: &L::Store, run: Option<Run<L>>, journal: Journal) -> Self {
        let (undos, deadline) = (std::sync::Mutex::default(), store.deadline());
        Self { store: store.clone(), run, last: None, journal, undos, deadline }
    }

    /// Runs a step that writes to the store's database. Its writes and its record are one commit.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::{Context, Lease}};
    /// # async fn write<T>(_: &mut T) -> Result<u32, Error> { Ok(1) }
    /// async fn reserve<L: Lease<Tx: Context>>(steps: &mut Steps<L>) -> Result<u32, Error> {
    ///     steps.transaction("reserve", async |tx| write(tx).await).await
    /// }
    /// ```
    ///
    /// # Errors
    /// The step's own error, which rolls its writes back. By [`Kind`]: [`Kind::LeaseLost`], [`Kind::StepMismatch`],
    /// [`Kind::ReplyFailed`] if the result cannot be stored, [`Kind::RecordUnreadable`] if a stored result cannot be
    /// read, and the errors of the store. In each case the step is not finished, except for [`Kind::OutcomeUnknown`],
    /// which the next attempt resolves, and [`Kind::TransactionEnded`].
    pub async fn transaction<T, E>(
        &mut self,
        name: &str,
        body: impl AsyncFnOnce(&mut L::Tx) -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
        L::Tx: Writable,
    {
        value::check::<T>()?;
        let watch = self.watch(name, false);
        if let Next::Finished(reply) = self.enter(name, StepKind::Transaction)? {
            return Ok(ended(watch, StepResult::Replayed, self.read(name, reply)?));
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
                Ok(ended(watch, StepResult::Finished, read_back))
            }
            Err(error) => {
                self.roll_back(open).await?;
                Err(error)
            }
        }
    }

    /// Runs a step that calls the outside world, with a key by which the other side can recognise a repeated call.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
    /// async fn charge<L: Lease>(steps: &mut Steps<L>) -> Result<String, Error> {
    ///     steps.call("charge", async |key| post(key.as_str()).await).await
    /// }
    /// ```
    ///
    /// The call is recorded before it is made. So a process that has lost the lease does not call, and no later attempt
    /// is completed or rejected without having made the call again.
    ///
    /// A call that is not finished is made again however late the next attempt comes, until the `ttl`, counted from the
    /// end of the last lease, is over. The other side has to remember the key for as long (Stripe: 24 hours at least).
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction). On an error, too, the call may have happened; the next attempt makes
    /// it again, under the same key.
    pub async fn call<T, E>(&mut self, name: &str, body: impl AsyncFnOnce(StepKey) -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        // Checked before the call: after it, the answer would be lost.
        value::check::<T>()?;
        let watch = self.watch(name, false);
        if let Next::Finished(reply) = self.enter(name, StepKind::Call)? {
            return Ok(ended(watch, StepResult::Replayed, self.read(name, reply)?));
        }
        let seed = match &self.run {
            Some(run) => run.seed,
            // A random seed: no other run gets the keys of a request that is not recorded.
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
        Ok(ended(watch, StepResult::Finished, read_back))
    }

    /// Watches a step of a recorded run.
    fn watch<'s>(&self, step: &'s str, is_undo: bool) -> Option<StepWatch<'s>> {
        self.run.as_ref().map(|run| run.teller.step(step, is_undo))
    }

    /// Records an entry that has no transaction of a step, in several tries: what it says may have happened already.
    async fn record_in_tries(&mut self, entry: &Entry) -> Result<(), Error> {
        const PAUSES: [u64; 6] = [0, 50, 100, 200, 400, 800];
        let (mut recorded, mut is_in_doubt) = (Ok(()), false);
        for pause in PAUSES {
            // Even a sleep of zero takes a millisecond.
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

    /// Makes the last writes, which are committed with the reply. No step may come after them.
    ///
    /// The last writes are not a step. Their result is not recorded, since a retry gets the reply.
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction).
    pub async fn finish<T, E>(&mut self, body: impl AsyncFnOnce(&mut L::Tx) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error>,
        L::Tx: Writable,
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

    /// Registers the undo of a step: a transaction in the store's database that runs if the run is rejected.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::{Context, Lease}};
    /// # async fn reserve<T>(_: &mut T, _: u32) -> Result<u32, Error> { Ok(1) }
    /// # async fn give_back<T>(_: &mut T, _: u32) -> Result<(), Error> { Ok(()) }
    /// async fn order<L: Lease<Tx: Context>>(steps: &mut Steps<L>, item: u32) -> Result<u32, Error> {
    ///     let reserved = steps.transaction("reserve", async |tx| reserve(tx, item).await).await?;
    ///     steps.undo("reserve", async move |tx| give_back(tx, reserved).await);
    ///     Ok(reserved)
    /// }
    /// ```
    ///
    /// # Rules
    /// - The undo runs only if the step is finished and the run is rejected ([`Disposition::Reject`], `rejects`). It
    ///   does not run if the run is released, since the retry resumes after the step.
    /// - Its writes and the record that it is done are one commit.
    /// - Register the undo right after its step, with no await between, so that every attempt that passed the step has
    ///   its undo. A name that no step before the undo has is [`Kind::StepMismatch`]. Of two undos for one step the
    ///   later one counts.
    /// - An error or a panic rolls the undo's writes back and releases the run as [`Kind::UndoFailed`]: the retry runs
    ///   the undo again. An attempt whose handler fails before it has registered all undos ends in the same way. So the
    ///   code before and between the steps should succeed on a retry, too.
    #[doc(alias = "compensate")]
    pub fn undo<E, F>(&mut self, step: &str, body: F)
    where
        E: Into<Failure> + 'static,
        F: AsyncFnOnce(&mut L::Tx) -> Result<(), E> + for<'t> UndoIn<'t, L::Tx, E> + Send + 'static,
        L::Tx: Writable,
    {
        self.register(step, Undo::transaction(body));
    }

    /// Registers a call that undoes a step if the run is rejected: a refund for a charge.
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
    /// - The rules of [`undo`](Self::undo) apply. The key differs from the step's key and is the same on every attempt:
    ///   a crash between the call and its record can make the call happen again.
    /// - The undo may wait for its retry for longer than the provider remembers keys. The provider itself should refuse
    ///   a second refund of one charge.
    /// - After the record has expired, the same request runs anew under the same keys. A provider that still remembers
    ///   them answers with the charge that was refunded: check the state of the charge in its answer.
    #[doc(alias = "compensate")]
    #[doc(alias = "refund")]
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
            // The refusal is logged, since this method returns nothing. It stops the journal, so the run cannot be
            // completed.
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

    /// The fence number of this attempt: each later attempt of the identity has a greater one. `None` in a request that
    /// is not recorded, and on a store that gives none.
    ///
    /// ```
    /// # use idem_core::{Error, Steps, store::Lease};
    /// # async fn put(_: &str, _: Option<u64>) -> Result<(), Error> { Ok(()) }
    /// async fn provision<L: Lease>(steps: &mut Steps<L>) -> Result<(), Error> {
    ///     let fence = steps.fence();
    ///     steps.call("create", async |key| put(key.as_str(), fence).await).await
    /// }
    /// ```
    ///
    /// A callee that keeps the greatest number it has seen of a resource, and refuses a smaller one, is not changed by a
    /// process that has lost its lease without knowing it.
    #[must_use]
    pub fn fence(&self) -> Option<u64> {
        self.run.as_ref().and_then(|run| run.lease.fence())
    }

    /// Whether an earlier attempt has finished this step.
    #[must_use]
    pub fn is_replay(&self, name: &str) -> bool {
        self.journal.has_finished(name)
    }

    /// Decides whether the step runs or its recorded result is read.
    fn enter(&mut self, name: &str, kind: StepKind) -> Result<Next, Error> {
        self.check_lease()?;
        self.may(|journal| journal.enter(name, kind))
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str, reply: Reply) -> Result<T, Error> {
        // Without the result of the step, the handler cannot register its undo.
        let value = self.noted(Value::of(reply).read())?;
        self.journal.pass(name);
        Ok(value)
    }

    /// Asks the journal, and notes a refusal.
    fn may<T>(&mut self, ask: impl FnOnce(&mut Journal) -> Result<T, Refused>) -> Result<T, Error> {
        ask(&mut self.journal).map_err(|refused| {
            if self.journal.stopped().is_some() {
                resume::note_end(refused.kind());
            }
            refused.into()
        })
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

    /// Opens a step with a transaction.
    async fn begin(&mut self) -> Result<Open<L>, Error> {
        let Some(of) = self.turn().await? else {
            return Ok(Open::new(Some(L::Tx::begin(&self.store).await?), None));
        };
        let begun = of.lease.begin().await;
        let tx = self.noted(begun)?;
        let open = self.run.as_ref().map(|run| run.renewal.open_step());
        Ok(Open::new(Some(tx), Some(Turn { _open: open, ..of })))
    }

    /// Opens a step that writes only its own record.
    async fn begin_alone(&mut self) -> Result<Open<L>, Error> {
        Ok(Open::new(None, self.turn().await?))
    }

    /// Waits until no other step is open: a step that the handler gave up may still be ending.
    async fn turn(&mut self) -> Result<Option<Turn<L>>, Error> {
        let Some(run) = &self.run else { return Ok(None) };
        let (busy, lease) = (Arc::clone(&run.busy).lock_owned().await, run.lease.clone());
        if *busy {
            return self.noted(Err(Error::new(Kind::TransactionEnded)));
        }
        Ok(Some(Turn { lease, busy, _open: None }))
    }

    /// Rolls a step back, and waits for that for a short while: a statement that the handler gave up may keep the
    /// connection busy (rule 12b). The rollback goes on in its own task. The next step waits for it, and so does the
    /// release.
    async fn roll_back(&mut self, open: Open<L>) -> Result<(), Error> {
        match timeout(RELEASE_PATIENCE, open.undo()).await {
            Ok(undone) => self.noted(undone),
            Err(_elapsed) => Ok(()),
        }
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

    /// Notes an error after which nothing more may be recorded.
    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let (Err(error), Some(run)) = (&result, &self.run)
            && error.kind() == Kind::LeaseLost
        {
            run.renewal.tell_lost();
        }
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

/// Tells that a watched step has ended, and returns its value.
fn ended<T>(watch: Option<StepWatch<'_>>, result: StepResult, value: T) -> T {
    if let Some(watch) = watch {
        watch.ended(result);
    }
    value
}

impl<L: Lease> fmt::Debug for Steps<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}
