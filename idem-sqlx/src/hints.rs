//! The hints in front of a database: when they are asked, and what they are told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use idem_core::hint::{Answer, Confirmed, Content, Entry, Hint, Hinted, Known, Moment, Turns, judge};
use idem_core::observer::Source;
use idem_core::store::{Outcome, Record, Reply, State, Timestamp};
use idem_core::{Fingerprint, Request};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::database::Database;
use crate::running::Digest;

/// How long a hint outside of the process is waited for. Then the database is asked, which takes about as long.
const PATIENCE: Duration = Duration::from_millis(5);

/// How long a request waits for the look-up of another one. Then it looks itself, as it would without hints.
const TURN: Duration = Duration::from_millis(500);

/// The hints of a store, and what its database has confirmed.
#[derive(Clone, Default)]
pub struct Hints(Option<Arc<Inner>>);

struct Inner {
    hints: Vec<Arc<dyn Hint>>,
    turns: Turns,
    confirmed: Mutex<Option<Confirmed>>,
    is_asking: AtomicBool,
    /// Whether the last question had no answer.
    is_silent: AtomicBool,
    /// Whether a task marks the runs of this process.
    is_marking: AtomicBool,
}

/// What the database had confirmed before a statement. An entry of what that statement has shown belongs to this epoch:
/// if the epoch has changed by then, the entry is never used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Before(Option<Confirmed>);

impl Hints {
    pub(crate) fn new(hints: Vec<Arc<dyn Hint>>) -> Self {
        let inner = Inner {
            hints,
            turns: Turns::default(),
            confirmed: Mutex::new(None),
            is_asking: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            is_marking: AtomicBool::new(false),
        };
        Self((!inner.hints.is_empty()).then(|| Arc::new(inner)))
    }

    pub(crate) fn are_there(&self) -> bool {
        self.0.is_some()
    }

    /// To be asked before the statement whose answer is then kept.
    pub(crate) fn before(&self) -> Before {
        Before(self.0.as_ref().and_then(|inner| *inner.confirmed()))
    }

    /// Keeps the reply of a run that was claimed after the given time, and whose commit is known. It lives for its
    /// `ttl` from then on at least.
    pub(crate) fn keep_outcome(&self, before: Before, request: &Request, outcome: &Outcome, claimed_after: Instant) {
        let (Some(inner), Some(confirmed), Outcome::Reply(reply)) = (&self.0, before.0, outcome) else { return };
        // From an old answer the time cannot be told: two clocks drift apart.
        if !confirmed.is_usable_for_times(Moment::now()) {
            return;
        }
        // A clock that was set between two answers shows in one of them.
        let latest = *inner.confirmed();
        let claimed = [Some(confirmed), latest].into_iter().flatten().map(|known| known.earliest(claimed_after)).min();
        let ttl = i64::try_from(request.ttl.as_micros()).unwrap_or(i64::MAX);
        let expires_at = Timestamp(claimed.map_or(0, |claimed| claimed.0.saturating_add(ttl)));
        let completed_at = Some(confirmed.earliest(Instant::now()));
        inner.keep(confirmed, request, reply.clone(), completed_at, expires_at);
    }

    /// Keeps the reply of a record that the database has shown, if it answers this request.
    pub(crate) fn keep_record(&self, before: Before, request: &Request, record: Option<&Record>) {
        let (Some(inner), Some(confirmed), Some(record)) = (&self.0, before.0, record) else { return };
        if let State::Completed(reply) = &record.state
            && record.fingerprint == Some(request.fingerprint)
        {
            inner.keep(confirmed, request, reply.clone(), record.completed_at, record.expires_at);
        }
    }
}

