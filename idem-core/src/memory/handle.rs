//! The handle of the store in memory.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::rows::Rows;
use crate::error::Error;
use crate::identity::{Identity, Scope};
use crate::machine::{Explanation, Retry};
use crate::observer::{Backlog, Observer, Source};
use crate::operate::{Answer, Change, Counts, Forgotten, Inspect, Operate, Page, Query, Reason};
use crate::record::{Claim, Timestamp};
use crate::resume::{self, Resumed};
use crate::runs::Runs;
use crate::seal::{Seal, Sealer};
use crate::store::{Abandoned, Place, Recover, Store};

/// A store in memory, with the application's state. A cheap handle: clones share everything. See the
/// [module](crate::memory).
pub struct MemoryStore<S = ()> {
    shared: Arc<Shared<S>>,
    own: Arc<Own>,
}

/// What a handle and its clones have for themselves.
#[derive(Clone, Default)]
struct Own {
    observer: Option<Arc<dyn Observer>>,
    sealer: Sealer,
}

struct Shared<S> {
    rows: std::sync::Mutex<Rows>,
    /// The holder of this lock runs a transaction.
    state: Arc<Mutex<S>>,
    reply_limit: usize,
    runs: Runs,
    /// How far the store's clock is ahead of the system's, in microseconds.
    ahead: AtomicI64,
}

impl<S: Clone + Send + 'static> MemoryStore<S> {
    /// An empty store, and the state that its transactions work on. Replies of up to 1 MiB are stored.
    #[must_use]
    pub fn new(state: S) -> Self {
        Self::with_reply_limit(state, 1024 * 1024)
    }

    /// An empty store with another limit, in bytes of a reply's headers and body.
    #[must_use]
    pub fn with_reply_limit(state: S, reply_limit: usize) -> Self {
        let shared = Shared {
            rows: std::sync::Mutex::default(),
            state: Arc::new(Mutex::new(state)),
            reply_limit,
            runs: Runs::default(),
            ahead: AtomicI64::new(0),
        };
        Self { shared: Arc::new(shared), own: Arc::default() }
    }

    /// The same store, which tells this observer what happens to the requests of this handle and its clones.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { own: Arc::new(Own { observer: Some(observer), ..Own::clone(&self.own) }), ..self }
    }

    /// The same store, which seals what this handle and its clones store: to test a [`Seal`] of your own.
    #[must_use]
    pub fn sealed_by(self, seal: impl Seal) -> Self {
        Self { own: Arc::new(Own { sealer: Sealer::new(seal), ..Own::clone(&self.own) }), ..self }
    }

    /// What is left to do: expired records that are not swept, and leased runs that no process holds.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let now = self.now();
        self.rows().backlog(now)
    }

    /// A copy of the committed state. Waits for the transaction that is under way.
    pub async fn state(&self) -> S {
        self.shared.state.lock().await.clone()
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(u64::try_from(self.now().0).unwrap_or(0))
    }

    /// Moves the store's clock forward: leases end, and records expire.
    pub fn advance(&self, time: Duration) {
        self.shared.ahead.fetch_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Waits until no run is in progress, but no longer than the limit. Returns false if runs were in progress then.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared.runs.drain(limit).await
    }

    /// Removes expired records, and returns how many. An expired record does not count even before it is removed.
    #[must_use]
    pub fn sweep(&self) -> u64 {
        let now = self.now();
        self.rows().sweep(now)
    }

    /// Resets the attempts of a leased run, so that a run that has used up its `attempts`, or whose next attempt may not
    /// begin yet, goes on at once. Returns whether there was a run that is not over and whose lease has ended.
    #[must_use]
    pub fn reset_attempts(&self, identity: &Identity) -> bool {
        let now = self.now();
        self.rows().reset_attempts(&self.own.sealer.identity(identity), now)
    }

    /// Explains what a retry would get now, and why. It changes nothing, and answers by the decisions that answer
    /// requests.
    #[must_use]
    pub fn explain(&self, identity: &Identity, retry: &Retry) -> Explanation {
        let now = self.now();
        let sealer = &self.own.sealer;
        let identity = &*sealer.identity(identity);
        let fingerprint = retry.fingerprint.map(|fingerprint| sealer.fingerprint(identity, fingerprint));
        self.rows().explain(identity, &Retry { fingerprint, ..*retry }, now, sealer)
    }

    /// Resumes the abandoned runs of an operation: see [`resume_abandoned`](crate::resume_abandoned).
    ///
    /// # Errors
    /// None: the store in memory can always be asked.
    pub async fn resume_abandoned<T, F, R, E>(
        &self,
        operation: &str,
        handler: impl Fn(T) -> F,
    ) -> Result<Resumed, Error>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<R, E>>,
    {
        resume::resume_abandoned(self, operation, handler).await
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        // No function of the rows panics halfway.
        self.shared.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sealer(&self) -> &Sealer {
        &self.own.sealer
    }

    pub(super) async fn lock(&self) -> OwnedMutexGuard<S> {
        Arc::clone(&self.shared.state).lock_owned().await
    }

    pub(super) fn now(&self) -> Timestamp {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let system = i64::try_from(system.as_micros()).unwrap_or(i64::MAX);
        Timestamp(system.saturating_add(self.shared.ahead.load(Ordering::Relaxed)))
    }
}

