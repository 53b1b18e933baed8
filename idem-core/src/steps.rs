//! The leased context: a run in recorded steps.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use tracing::Instrument;

use crate::error::{Error, Kind};
use crate::holder::{Held, Holder, Step, StepForm};
use crate::policy::Lease;
use crate::record::{Claim, Format, Outcome, Request};
use crate::renewal::{Excluded, Renewal};
use crate::store::{Begun, Context, Rejected, Store};
use crate::value::{self, Value};

/// The steps of a leased run: what a handler gets as `steps: &mut PgSteps` or `steps: &mut SqliteSteps`.
///
/// Between a foreign call and its record a crash can make the call happen again: [`call`](Self::call) gives it a key that
/// is the same on every attempt, for the other side to know it by.
///
/// # Rules
/// - The claim is committed before the handler runs, and renewed every third of the lease while it runs.
/// - A finished step does not run again, in whatever attempt: its result is read instead.
/// - A step is known by its name and its place. Where an attempt meets another step than an earlier one has finished
///   there, or one twice, that is [`Kind::StepMismatch`], before the step runs.
/// - Whoever has lost the lease changes nothing: each write asks for it, in its own transaction.
/// - A handler that fails is released: its finished steps stay, and the retry goes on behind them. They stay for the `ttl`
///   behind the end of the last lease.
/// - An attempt that ends without having come past all steps that an earlier one has finished is a
///   [`Kind::StepMismatch`], too, and is not kept.
///
/// # Cancel safety
/// Dropped at any await, a step is finished or not begun, but for a foreign call, which may have happened. The lease is
/// given back, or ends by itself. A handler that gives up a step (a timeout around it) while the step is being kept gets no
/// further one in this attempt: [`Kind::OutcomeUnknown`]. The next attempt knows.
///
/// # Limitations
/// - [`Disposition::Reject`](crate::Disposition::Reject) keeps the finished steps and what they have done: there is no
///   compensation yet.
/// - What a handler does between its steps is done again by each attempt.
/// - A request that is not recorded (a `GET`, a missing key that may be missing) runs its steps without a record: each as
///   a transaction of its own, each call under a key that nobody else gets.
pub struct Steps<H: Holder> {
    store: H::Store,
    /// `None` in a request that is not recorded.
    run: Option<Run<H>>,
    /// The last writes, which are committed with the outcome.
    last: Option<Open<H>>,
}

/// A transaction of a step, on its way to its end.
///
/// It ends in a task of its own, whoever goes away meanwhile: what a step has kept is to be known before the lease may be
/// somebody else's.
struct Open<H: Holder> {
    /// There until it is ended.
    tx: Option<H::Tx>,
    /// `None` in a request that is not recorded.
    of: Option<Of<H>>,
}

/// What a transaction is a step of.
struct Of<H> {
    holder: H,
    /// The lease is not given back while this is there.
    _busy: OwnedMutexGuard<()>,
    _excluded: Option<Excluded>,
}

struct Run<H> {
    holder: H,
    /// What the keys of foreign calls are made of.
    seed: [u8; 32],
    attempt: u32,
    recorded: Vec<Step>,
    names: HashSet<String>,
    next: u32,
    renewal: Renewal,
    /// Locked while a transaction of a step is open.
    busy: Arc<Mutex<()>>,
    /// Why no further step may run, if that is so.
    broken: Option<Kind>,
}

/// A key for a foreign call: the same on every attempt, and another for every other step, operation, scope and key.
///
/// 64 hexadecimal digits: the SHA-256 of the identity, of the fingerprint and of the step's name, each with its length. The
/// fingerprint stays the same over attempts; where the key is used for another request when the record has expired, the
/// other side must not take it for the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepKey(String);

