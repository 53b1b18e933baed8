//! The right to run one attempt of a leased run, on any database.

use std::fmt;

use idem_core::machine::{Decision, decide_leased};
use idem_core::store::{Attempt, Claim, Claimed, Entry, Intent, Lease, LeaseTerms, Outcome};
use idem_core::{Error, Identity, Kind, Request};
use tokio::time::sleep;

use crate::database::{CommitFailed, Database, Leased, Over, Written};
use crate::release_on_drop::{self, Unused};
use crate::retry;
use crate::settle::find_out;

/// The right to run one attempt of a leased run. A store's own name for it is the one to use.
pub struct DbLease<D> {
    store: D,
    request: Request,
    claim: Claim,
    terms: LeaseTerms,
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
        let lease = Self { store: store.clone(), request: request.clone(), claim: Claim::random()?, terms: *terms };
        for (tries, pause) in retry::pauses().enumerate() {
            let (look, found) = store.look(&request.identity, tries).await?;
            let nobody_looked = found.is_none();
            let mut order = match found {
                Some((record, now)) => decide_leased(record.as_ref(), request, terms, intent, now),
                None => Decision::Claim.within(terms, intent),
            };
            // A refusal of what nobody has looked up is no answer.
            if !nobody_looked && let Some(answer) = answer(&order) {
                return Ok(answer);
            }
            // What may have changed since the look, each statement asks for itself.
            let mut session = store.write(look).await?;
            let mut leased = lease.carry_out(&mut session, &order).await?;
            if nobody_looked && leased == Leased::Taken {
                // The insert has told that there is a record.
                let (record, now) = store.find(&mut session, &request.identity).await?;
                order = decide_leased(record.as_ref(), request, terms, intent, now);
                if let Some(answer) = answer(&order) {
                    return Ok(answer);
                }
                leased = lease.carry_out(&mut session, &order).await?;
            }
            if leased == Leased::Claimed {
                return lease.begun(session, &order).await.map(Claimed::Run);
            }
            // The connection goes back first: nobody waits with one in hand.
            drop(session);
            sleep(pause).await;
        }
        Ok(Claimed::Refuse(Kind::KeyInFlight))
    }

    async fn renew(&self) -> Result<(), Error> {
        let mut session = self.store.begin().await?;
        let renewed = self.store.renew(&mut session, &self.request, self.claim, &self.terms).await?;
        self.committed(session, renewed).await
    }

    async fn begin(&self) -> Result<D::Tx, Error> {
        let begun = self.store.begin_step(&self.request.identity, self.claim).await?;
        begun.ok_or_else(|| Error::new(Kind::LeaseLost))
    }

    async fn record(&self, tx: Option<D::Tx>, entry: &Entry) -> Result<(), Error> {
        let mut tx = self.or_alone(tx).await?;
        let written = self.store.record_entry(&mut tx, &self.request, self.claim, &self.terms, entry).await?;
        let session = self.written(tx, written).await?;
        match self.store.commit(session).await {
            Ok(()) => Ok(()),
            Err(CommitFailed::Unknown(error)) => Err(Error::new(Kind::OutcomeUnknown).caused_by(error)),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn complete(&self, tx: Option<D::Tx>, outcome: &Outcome) -> Result<(), Error> {
        let mut tx = self.or_alone(tx).await?;
        let written = self.store.complete_leased(&mut tx, &self.request, self.claim, outcome).await?;
        let session = self.written(tx, written).await?;
        let committed = self.store.commit(session).await;
        find_out(&self.store, &self.request, self.claim, committed).await
    }

    async fn roll_back(&self, tx: D::Tx) -> Result<(), Error> {
        if self.store.roll_back(tx).await { Ok(()) } else { Err(self.poison_in_tries().await) }
    }

    async fn release(&self) -> Result<(), Error> {
        self.give_back(true).await
    }
}

/// What a decision answers by itself.
fn answer<T>(order: &Decision) -> Option<Claimed<T>> {
    match order {
        Decision::Replay(reply) => Some(Claimed::Replay(reply.clone())),
        Decision::Refuse(kind) => Some(Claimed::Refuse(*kind)),
        Decision::Claim | Decision::Replace(_) | Decision::Resume { .. } => None,
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
    /// Carries a decision out, as far as it says to claim.
    async fn carry_out(&self, session: &mut D::Session, order: &Decision) -> Result<Leased, Error> {
        let over = match order {
            Decision::Claim => Over::Nothing,
            Decision::Replace(expired) => Over::Expired(*expired),
            Decision::Resume { claim, .. } => Over::Attempt(*claim),
            Decision::Replay(_) | Decision::Refuse(_) => return Ok(Leased::Taken),
        };
        self.store.lease(session, &self.request, self.claim, &self.terms, over).await
    }

    /// Commits the claim. The attempt as it begins.
    async fn begun(self, mut session: D::Session, order: &Decision) -> Result<Attempt<Self>, Error> {
        // A new record has no entries. One that an operator let begin again has, and counts from 1 again.
        let (number, fingerprint, entries) = match order {
            Decision::Resume { attempt, fingerprint, .. } => {
                (attempt + 1, *fingerprint, self.store.entries(&mut session, &self.request.identity).await?)
            }
            _ => (1, self.request.fingerprint, Vec::new()),
        };
        let commit = self.store.commit(session);
        let lease = release_on_drop::commit(self, commit).await?;
        Ok(Attempt { lease, number, fingerprint, entries })
    }

    /// Commits what was done under the lease, if that was held.
    async fn committed(&self, session: D::Session, is_held: bool) -> Result<(), Error> {
        if !is_held {
            return Err(Error::new(Kind::LeaseLost));
        }
        self.store.commit(session).await.map_err(Error::from)
    }

    /// The transaction of a step, or one of its own.
    async fn or_alone(&self, tx: Option<D::Tx>) -> Result<D::Tx, Error> {
        match tx {
            Some(tx) => Ok(tx),
            None => self.store.begin_alone().await,
        }
    }

    /// The session to be committed, where the last statement was written.
    async fn written(&self, tx: D::Tx, written: Written) -> Result<D::Session, Error> {
        match written {
            Written::Kept => Ok(D::session_of(tx)),
            Written::NotHeld => Err(Error::new(Kind::LeaseLost)),
            Written::Ended => {
                self.store.roll_back(tx).await;
                Err(self.poison_in_tries().await)
            }
        }
    }

    /// Ends the lease, of an attempt that counts where it has run.
    async fn give_back(&self, has_run: bool) -> Result<(), Error> {
        let mut session = self.store.begin().await?;
        let (identity, nobodys) = (&self.request.identity, Claim::random()?);
        let released = self.store.release(&mut session, identity, self.claim, nobodys, has_run).await?;
        self.committed(session, released).await
    }

    /// A step has ended the transaction that it was lent. What it kept is not known, so its key must not run again: the error
    /// to answer with, once that is seen to.
    async fn poison_in_tries(&self) -> Error {
        let mut error = Error::new(Kind::TransactionEnded);
        for pause in retry::pauses() {
            match self.poison().await {
                Ok(()) => return Error::new(Kind::TransactionEnded),
                Err(failed) => error = error.caused_by(failed),
            }
            sleep(pause).await;
        }
        error
    }

    async fn poison(&self) -> Result<(), Error> {
        let mut session = self.store.begin().await?;
        // A record that is not held by this claim is somebody else's, who knows what is kept.
        self.store.poison_leased(&mut session, &self.request.identity, self.claim).await?;
        self.store.commit(session).await.map_err(Error::from)
    }
}

/// Lets a run begin again that was begun as often as it may be.
pub(crate) async fn reset_attempts<D: Database>(store: &D, identity: &Identity) -> Result<bool, Error> {
    let mut session = store.begin().await?;
    let reset = store.reset_attempts(&mut session, identity).await?;
    store.commit(session).await?;
    Ok(reset)
}

impl<D: Clone> Clone for DbLease<D> {
    fn clone(&self) -> Self {
        let Self { store, request, claim, terms } = self;
        Self { store: store.clone(), request: request.clone(), claim: *claim, terms: *terms }
    }
}

impl<D> fmt::Debug for DbLease<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("claim", &self.claim).finish_non_exhaustive()
    }
}