impl<S: Clone + Send + 'static> Store for MemoryStore<S> {
    fn reply_limit(&self) -> usize {
        self.shared.reply_limit
    }

    fn runs(&self) -> &Runs {
        &self.shared.runs
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.own.observer.as_ref()
    }

    fn source(&self) -> Source {
        Source::Memory
    }
}

impl<S: Clone + Send + 'static> Inspect for MemoryStore<S> {
    fn explain<'a>(&'a self, identity: &'a Identity, retry: &'a Retry) -> Answer<'a, Explanation> {
        Box::pin(async move { Ok(Self::explain(self, identity, retry)) })
    }

    fn list<'a>(&'a self, query: &'a Query) -> Answer<'a, Page> {
        let now = self.now();
        Box::pin(async move { Ok(self.rows().list(query, now)) })
    }

    fn counts(&self) -> Answer<'_, Counts> {
        let now = self.now();
        Box::pin(async move { Ok(self.rows().counts(now)) })
    }

    fn backlog(&self) -> Answer<'_, Backlog> {
        Box::pin(async move { Ok(Self::backlog(self)) })
    }
}

impl<S: Clone + Send + 'static> Operate for MemoryStore<S> {
    fn forget<'a>(&'a self, scope: &'a Scope, is_dry: bool) -> Answer<'a, Forgotten> {
        let now = self.now();
        Box::pin(async move { Ok(self.rows().forget(scope, is_dry, now)) })
    }

    fn reset_attempts<'a>(&'a self, identity: &'a Identity) -> Answer<'a, Change> {
        let now = self.now();
        Box::pin(async move {
            let identity = &*self.own.sealer.identity(identity);
            let mut rows = self.rows();
            let change = rows.may_change(identity, now);
            if change == Change::Made {
                rows.reset_attempts(identity, now);
            }
            Ok(change)
        })
    }

    fn give_up<'a>(&'a self, identity: &'a Identity, reason: &'a Reason) -> Answer<'a, Change> {
        Box::pin(async move {
            let (nobodys, now) = (Claim::random()?, self.now());
            let identity = &*self.own.sealer.identity(identity);
            let reason = self.own.sealer.reason(identity, reason)?;
            Ok(self.rows().give_up(identity, &reason, nobodys, now))
        })
    }
}

impl<S: Clone + Send + 'static> Recover for MemoryStore<S> {
    async fn abandoned(&self, operation: &str, after: Option<Place>) -> Result<Vec<Abandoned>, Error> {
        let now = self.now();
        let sealed = self.rows().abandoned(operation, after.as_ref(), now);
        Ok(sealed.into_iter().map(|run| self.own.sealer.abandoned(operation, run)).collect())
    }

    fn place(&self, identity: &Identity) -> Place {
        Place::of(&self.own.sealer.identity(identity))
    }
}

impl<S> Clone for MemoryStore<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), own: Arc::clone(&self.own) }
    }
}

impl<S: Clone + Default + Send + 'static> Default for MemoryStore<S> {
    fn default() -> Self {
        Self::new(S::default())
    }
}

/// For a router whose state is an `Arc<App>`.
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<S, App: AsRef<Self>> axum::extract::FromRef<Arc<App>> for MemoryStore<S> {
    fn from_ref(app: &Arc<App>) -> Self {
        app.as_ref().as_ref().clone()
    }
}

impl<S> fmt::Debug for MemoryStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