impl StepKey {
    fn of(seed: &[u8], name: &str) -> Self {
        let digest = digest([b"idem step 1".as_slice(), seed, name.as_bytes()]);
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The key, to be sent along.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Of parts with their lengths.
fn digest<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// What a step is to do.
enum Entered {
    /// An earlier attempt has finished it.
    Finished(Value),
    /// It runs, at this place.
    Run(u32),
}

impl<H: Holder> Steps<H> {
    /// Runs a step that writes to the store's database: its writes and its record are one commit.
    ///
    /// ```
    /// # use idem_core::{Context, Error, Holder, Steps};
    /// # async fn write<T>(_: &mut T) -> Result<u32, Error> { Ok(1) }
    /// async fn reserve<H: Holder>(steps: &mut Steps<H>) -> Result<u32, Error> {
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
        body: impl AsyncFnOnce(&mut H::Tx) -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        let position = match self.enter(name, StepForm::TRANSACTION)? {
            Entered::Finished(value) => return Ok(value.read()?),
            Entered::Run(position) => position,
        };
        let mut open = self.begin().await?;
        match body(open.tx()).await {
            Ok(value) => {
                match self.finished(position, name, StepForm::TRANSACTION, &value) {
                    Ok(step) => self.keep(open, step).await?,
                    Err(error) => {
                        self.undo(open).await?;
                        return Err(error.into());
                    }
                }
                Ok(value)
            }
            Err(error) => {
                self.undo(open).await?;
                Err(error)
            }
        }
    }

    /// Runs a step that calls the outside world, with a key for the other side to know it by.
    ///
    /// ```
    /// # use idem_core::{Context, Error, Holder, Steps};
    /// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
    /// async fn charge<H: Holder>(steps: &mut Steps<H>) -> Result<String, Error> {
    ///     steps.call("charge", async |key| post(key.as_str()).await).await
    /// }
    /// ```
    ///
    /// The lease is renewed before the call, so that whoever has lost it does not call.
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction). The call may have happened all the same; the next attempt makes it
    /// again, under the same key.
    pub async fn call<T, E>(&mut self, name: &str, body: impl AsyncFnOnce(StepKey) -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        let position = match self.enter(name, StepForm::CALL)? {
            Entered::Finished(value) => return Ok(value.read()?),
            Entered::Run(position) => position,
        };
        let key = match &mut self.run {
            Some(run) => {
                let asked = Instant::now();
                let renewed = run.holder.renew().await;
                run.noted(renewed)?;
                run.renewal.renewed(asked);
                StepKey::of(&run.seed, name)
            }
            None => StepKey::of(Claim::random()?.as_bytes(), name),
        };
        let value = body(key).await?;
        let step = self.finished(position, name, StepForm::CALL, &value)?;
        self.keep_call(&step).await?;
        Ok(value)
    }

    /// The call has happened: its record is worth more than one try.
    async fn keep_call(&mut self, step: &Step) -> Result<(), Error> {
        const PAUSES: [u64; 6] = [0, 50, 100, 200, 400, 800];
        let mut kept = Ok(());
        for pause in PAUSES {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            kept = match self.begin().await {
                Ok(open) => self.keep(open, step.clone()).await,
                Err(error) => Err(error),
            };
            let may_help = |error: &Error| matches!(error.kind(), Kind::RetryLater | Kind::StoreUnavailable);
            if !kept.as_ref().is_err_and(may_help) || self.check().is_err() {
                break;
            }
        }
        kept
    }

    /// The last writes: they are committed with the reply. No step comes after it.
    ///
    /// It is not a step: its result is not recorded, since a retry gets the reply.
    ///
    /// # Errors
    /// As for [`transaction`](Self::transaction).
    pub async fn finish<T, E>(&mut self, body: impl AsyncFnOnce(&mut H::Tx) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error>,
    {
        self.check()?;
        self.check_all_passed()?;
        let mut open = self.begin().await?;
        match body(open.tx()).await {
            Ok(value) => {
                self.last = Some(open);
                Ok(value)
            }
            Err(error) => {
                self.undo(open).await?;
                Err(error)
            }
        }
    }

    /// Which attempt this is: 1 is the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.run.as_ref().map_or(1, |run| run.attempt)
    }

    /// Whether an earlier attempt has finished this step.
    #[must_use]
    pub fn is_replay(&self, name: &str) -> bool {
        self.run.as_ref().is_some_and(|run| run.recorded.iter().any(|step| step.name == name))
    }

    /// What the step at hand is to do, or why it may not run.
    fn enter(&mut self, name: &str, form: StepForm) -> Result<Entered, Error> {
        self.check()?;
        let Some(run) = &mut self.run else { return Ok(Entered::Run(0)) };
        let position = run.next;
        let wrong = match run.recorded.get(position as usize) {
            _ if name.is_empty() || name.len() > 255 || name.contains('\0') => {
                "a step's name has 1 to 255 bytes, and no NUL".to_owned()
            }
            _ if run.names.contains(name) => {
                format!("there are two steps `{name}`: give each step of a run a name of its own")
            }
            None => return Ok(Entered::Run(position)),
            Some(step) if step.name == name && step.form == form => {
                let value = Value::of(step.result.clone());
                run.passed(name);
                return Ok(Entered::Finished(value));
            }
            Some(step) => format!("step {position} is `{name}` now, and `{}` was finished there", step.name),
        };
        run.noted(Err(Error::new(Kind::StepMismatch).caused_by(wrong)))
    }

