//! The right to run one attempt of a leased run, on any database.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Instant;

use idem_core::machine::{Decision, Resume, decide_leased};
use idem_core::observer::{self, Event};
use idem_core::store::{Abandoned, Attempt, Claim, Claimed, Entry, Intent, Lease, LeaseTerms, Outcome, Place};
use idem_core::{Error, Identity, Kind, Request};
use tokio::time::sleep;

use crate::database::{CommitFailed, Database, Leased, Over, Written};
use crate::error::caused;
use crate::hints::mark_runs;
use crate::release_on_drop::{self, Unused};
use crate::retry;
use crate::running::{Digest, Entered, State};
use crate::settle::{find_out, poisoned};

/// The right to run one attempt of a leased run. Each store has its own name for this type: use that name.
pub struct DbLease<D> {
    store: D,
    request: Request,
    /// That of the identity.
    digest: Digest,
    claim: Claim,
    terms: LeaseTerms,
    /// Other requests of this process see the run until this lease is dropped. Its clones have none: they may outlive
    /// the run.
    entered: Option<Entered>,
}

impl<D: Database> Lease for DbLease<D> {
    type Store = D;
    type Tx = D::Tx;

    const EXCLUSIVE: bool = D::EXCLUSIVE;

    async fn claim(
        store: &D,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        request.check_ttl()?;
        let request = &*store.sealer().request(request)?;
        let claimed = Self::claim_sealed(store, request, terms, intent).await?;
        store.sealer().claimed(&request.identity, claimed)
    }

    async fn renew(&self) -> Result<(), Error> {
        let sent = Instant::now();
        let mut session = self.store.begin_renewal().await?;
        let renewed = self.store.renew(&mut session, &self.request, self.claim, &self.terms).await?;
        self.committed(session, renewed).await?;
        self.is_held_since(sent);
        Ok(())
    }

    async fn begin(&self) -> Result<D::Tx, Error> {
        let begun = self.store.begin_step(&self.request.identity, self.claim).await?;
        begun.ok_or_else(|| Error::new(Kind::LeaseLost))
    }