impl Inner {
    fn confirmed(&self) -> MutexGuard<'_, Option<Confirmed>> {
        // No code panics under the lock.
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(
        &self,
        confirmed: Confirmed,
        request: &Request,
        reply: Reply,
        completed_at: Option<Timestamp>,
        expires_at: Timestamp,
    ) {
        let entry = Entry { content: Content::Reply { reply, completed_at }, epoch: confirmed.epoch(), expires_at };
        let left = expires_at.0.saturating_sub(confirmed.earliest(Instant::now()).0);
        let lifetime = Duration::from_micros(u64::try_from(left).unwrap_or(0));
        let digest = request.identity.digest();
        for hint in &self.hints {
            let name = hint.secret().name(&digest);
            let value = entry.write(hint.secret(), &name, &request.fingerprint);
            if hint.source() == Source::Memory {
                _ = hint.put(&name, value, lifetime).now_or_never();
            } else if let Ok(runtime) = Handle::try_current() {
                let hint = hint.clone();
                // The reply does not wait for it.
                runtime.spawn(async move { hint.put(&name, value, lifetime).await });
            }
        }
    }

    /// What is known of the database now. A process that uses its hints asks the database once a second.
    fn known<D: Database>(self: &Arc<Self>, store: &D) -> Option<Known> {
        let (now, confirmed) = (Moment::now(), *self.confirmed());
        if confirmed.is_none_or(|confirmed| confirmed.is_old(now)) {
            self.ask_database(store);
        }
        confirmed.and_then(|confirmed| confirmed.known(now))
    }

    /// Asks the database in a task, if no task asks it.
    fn ask_database<D: Database>(self: &Arc<Self>, store: &D) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (asking, store) = (Asking(self.clone()), store.clone());
        runtime.spawn(async move {
            let Asking(inner) = &asking;
            match timeout(Confirmed::LIFE, store.confirm()).await {
                Ok(Ok(confirmed)) => {
                    *inner.confirmed() = Some(confirmed);
                    inner.is_silent.store(false, Ordering::Relaxed);
                }
                failed => {
                    if !inner.is_silent.swap(true, Ordering::Relaxed) {
                        let error = failed.ok().and_then(Result::err);
                        tracing::warn!(target: "idem", ?error, "the epoch is not confirmed; no hint answers");
                    }
                    // A database that is away is not asked more often for it.
                    sleep(Confirmed::AGE).await;
                }
            }
        });
    }

    /// What the hints say, without a wait for another request.
    async fn look<D: Database>(
        self: &Arc<Self>,
        store: &D,
        request: &Request,
        digest: &Digest,
    ) -> Option<(Answer, Source)> {
        self.known(store)?;
        let is_retry = request.is_retry || store.is_recent(digest);
        for hint in &self.hints {
            let name = hint.secret().name(digest);
            let value = match hint.source() {
                Source::Memory => hint.get(&name).await,
                _ if is_retry => timeout(PATIENCE, hint.get(&name)).await.ok().flatten(),
                _ => None,
            };
            let entry = value.and_then(|value| Entry::read(value, hint.secret(), &name, &request.fingerprint));
            if let Some(answer) = entry.and_then(|entry| judge(entry, self.known(store))) {
                return opened(store, request, answer).map(|answer| (answer, hint.source()));
            }
        }
        None
    }
}

/// A run that takes longer is marked for other processes. Most runs are shorter, and cost nothing.
const MARKED_AFTER: Duration = Duration::from_millis(100);

/// For how long a mark counts, and after what time it is written again.
const MARK: Duration = Duration::from_secs(2);
const MARKED_AGAIN: Duration = Duration::from_secs(1);