    fn check(&mut self) -> Result<(), Error> {
        let is_behind = self.last.is_some();
        match &mut self.run {
            _ if is_behind => Err(Error::new(Kind::StepMismatch).caused_by("there is a step behind `finish`")),
            Some(Run { broken: Some(kind), .. }) => Err(Error::new(*kind)),
            Some(run) if run.renewal.is_lost() => run.noted(Err(Error::new(Kind::LeaseLost))),
            _ => Ok(()),
        }
    }

    /// What an earlier attempt has done must not be forgotten: whoever has left out a step has changed.
    fn check_all_passed(&mut self) -> Result<(), Error> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let Some(step) = run.recorded.get(run.next as usize) else { return Ok(()) };
        let words = format!("an earlier attempt has finished the step `{}`, which this one has left out", step.name);
        run.noted(Err(Error::new(Kind::StepMismatch).caused_by(words)))
    }

    async fn begin(&mut self) -> Result<Open<H>, Error> {
        let Some(run) = &mut self.run else {
            return Ok(Open { tx: Some(H::Tx::begin_unrecorded(&self.store).await?), of: None });
        };
        // A step that the handler has given up may still be on its way to its end.
        let busy = Arc::clone(&run.busy).lock_owned().await;
        let begun = run.holder.begin().await;
        let tx = run.noted(begun)?;
        let excluded = H::EXCLUSIVE.then(|| run.renewal.exclude());
        Ok(Open { tx: Some(tx), of: Some(Of { holder: run.holder.clone(), _busy: busy, _excluded: excluded }) })
    }

    async fn undo(&mut self, open: Open<H>) -> Result<(), Error> {
        let undone = open.undo().await;
        match &mut self.run {
            Some(run) => run.noted(undone),
            None => undone,
        }
    }

    async fn keep(&mut self, open: Open<H>, step: Step) -> Result<(), Error> {
        let (asked, name) = (Instant::now(), step.name.clone());
        // Whoever gives up the wait does not know.
        self.is_in_doubt(true);
        let kept = open.end(true, |holder, tx| async move { holder.keep(tx, &step).await }).await;
        self.is_in_doubt(false);
        let Some(run) = &mut self.run else { return kept };
        if kept.is_ok() {
            run.renewal.renewed(asked);
            run.passed(&name);
        }
        run.noted(kept)
    }

    fn is_in_doubt(&mut self, is_in_doubt: bool) {
        if let Some(run) = &mut self.run {
            run.broken = is_in_doubt.then_some(Kind::OutcomeUnknown);
        }
    }

    fn finished<T: Serialize + DeserializeOwned>(
        &self,
        position: u32,
        name: &str,
        form: StepForm,
        value: &T,
    ) -> Result<Step, Error> {
        match value::outcome(Format::VALUE, value, self.store.reply_limit())? {
            Outcome::Reply(result) => Ok(Step { position, name: name.to_owned(), form, result }),
            Outcome::Oversized => Err(Error::new(Kind::ReplyFailed)
                .because("the result of a step is over the store's limit; the step was not kept")),
        }
    }

    /// Commits the last writes with the outcome.
    async fn settle(&mut self, outcome: &Outcome) -> Result<(), Error> {
        let settled = match self.last.take() {
            Some(open) => Ok(open),
            None => match self.check().and_then(|()| self.check_all_passed()) {
                Ok(()) => self.begin().await,
                Err(error) => Err(error),
            },
        };
        let open = match settled {
            Ok(open) => open,
            Err(error) => {
                self.let_go().await;
                return Err(error);
            }
        };
        let outcome = outcome.clone();
        self.is_in_doubt(true);
        let finished = open.end(true, |holder, tx| async move { holder.finish(tx, &outcome).await }).await;
        self.is_in_doubt(false);
        let Some(run) = &mut self.run else { return finished };
        let finished = run.noted(finished);
        match &finished {
            Ok(()) => self.run = None,
            Err(_) => self.let_go().await,
        }
        finished
    }

    /// Gives the lease back, unless it is somebody else's by now, or nobody may have it.
    async fn let_go(&mut self) {
        if let Some(open) = self.last.take()
            && let Err(error) = self.undo(open).await
        {
            tracing::warn!(target: "idem", %error, "the last writes were not undone in order");
        }
        if let Some(run) = self.run.take() {
            run.release().await;
        }
    }
}

impl<H: Holder> Open<H> {
    fn tx(&mut self) -> &mut H::Tx {
        self.tx.as_mut().expect("a transaction until it is ended")
    }

    async fn undo(self) -> Result<(), Error> {
        self.end(false, |holder, tx| async move { holder.undo(tx).await }).await
    }