    async fn record(&self, tx: Option<D::Tx>, entry: &Entry) -> Result<(), Error> {
        let entry = &*self.store.sealer().entry(&self.request.identity, entry)?;
        let mut tx = self.or_alone(tx).await?;
        let written = self.store.record_entry(&mut tx, &self.request, self.claim, &self.terms, entry).await?;
        let session = self.written(tx, written).await?;
        match self.store.commit(session).await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => {
                let operation = self.request.identity.operation.as_str();
                observer::tell(&self.store, || Event::CommitUnknown { operation, verdict: None });
                tracing::error!(target: "idem", operation, "COMMIT of a step did not answer; the next attempt reads it");
                Err(caused(Kind::OutcomeUnknown, error))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    async fn complete(&self, tx: Option<D::Tx>, outcome: &Outcome) -> Result<(), Error> {
        let outcome = &*self.store.sealer().outcome(&self.request.identity, outcome)?;
        let mut tx = self.or_alone(tx).await?;
        let (before, sent) = (self.store.hints().before(), Instant::now());
        let written = self.store.complete_leased(&mut tx, &self.request, self.claim, outcome).await?;
        let session = self.written(tx, written).await?;
        let committed = self.store.commit(session).await;
        find_out(&self.store, &self.request, self.claim, committed).await?;
        self.store.finished(&self.digest);
        self.store.hints().keep_outcome(before, &self.request, outcome, sent);
        Ok(())
    }

    async fn roll_back(&self, tx: D::Tx) -> Result<(), Error> {
        if self.store.roll_back(tx).await { Ok(()) } else { Err(self.poison().await) }
    }

    async fn release(&self) -> Result<(), Error> {
        self.give_back(true).await
    }
}

/// The answer of a decision that claims nothing.
fn answer<D: Database, T>(store: &D, digest: &Digest, order: &Decision) -> Option<Claimed<T>> {
    match order {
        Decision::Replay(reply, age) => {
            store.finished(digest);
            Some(Claimed::Replay(reply.clone(), *age))
        }
        Decision::Refuse(kind) => Some(Claimed::Refuse(*kind)),
        Decision::TooSoon(_, rest) => Some(Claimed::TooSoon(*rest)),
        Decision::Claim | Decision::Replace(_) | Decision::Resume(_) => None,
    }
}

impl<D: Database> Unused for DbLease<D> {
    fn store(&self) -> &D {
        &self.store
    }

    async fn hand_back(&self) -> Result<(), Error> {
        self.give_back(false).await
    }
}

impl<D: Database> DbLease<D> {
    /// Claims a request whose input is sealed. A reply to replay is still sealed.
    async fn claim_sealed(
        store: &D,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        let claim = Claim::random()?;
        let digest = request.identity.digest();
        let lease =
            Self { store: store.clone(), request: request.clone(), digest, claim, terms: *terms, entered: None };
        for (tries, pause) in retry::pauses().enumerate() {
            let (before, sent) = (store.hints().before(), Instant::now());
            let (look, found) = match store.look(request, &digest, intent, tries).await? {
                ControlFlow::Continue(looked) => looked,
                ControlFlow::Break(kind) => return Ok(Claimed::Refuse(kind)),
            };
            let nobody_looked = found.is_none();
            let mut order = match found {
                Some((record, now)) => {
                    store.hints().keep_record(before, request, record.as_ref());
                    decide_leased(record.as_ref(), request, terms, intent, now)
                }
                None => Decision::Claim.within(terms, intent),
            };
            // Without a look-up a refusal is no answer: there may be a record.
            if !nobody_looked && let Some(answer) = answer(store, &digest, &order) {
                return Ok(answer);
            }
            // The record may have changed since the look-up. Each statement checks that itself.
            let mut session = store.write(look).await?;
            let mut leased = lease.carry_out(&mut session, &order).await?;
            if nobody_looked && leased == Leased::Taken {
                // The insert found a record, or was not tried.
                let (record, now) = store.find(&mut session, &request.identity).await?;
                store.hints().keep_record(before, request, record.as_ref());
                order = decide_leased(record.as_ref(), request, terms, intent, now);
                if let Some(answer) = answer(store, &digest, &order) {
                    return Ok(answer);
                }
                leased = lease.carry_out(&mut session, &order).await?;
            }
            if leased == Leased::Claimed {
                let attempt = lease.begun(session, &order).await?;
                attempt.lease.is_held_since(sent);
                mark_runs(store);
                return Ok(Claimed::Run(attempt));
            }
            // The connection goes back to the pool first: no request waits while it holds one.
            drop(session);
            sleep(pause).await;
        }
        Ok(Claimed::Refuse(Kind::KeyInFlight))
    }

    /// Carries out a decision to claim. Any other decision counts as taken.
    async fn carry_out(&self, session: &mut D::Session, order: &Decision) -> Result<Leased, Error> {
        let over = match order {
            Decision::Claim => Over::Nothing,
            Decision::Replace(expired) => Over::Expired(*expired),
            Decision::Resume(Resume { claim, .. }) => Over::Attempt(*claim),
            Decision::Replay(..) | Decision::Refuse(_) | Decision::TooSoon(..) => return Ok(Leased::Taken),
        };
        self.store.lease(session, &self.request, self.claim, &self.terms, over).await
    }

    /// Commits the claim, and returns the attempt.
    async fn begun(self, mut session: D::Session, order: &Decision) -> Result<Attempt<Self>, Error> {
        // A new record has no entries. A record whose attempts were reset has entries, and its attempts count from 1
        // again.
        let (number, fingerprint, entries) = match order {
            Decision::Resume(Resume { attempt, fingerprint, .. }) => {
                (attempt + 1, *fingerprint, self.entries(&mut session).await?)
            }
            _ => (1, self.request.fingerprint, Vec::new()),
        };
        let commit = self.store.commit(session);
        let mut lease = release_on_drop::commit(self, commit).await?;
        lease.entered = Some(lease.store.running().enter(lease.digest, fingerprint, State::Leased));
        Ok(Attempt { lease, number, fingerprint, entries })
    }

    /// The lease was claimed or renewed by a statement that was sent after this time. With hints, duplicates of this
    /// process are answered from that.
    fn is_held_since(&self, sent: Instant) {
        if self.store.hints().are_there() {
            self.store.running().hold(&self.digest, sent + self.terms.duration);
        }
    }

    /// The entries that earlier attempts have recorded, opened.
    async fn entries(&self, session: &mut D::Session) -> Result<Vec<Entry>, Error> {
        let (store, identity) = (&self.store, &self.request.identity);
        let sealed = store.entries(session, identity).await?;
        sealed.into_iter().map(|entry| store.sealer().open_entry(identity, entry)).collect()
    }

    /// Commits the session, if its statement found the lease held.
    async fn committed(&self, session: D::Session, is_held: bool) -> Result<(), Error> {
        if !is_held {
            return Err(Error::new(Kind::LeaseLost));
        }
        self.store.commit(session).await.map_err(Error::from)
    }

    /// The transaction of the step, or a new one if there is no step.
    async fn or_alone(&self, tx: Option<D::Tx>) -> Result<D::Tx, Error> {
        match tx {
            Some(tx) => Ok(tx),
            None => self.store.begin_alone().await,
        }
    }

    /// The session to commit, if the last statement has written. A step that ended its transaction has its key
    /// poisoned.
    async fn written(&self, tx: D::Tx, written: Written) -> Result<D::Session, Error> {
        match written {
            Written::Kept => Ok(D::session_of(tx)),
            Written::NotHeld => Err(Error::new(Kind::LeaseLost)),
            Written::Ended => {
                // In a box, so that the future of every step does not grow by it.
                let poisoned = Box::pin(async {
                    self.store.roll_back(tx).await;
                    self.poison().await
                });
                Err(poisoned.await)
            }
        }
    }

    /// Ends the lease. The attempt is numbered only if it has run.
    async fn give_back(&self, has_run: bool) -> Result<(), Error> {
        // A release that queued behind the work of others would come after the end of the lease, as that of a crash.
        let mut session = self.store.begin_renewal().await?;
        let (identity, nobodys) = (&self.request.identity, Claim::random()?);
        let released = self.store.release(&mut session, identity, self.claim, nobodys, has_run).await?;
        self.committed(session, released).await
    }

    /// Poisons the key of a step that ended the transaction it was lent. Returns the error to answer with.
    async fn poison(&self) -> Error {
        poisoned(&self.store, || async {
            let mut session = self.store.begin().await?;
            // A record that this claim does not hold belongs to another attempt, which knows what is kept.
            self.store.poison_leased(&mut session, &self.request.identity, self.claim).await?;
            self.store.commit(session).await.map_err(Error::from).map(|()| true)
        })
        .await
    }
}

/// A page of the abandoned runs of an operation, with their inputs opened.
pub(crate) async fn abandoned<D: Database>(
    store: &D,
    operation: &str,
    after: Option<&Place>,
) -> Result<Vec<Abandoned>, Error> {
    let sealed = store.abandoned(operation, after).await?;
    Ok(sealed.into_iter().map(|run| store.sealer().abandoned(operation, run)).collect())
}

/// Resets the attempts of a run that is not over and that no process holds.
pub(crate) async fn reset_attempts<D: Database>(store: &D, identity: &Identity) -> Result<bool, Error> {
    let identity = &*store.sealer().identity(identity);
    let mut session = store.begin().await?;
    let reset = store.reset_attempts(&mut session, identity).await?;
    store.commit(session).await?;
    Ok(reset)
}

impl<D: Clone> Clone for DbLease<D> {
    fn clone(&self) -> Self {
        let Self { store, request, digest, claim, terms, .. } = self;
        let (store, request) = (store.clone(), request.clone());
        Self { store, request, digest: *digest, claim: *claim, terms: *terms, entered: None }
    }
}

impl<D> fmt::Debug for DbLease<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("claim", &self.claim).finish_non_exhaustive()
    }
}
