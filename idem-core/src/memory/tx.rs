//! The transaction: the application's state, lent to one handler.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::sync::OwnedMutexGuard;

use super::handle::MemoryStore;
use crate::begin::{self, Start};
use crate::disposition::Disposition;
use crate::error::Error;
use crate::record::{Claim, Outcome, Request};
use crate::store::{Claimed, Context, Rejected, Transaction};

/// A transaction in memory. A handler gets it as `tx: &mut MemoryTx<S>`. It derefs to `S`. Unless it commits, the state
/// is restored.
pub struct MemoryTx<S: Clone + Send + 'static> {
    store: MemoryStore<S>,
    state: OwnedMutexGuard<S>,
    /// The state to restore if this transaction is dropped.
    before: Option<S>,
    run: Option<Run<S>>,
}

/// The claim of a request, until it is dropped.
struct Run<S: Clone + Send + 'static> {
    store: MemoryStore<S>,
    request: Request,
    claim: Claim,
}

impl<S: Clone + Send + 'static> MemoryStore<S> {
    /// Claims a request, or gives the stored result of its earlier run: see [`begin`](crate::begin).
    ///
    /// # Errors
    /// Those of [`begin`](crate::begin).
    pub async fn begin(&self, request: &Request) -> Result<Start<MemoryTx<S>>, Error> {
        begin::begin(self, request).await
    }
}

impl<S: Clone + Send + 'static> MemoryTx<S> {
    async fn open(store: &MemoryStore<S>, run: Option<Run<S>>) -> Self {
        let state = store.lock().await;
        let before = Some(state.clone());
        Self { store: store.clone(), state, before, run }
    }

    /// Keeps the writes.
    pub(super) fn commit(mut self) {
        self.before = None;
    }

    fn end_with(mut self, outcome: &Outcome) -> Result<(), Error> {
        if let Some(run) = &self.run {
            let outcome = &*self.store.sealer().outcome(&run.request.identity, outcome)?;
            let now = self.store.now();
            self.store.rows().complete(&run.request, run.claim, outcome, now);
        }
        self.before = None;
        Ok(())
    }
}

impl<S: Clone + Send + 'static> Context for MemoryTx<S> {
    type Store = MemoryStore<S>;

    async fn claim(store: &MemoryStore<S>, request: &Request) -> Result<Claimed<Self>, Error> {
        request.check_ttl()?;
        let claim = Claim::random()?;
        let now = store.now();
        let request = &*store.sealer().request(request)?;
        let entered = store.rows().enter(request, now, store.sealer())?;
        match entered {
            Claimed::Run(()) => {}
            Claimed::Replay(reply, age) => {
                return store.sealer().claimed(&request.identity, Claimed::Replay(reply, age));
            }
            Claimed::Refuse(kind) => return Ok(Claimed::Refuse(kind)),
            Claimed::TooSoon(rest) => return Ok(Claimed::TooSoon(rest)),
        }
        // From here on a drop releases the claim.
        let run = Run { store: store.clone(), request: request.clone(), claim };
        Ok(Claimed::Run(Self::open(store, Some(run)).await))
    }

    async fn complete(self, outcome: &Outcome) -> Result<(), Error> {
        self.end_with(outcome)
    }

    async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        if let Some(before) = self.before.take() {
            *self.state = before;
        }
        self.end_with(outcome).map(|()| Rejected::Stored)
    }

    async fn release(self) -> Result<(), Error> {
        Ok(())
    }

    async fn begin_unrecorded(store: &MemoryStore<S>) -> Result<Self, Error> {
        <Self as Transaction>::begin(store).await
    }

    async fn finish_unrecorded(self, disposition: Disposition) -> Result<(), Error> {
        self.end(disposition).await
    }
}

impl<S: Clone + Send + 'static> Transaction for MemoryTx<S> {
    type Store = MemoryStore<S>;

    async fn begin(store: &MemoryStore<S>) -> Result<Self, Error> {
        Ok(Self::open(store, None).await)
    }

    async fn end(self, disposition: Disposition) -> Result<(), Error> {
        if disposition == Disposition::Commit {
            self.commit();
        }
        Ok(())
    }
}

impl<S: Clone + Send + 'static> Drop for MemoryTx<S> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            *self.state = before;
        }
    }
}

impl<S: Clone + Send + 'static> Drop for Run<S> {
    fn drop(&mut self) {
        self.store.rows().leave(&self.request.identity);
    }
}

impl<S: Clone + Send + 'static> Deref for MemoryTx<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S: Clone + Send + 'static> DerefMut for MemoryTx<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

impl<S: Clone + Send + 'static> fmt::Debug for MemoryTx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTx").finish_non_exhaustive()
    }
}