    /// Ends it like this, or where nothing is recorded, by keeping it or not.
    async fn end<F>(mut self, keep: bool, how: impl FnOnce(H, H::Tx) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let tx = self.tx.take().expect("a transaction until it is ended");
        let Some(of) = self.of.take() else { return tx.finish_unrecorded(keep).await };
        let end = how(of.holder.clone(), tx);
        let task = async move {
            let ended = end.await;
            drop(of);
            ended
        };
        let ended = tokio::spawn(task.in_current_span()).await;
        ended.unwrap_or_else(|error| Err(Error::new(Kind::OutcomeUnknown).caused_by(error)))
    }
}

impl<H: Holder> Drop for Open<H> {
    fn drop(&mut self) {
        // Without a runtime the transaction is rolled back with its connection.
        if let (Some(tx), Some(of), Ok(runtime)) = (self.tx.take(), self.of.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = of.holder.undo(tx).await {
                    tracing::error!(target: "idem", code = error.code(), "a dropped step: {error}");
                }
                drop(of);
            });
        }
    }
}

impl<H: Holder> Run<H> {
    async fn release(self) {
        let Self { holder, renewal, busy, broken, .. } = self;
        drop(renewal);
        // What a step has kept is known by then, and whether it has barred the key.
        let _idle = busy.lock().await;
        if matches!(broken, Some(Kind::LeaseLost | Kind::TransactionEnded)) {
            return;
        }
        match holder.release().await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::LeaseLost => {}
            Err(error) => tracing::warn!(target: "idem", %error, "the lease was not released; it ends by itself"),
        }
    }

    /// The step is finished, now or earlier.
    fn passed(&mut self, name: &str) {
        self.names.insert(name.to_owned());
        self.next += 1;
    }

    /// Notes what lets no further step run.
    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && matches!(
                error.kind(),
                Kind::LeaseLost | Kind::OutcomeUnknown | Kind::TransactionEnded | Kind::StepMismatch
            )
        {
            self.broken = Some(error.kind());
        }
        result
    }
}

impl<H: Holder> Context for Steps<H> {
    type Store = H::Store;

    async fn begin(store: &H::Store, request: &Request, lease: &Lease) -> Result<Begun<Self>, Error> {
        let asked = Instant::now();
        let (holder, attempt, recorded) = match H::claim(store, request, lease).await? {
            Held::Run { holder, attempt, steps } => (holder, attempt, steps),
            Held::Replay(reply) => return Ok(Begun::Replay(reply)),
            Held::Refuse(kind) => return Ok(Begun::Refuse(kind)),
        };
        let run = Run {
            renewal: Renewal::start(holder.clone(), lease.duration, asked),
            holder,
            seed: digest([&request.identity.digest(), request.fingerprint.as_bytes()]),
            attempt,
            recorded,
            names: HashSet::new(),
            next: 0,
            busy: Arc::default(),
            broken: None,
        };
        Ok(Begun::Run(Self { store: store.clone(), run: Some(run), last: None }))
    }

    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let lost = self.run.as_ref().map(|run| run.renewal.lost());
        async move {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        }
    }

    async fn complete(mut self, outcome: &Outcome) -> Result<(), Error> {
        self.settle(outcome).await
    }

    async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        if let Some(open) = self.last.take() {
            // What cannot be undone in order is noted, and then nothing is stored.
            _ = self.undo(open).await;
        }
        self.settle(outcome).await.map(|()| Rejected::Stored)
    }

    async fn release(mut self) -> Result<(), Error> {
        self.let_go().await;
        Ok(())
    }

    async fn begin_unrecorded(store: &H::Store) -> Result<Self, Error> {
        Ok(Self { store: store.clone(), run: None, last: None })
    }

    async fn finish_unrecorded(mut self, keep: bool) -> Result<(), Error> {
        match self.last.take() {
            Some(open) => open.end(keep, |holder, tx| async move { holder.undo(tx).await }).await,
            None => Ok(()),
        }
    }
}

impl<H: Holder> Drop for Steps<H> {
    fn drop(&mut self) {
        // Undoes itself, and the release waits for that.
        self.last = None;
        // Without a runtime the lease ends by itself.
        if let (Some(run), Ok(runtime)) = (self.run.take(), Handle::try_current()) {
            runtime.spawn(run.release());
        }
    }
}

impl<H: Holder> fmt::Debug for Steps<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r27_a_key_is_its_step_and_its_identity() {
        let key = StepKey::of(&[1; 32], "charge");
        assert_eq!(key, StepKey::of(&[1; 32], "charge"));
        assert_ne!(key, StepKey::of(&[1; 32], "charge2"));
        assert_ne!(key, StepKey::of(&[2; 32], "charge"));
        assert_eq!(key.as_str().len(), 64);
        assert!(key.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
        // What a provider has stored under it must be found by every later release.
        assert_eq!(key.as_str(), "26bbf2986eb109ba534cdf0fa6173cb972cdb5ffd4ee458ff299f2b9746c32ea");
    }
}
