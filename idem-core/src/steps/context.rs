//! A leased run from its claim to its end: [`Context`] for [`Steps`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::key::digest;
use super::{Run, Steps};
use crate::bounds::Leased;
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::machine::{Journal, Unreadable};
use crate::observer::{Event, Teller};
use crate::policy::{Intent, LeaseTerms};
use crate::record::{Outcome, Request};
use crate::renewal::Renewal;
use crate::store::{Attempt, Claimed, Context, Lease, RELEASE_PATIENCE, Rejected, Store};

/// How long a lease is renewed for a step that the handler gave up and that has not ended.
const LONGEST_STEP: Duration = Duration::from_secs(60);

impl<L: Lease> Context for Steps<L> {
    type Store = L::Store;

    /// Each step is a transaction or a call.
    const IS_ONE_TRANSACTION: bool = false;

    async fn claim(store: &L::Store, request: &Request) -> Result<Claimed<Self>, Error> {
        Self::claim_leased(store, request, &LeaseTerms::DEFAULT, Intent::Run).await
    }

    async fn claim_leased(
        store: &L::Store,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Self>, Error> {
        let asked = Instant::now();
        let Attempt { lease, number, fingerprint, entries } = match L::claim(store, request, terms, intent).await? {
            Claimed::Run(attempt) => attempt,
            Claimed::Replay(reply, age) => return Ok(Claimed::Replay(reply, age)),
            Claimed::Refuse(kind) => return Ok(Claimed::Refuse(kind)),
            Claimed::TooSoon(rest) => return Ok(Claimed::TooSoon(rest)),
        };
        let renewed = lease.clone();
        let try_renew = move || {
            let lease = renewed.clone();
            async move { lease.renew().await }
        };
        let teller = Teller::of(store, request.identity.operation);
        if number > 1 {
            teller.tell(|operation| Event::TakenOver { operation, attempt: number });
        }
        let run = Run {
            renewal: Renewal::start(terms.duration, asked, L::EXCLUSIVE, teller.clone(), try_renew),
            teller,
            lease,
            seed: digest([&request.identity.digest(), fingerprint.as_bytes()]),
            attempt: number,
            busy: Arc::default(),
        };
        match Journal::read(entries) {
            Ok(journal) => Ok(Claimed::Run(Self::of(store, Some(run), journal))),
            Err(Unreadable) => {
                run.release(None).await;
                Err(Error::new(Kind::RecordUnreadable))
            }
        }
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

    fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    fn attempt(&self) -> u32 {
        Self::attempt(self)
    }

    fn stopped(&self) -> Option<Kind> {
        self.journal.stopped()
    }

    async fn complete(mut self, outcome: &Outcome) -> Result<(), Error> {
        if self.is_rejected() {
            self.let_go().await;
            return Err(Error::new(Kind::RunRejected));
        }
        self.settle(outcome).await
    }

    fn is_rejected(&self) -> bool {
        self.journal.rejected_with().is_some()
    }

    async fn reject(mut self, outcome: &Outcome) -> Result<Rejected, Error> {
        let is_again = self.is_rejected();
        if let Some(open) = self.last.take() {
            self.journal.unfinished();
            // An error here is noted in the journal, and then nothing is stored.
            _ = self.roll_back(open).await;
        }
        // Boxed: few runs are rejected, and otherwise the future of every run would reserve space for it.
        let outcome = match Box::pin(self.undo_steps(outcome)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.let_go().await;
                return Err(error);
            }
        };
        self.settle(&outcome).await?;
        Ok(match outcome {
            _ if !is_again => Rejected::Stored,
            Outcome::Reply(reply) => Rejected::Replay(reply),
            Outcome::Oversized => Rejected::Refuse(Kind::ReplyTooLarge),
        })
    }

    async fn release(mut self) -> Result<(), Error> {
        self.let_go().await;
        Ok(())
    }

    async fn begin_unrecorded(store: &L::Store) -> Result<Self, Error> {
        Ok(Self::of(store, None, Journal::default()))
    }

    async fn finish_unrecorded(mut self, disposition: Disposition) -> Result<(), Error> {
        if let Some(open) = self.last.take() {
            self.journal.unfinished();
            open.end(disposition, |_, _| async { Ok(()) }).await?;
        }
        match disposition {
            Disposition::Commit | Disposition::Release => Ok(()),
            Disposition::Reject => self.undo_unrecorded().await,
        }
    }
}

impl<L: Lease> Leased for Steps<L> {}

impl<L: Lease> Drop for Steps<L> {
    fn drop(&mut self) {
        // Dropping the open step rolls it back; the release waits for that.
        self.last = None;
        // Without a runtime the lease ends by itself.
        if let (Some(run), Ok(runtime)) = (self.run.take(), Handle::try_current()) {
            runtime.spawn(self.release_run(run));
        }
    }
}

impl<L: Lease> Steps<L> {
    /// Commits the last writes with the outcome.
    async fn settle(&mut self, outcome: &Outcome) -> Result<(), Error> {
        let settled = match self.last.take() {
            Some(open) => Ok(open),
            None => match self.check_lease().and_then(|()| self.may(Journal::may_complete)) {
                Ok(()) => self.begin_alone().await,
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
        self.journal.in_doubt();
        // A renewal that waits for the completion will find the lease gone, and nothing is lost by that.
        if let Some(run) = &self.run {
            run.renewal.ends();
        }
        let finished =
            open.end(Disposition::Commit, |lease, tx| async move { lease.complete(tx, &outcome).await }).await;
        self.journal.known();
        if finished.is_ok() {
            self.run = None;
            return Ok(());
        }
        if let Some(run) = &self.run {
            run.renewal.goes_on();
        }
        let finished = self.noted(finished);
        self.let_go().await;
        finished
    }

    /// Releases the run. Until that is done, it counts as a run that a shutdown waits for.
    fn release_run(&self, run: Run<L>) -> impl Future<Output = ()> + Send + use<L> {
        let (counted, released) = (self.store.runs().enter(), run.release(self.journal.stopped()));
        async move {
            released.await;
            drop(counted);
        }
    }

    /// Releases the lease, unless another process holds it by now or the record is poisoned.
    async fn let_go(&mut self) {
        // Dropping the open step rolls it back; the release waits for that.
        self.last = None;
        if let Some(run) = self.run.take() {
            // A step that the handler gave up may take long to end, and the answer need not wait for that.
            let released = tokio::spawn(self.release_run(run).in_current_span());
            _ = timeout(RELEASE_PATIENCE, released).await;
        }
    }
}

impl<L: Lease> Run<L> {
    async fn release(self, broken: Option<Kind>) {
        let Self { lease, renewal, busy, .. } = self;
        // The lease is renewed until the step has ended. What the step has committed, and whether it has poisoned the
        // record, must be known before another process may run.
        let Ok(has_ended) = timeout(LONGEST_STEP, busy.lock()).await else {
            tracing::error!(target: "idem", "a step that was given up does not end; its lease ends by itself");
            return;
        };
        if *has_ended || matches!(broken, Some(Kind::LeaseLost | Kind::TransactionEnded)) {
            return;
        }
        // Renewed until it is released: otherwise an attempt that has failed in order would count as a crash, only
        // because the database was busy.
        // The same for a renewal that waits for the release.
        renewal.ends();
        let tries = async {
            for pause in [50, 100, 200, 400, 800, 1600, 3200] {
                match lease.release().await {
                    Err(error) if matches!(error.kind(), Kind::RetryLater | Kind::StoreUnavailable) => {}
                    released => return released,
                }
                sleep(Duration::from_millis(pause)).await;
            }
            lease.release().await
        };
        let released = tries.await;
        drop(renewal);
        match released {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::LeaseLost => {}
            Err(error) => tracing::warn!(target: "idem", %error, "the lease was not released; it ends by itself"),
        }
    }
}
