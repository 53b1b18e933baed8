//! The lease: the right to run one attempt of a leased run.

use std::fmt;
use std::sync::Arc;

use super::handle::MemoryStore;
use super::rows::Leased;
use super::tx::MemoryTx;
use crate::entry::Entry;
use crate::error::{Error, Kind};
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Claim, Outcome, Request};
use crate::steps::Steps;
use crate::store::{Attempt, Claimed, Lease, Transaction};

/// The steps of a leased run in memory. A handler gets them as `steps: &mut MemorySteps<S>`.
pub type MemorySteps<S = ()> = Steps<MemoryLease<S>>;

/// The right to run one attempt in memory: see [`MemorySteps`].
pub struct MemoryLease<S: Clone + Send + 'static = ()> {
    store: MemoryStore<S>,
    /// Shared, because the lease is copied into every step.
    request: Arc<Request>,
    terms: LeaseTerms,
    claim: Claim,
}

fn held(is_held: bool) -> Result<(), Error> {
    if is_held { Ok(()) } else { Err(Error::new(Kind::LeaseLost)) }
}

impl<S: Clone + Send + 'static> Lease for MemoryLease<S> {
    type Store = MemoryStore<S>;
    type Tx = MemoryTx<S>;

    /// A renewal does not wait for the state.
    const EXCLUSIVE: bool = false;

    async fn claim(
        store: &MemoryStore<S>,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        request.check_ttl()?;
        let claim = Claim::random()?;
        let now = store.now();
        let sealer = store.sealer();
        let request = &*sealer.request(request)?;
        let leased = store.rows().lease(request, terms, intent, claim, now, sealer)?;
        let claimed = match leased {
            Claimed::Run(Leased { attempt, fingerprint, entries }) => {
                let lease = Self { store: store.clone(), request: Arc::new(request.clone()), terms: *terms, claim };
                Claimed::Run(Attempt { lease, number: attempt, fingerprint, entries })
            }
            Claimed::Replay(reply, age) => Claimed::Replay(reply, age),
            Claimed::Refuse(kind) => Claimed::Refuse(kind),
            Claimed::TooSoon(rest) => Claimed::TooSoon(rest),
        };
        sealer.claimed(&request.identity, claimed)
    }

    async fn renew(&self) -> Result<(), Error> {
        let now = self.store.now();
        let is_held = self.store.rows().renew(&self.request, &self.terms, self.claim, now);
        held(is_held)
    }

    async fn begin(&self) -> Result<MemoryTx<S>, Error> {
        let tx = <MemoryTx<S> as Transaction>::begin(&self.store).await?;
        let is_held = self.store.rows().holds(&self.request.identity, self.claim);
        held(is_held).map(|()| tx)
    }

    async fn record(&self, tx: Option<MemoryTx<S>>, entry: &Entry) -> Result<(), Error> {
        let entry = &*self.store.sealer().entry(&self.request.identity, entry)?;
        let now = self.store.now();
        let is_held = self.store.rows().record_entry(&self.request, &self.terms, self.claim, entry, now);
        held(is_held)?;
        tx.into_iter().for_each(MemoryTx::commit);
        Ok(())
    }

    async fn complete(&self, tx: Option<MemoryTx<S>>, outcome: &Outcome) -> Result<(), Error> {
        let outcome = &*self.store.sealer().outcome(&self.request.identity, outcome)?;
        let now = self.store.now();
        let is_held = self.store.rows().complete_leased(&self.request, self.claim, outcome, now);
        held(is_held)?;
        tx.into_iter().for_each(MemoryTx::commit);
        Ok(())
    }

    async fn roll_back(&self, tx: MemoryTx<S>) -> Result<(), Error> {
        drop(tx);
        Ok(())
    }

    async fn release(&self) -> Result<(), Error> {
        let (nobodys, now) = (Claim::random()?, self.store.now());
        let is_held = self.store.rows().release(&self.request.identity, self.claim, nobodys, now);
        held(is_held)
    }
}

impl<S: Clone + Send + 'static> Clone for MemoryLease<S> {
    fn clone(&self) -> Self {
        let Self { store, request, terms, claim } = self;
        Self { store: store.clone(), request: Arc::clone(request), terms: *terms, claim: *claim }
    }
}

impl<S: Clone + Send + 'static> fmt::Debug for MemoryLease<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLease").finish_non_exhaustive()
    }
}