/// Marks the runs of this process in the hints outside of it, as long as there are any. A run has begun.
pub(crate) fn mark_runs<D: Database>(store: &D) {
    let Some(inner) = &store.hints().0 else { return };
    let Ok(runtime) = Handle::try_current() else { return };
    if inner.hints.iter().all(|hint| hint.source() == Source::Memory) || inner.is_marking.swap(true, Ordering::AcqRel) {
        return;
    }
    let (marking, store) = (Marking(inner.clone()), store.clone());
    runtime.spawn(async move {
        let Marking(inner) = &marking;
        let mut marked: HashMap<Digest, Instant> = HashMap::new();
        loop {
            sleep(MARKED_AFTER).await;
            let running = store.running().all();
            for (digest, fingerprint, began) in &running {
                let is_due = marked.get(digest).is_none_or(|at| at.elapsed() >= MARKED_AGAIN);
                // The marks before this one may have taken a while.
                let runs = || store.running().runs(digest);
                if is_due && began.elapsed() >= MARKED_AFTER && runs() && inner.mark(&store, digest, fingerprint).await
                {
                    marked.insert(*digest, Instant::now());
                    if !runs() {
                        // The mark may have replaced the reply, which the database still has.
                        marked.remove(digest);
                        inner.unmark(digest).await;
                    }
                }
            }
            let ended: Vec<_> = marked.keys().filter(|digest| !store.running().runs(digest)).copied().collect();
            for digest in ended {
                marked.remove(&digest);
                // The reply of a run that has finished is in its place.
                if !store.is_recent(&digest) {
                    inner.unmark(&digest).await;
                }
            }
            if running.is_empty() {
                return;
            }
        }
    });
}

impl Inner {
    /// Says that the request is running. Returns false if the database is not known well enough to say until when.
    async fn mark<D: Database>(self: &Arc<Self>, store: &D, digest: &Digest, fingerprint: &Fingerprint) -> bool {
        let Some(known) = self.known(store) else { return false };
        let entry = Entry { content: Content::Running, epoch: known.epoch, expires_at: known.in_time(MARK) };
        for hint in self.outside() {
            let name = hint.secret().name(digest);
            let value = entry.write(hint.secret(), &name, fingerprint);
            _ = timeout(MARKED_AFTER, hint.put(&name, value, MARK)).await;
        }
        true
    }

    async fn unmark(&self, digest: &Digest) {
        for hint in self.outside() {
            _ = timeout(MARKED_AFTER, hint.remove(&hint.secret().name(digest))).await;
        }
    }

    fn outside(&self) -> impl Iterator<Item = &Arc<dyn Hint>> {
        self.hints.iter().filter(|hint| hint.source() != Source::Memory)
    }
}

/// One task at a time marks runs, until this is dropped.
struct Marking(Arc<Inner>);

impl Drop for Marking {
    fn drop(&mut self) {
        self.0.is_marking.store(false, Ordering::Release);
    }
}

/// The answer with its reply opened. If it cannot be opened, the database decides.
fn opened<D: Database>(store: &D, request: &Request, answer: Answer) -> Option<Answer> {
    match answer {
        Answer::Replay(reply, age) => {
            store.sealer().reply(&request.identity, reply).ok().map(|reply| Answer::Replay(reply, age))
        }
        Answer::InFlight => Some(Answer::InFlight),
    }
}

/// What the hints of a store say to a request. While another request of this process looks its identity up, it waits
/// without a connection: what the other one finds answers it, too.
pub(crate) async fn hinted<D: Database>(store: &D, request: &Request) -> Hinted {
    let Some(inner) = &store.hints().0 else { return Hinted::Ask(None) };
    let request = &*store.sealer().named(request);
    let digest = request.identity.digest();
    let mut is_next = false;
    let mut turn = None;
    loop {
        if let Some((answer, source)) = inner.look(store, request, &digest).await {
            return Hinted::Answer(answer, source);
        }
        // The table of runs answers it, without a connection.
        if is_next || store.running().runs(&digest) {
            return Hinted::Ask(turn);
        }
        turn = inner.turns.next(digest).now_or_never();
        if turn.is_some() {
            return Hinted::Ask(turn);
        }
        turn = timeout(TURN, inner.turns.next(digest)).await.ok();
        is_next = true;
    }
}

/// One task at a time asks the database, until this is dropped.
struct Asking(Arc<Inner>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Release);
    }
}
