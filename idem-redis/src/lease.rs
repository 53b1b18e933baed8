//! The right to run one attempt of a leased run, in Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use idem_core::machine::{Decision, Resume, decide_leased};
use idem_core::observer::{self, Event};
use idem_core::store::{Attempt, Claim, Claimed, Entry, Intent, Lease, LeaseTerms, Outcome, Store};
use idem_core::{Error, Kind, Request, Steps};
use redis::Value;
use tokio::time::{Instant, sleep};

use crate::connection::{Arguments, arguments, bytes};
use crate::failure::Failed;
use crate::keys::Keys;
use crate::record::{self, Answer};
use crate::running::Entered;
use crate::scripts;
use crate::store::RedisStore;
use crate::tx::RedisTx;

/// The steps of a leased run in Redis: what a handler gets as `steps: &mut RedisSteps`.
///
/// ```
/// use idem_core::Error;
/// use idem_redis::RedisSteps;
/// # async fn deliver(_: &str, _: &str, _: Option<u64>) -> Result<String, Error> { Ok(String::new()) }
///
/// async fn send(steps: &mut RedisSteps, to: &str) -> Result<String, Error> {
///     let fence = steps.fence();
///     steps.call("deliver", async |key| deliver(to, key.as_str(), fence).await).await
/// }
/// ```
///
/// # Rules
/// - Every effect of the handler is a [`call`](Steps::call). A step in a transaction does not compile: Redis has no
///   transaction that an application could write in together with its record.
/// - [`fence`](Steps::fence) is a number that grows with each attempt of the identity. It is the server's time in
///   microseconds at the claim, or one more than the number of the attempt before, whichever is greater.
///
/// # Limitations
/// - While a record lives, its number grows whatever the clock does. After the record has gone, the next number is greater
///   unless the server's clock was set back by more than the record has lived. So it is after a failover that has lost the
///   record: the new master's clock must not be behind by more than the time since that claim.
pub type RedisSteps = Steps<RedisLease>;

/// The right to run one attempt: see [`RedisSteps`].
pub struct RedisLease {
    run: Arc<Run>,
    fence: u64,
    /// The run is seen in this process until this lease is dropped. Its clones have none: they may outlive the run.
    _entered: Option<Entered>,
}

/// A claim, and what it is asked for.
struct Run {
    store: RedisStore,
    request: Request,
    keys: Keys,
    claim: Claim,
    terms: LeaseTerms,
}

/// A claim that was sent, until its answer is known. Dropped before that, it is handed back.
struct Sent(Option<Arc<Run>>);

/// The longest duration that is stored: a hundred years. Lua's numbers are exact up to twice that from 1970 on.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

pub(crate) fn microseconds(time: Duration) -> Vec<u8> {
    time.min(LONGEST).as_micros().to_string().into()
}

impl Lease for RedisLease {
    type Store = RedisStore;
    type Tx = RedisTx;

    const EXCLUSIVE: bool = false;

    async fn claim(
        store: &RedisStore,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        request.check_ttl()?;
        let request = &*store.sealer().request(request)?;
        let claimed = Self::claim_sealed(store, request, terms, intent).await?;
        store.sealer().claimed(&request.identity, claimed)
    }

    fn fence(&self) -> Option<u64> {
        Some(self.fence)
    }

    async fn renew(&self) -> Result<(), Error> {
        let arguments = arguments![self.run.claim.as_bytes(), self.run.duration(), self.run.lives()];
        held(self.run.write(&scripts::RENEW, &arguments).await.map_err(Failed::harmless)?)
    }

    async fn begin(&self) -> Result<RedisTx, Error> {
        Err(RedisTx::refused())
    }

    async fn record(&self, _tx: Option<RedisTx>, entry: &Entry) -> Result<(), Error> {
        let entry = &*self.run.store.sealer().entry(&self.run.request.identity, entry)?;
        let mut arguments = arguments![self.run.claim.as_bytes(), self.run.duration(), self.run.lives()];
        arguments.extend(record::written_entry(entry));
        held(self.run.write(&scripts::RECORD, &arguments).await.map_err(Failed::in_doubt)?)
    }

    async fn complete(&self, _tx: Option<RedisTx>, outcome: &Outcome) -> Result<(), Error> {
        let Run { store, request, claim, keys, .. } = &*self.run;
        let outcome = &*store.sealer().outcome(&request.identity, outcome)?;
        // By this number an answer that was lost is told from the completion of another call.
        let completion = Claim::random()?;
        let mut arguments = arguments![claim.as_bytes(), completion.as_bytes()];
        arguments.extend(record::written_outcome(outcome));
        let kept = request.refused_for().map(|time| microseconds(request.ttl.saturating_add(time)));
        arguments.extend([microseconds(request.ttl), kept.unwrap_or_default(), keys.member.clone()]);
        let until = Instant::now() + store.patience();
        let mut is_in_doubt = false;
        for tries in 0.. {
            let pause = pause(tries);
            let written = self.run.write(&scripts::COMPLETE, &arguments).await;
            // After a message without an answer, a refusal of the next one says nothing about the first.
            let written = written.map_err(|failed| failed.after(is_in_doubt));
            is_in_doubt |= matches!(written, Err(Failed::Unknown(_)));
            match written {
                Err(Failed::Unknown(_)) if Instant::now() + pause < until => sleep(pause).await,
                Err(failed) => {
                    if let Failed::Unknown(cause) = &failed {
                        let operation = request.identity.operation.as_str();
                        observer::tell(store, || Event::CommitUnknown { operation, verdict: None });
                        tracing::error!(target: "idem", operation, %cause, "the completion of a run got no answer");
                    }
                    return Err(failed.in_doubt());
                }
                Ok(answer) => return held(answer),
            }
        }
        Err(Error::new(Kind::OutcomeUnknown))
    }

    async fn roll_back(&self, tx: RedisTx) -> Result<(), Error> {
        tx.never()
    }

    async fn release(&self) -> Result<(), Error> {
        self.run.give_back(true).await
    }
}

/// The pause before the next try, after so many.
fn pause(tries: u32) -> Duration {
    Duration::from_millis(20 << tries.min(5))
}

/// What a script says that changes something on a lease.
fn held(answer: Value) -> Result<(), Error> {
    match redis::from_redis_value::<String>(answer).as_deref() {
        Ok("kept") => Ok(()),
        Ok("lost") => Err(Error::new(Kind::LeaseLost)),
        _ => Err(Failed::strange().harmless()),
    }
}

impl RedisLease {
    /// Claims a request whose input is sealed. A reply to replay is still sealed.
    async fn claim_sealed(
        store: &RedisStore,
        request: &Request,
        terms: &LeaseTerms,
        intent: Intent,
    ) -> Result<Claimed<Attempt<Self>>, Error> {
        let (claim, keys) = (Claim::random()?, store.keys(&request.identity));
        let run = Arc::new(Run { store: store.clone(), request: request.clone(), keys, claim, terms: *terms });
        // A new request is claimed by the first message. Otherwise that message has read the record.
        let mut order = Decision::Claim.within(terms, intent);
        for tries in 0..TRIES {
            // The second message carries a decision out. Another claim may have won meanwhile.
            if tries > 1 {
                sleep(pause(tries)).await;
            }
            let mut sent = Sent(Some(Arc::clone(&run)));
            let answer = match run.ask(&order).await {
                Ok(answer) => answer?,
                Err(failed) => {
                    if matches!(failed, Failed::NotDone(..)) {
                        sent.0 = None;
                    }
                    return Err(failed.harmless());
                }
            };
            match answer {
                Answer::Claimed { fence, attempt, fingerprint, entries } => {
                    let opened = entries.into_iter().map(|entry| store.sealer().open_entry(&request.identity, entry));
                    let entries = opened.collect::<Result<_, _>>()?;
                    sent.0 = None;
                    let entered = Some(store.running().enter(request.identity.digest()));
                    let lease = Self { run, fence, _entered: entered };
                    return Ok(Claimed::Run(Attempt { lease, number: attempt, fingerprint, entries }));
                }
                Answer::Found(found, now) => {
                    sent.0 = None;
                    let record = found.map(|found| found.of(&request.identity).record);
                    order = decide_leased(record.as_ref(), request, terms, intent, now);
                }
            }
            match order {
                Decision::Replay(reply, age) => return Ok(Claimed::Replay(reply, age)),
                Decision::Refuse(kind) => return Ok(Claimed::Refuse(kind)),
                Decision::TooSoon(_, rest) => return Ok(Claimed::TooSoon(rest)),
                // The next message asks again whether the record is still the one that was seen.
                Decision::Claim | Decision::Replace(_) | Decision::Resume(_) => {}
            }
        }
        Ok(Claimed::Refuse(Kind::KeyInFlight))
    }
}

/// How often a claim is tried that others win.
const TRIES: u32 = 8;

impl Run {
    /// Carries out a decision, or finds the record by which to decide.
    async fn ask(&self, order: &Decision) -> Result<Result<Answer, Error>, Failed> {
        let Request { identity, fingerprint, input, .. } = &self.request;
        let (over, what) = match order {
            Decision::Replace(expired) => (bytes(expired.as_bytes()), "expired"),
            Decision::Resume(Resume { claim, .. }) => (bytes(claim.as_bytes()), "attempt"),
            _ => (Vec::new(), ""),
        };
        // A process that only resumes begins nothing, and neither does one that has decided about a record.
        let begins = if matches!(order, Decision::Claim) { "1" } else { "0" };
        let (first, last) = self.request.may_begin();
        let mut arguments = arguments![
            self.claim.as_bytes(),
            begins,
            first.0.to_string(),
            last.0.to_string(),
            over,
            what,
            self.duration(),
            self.lives(),
            fingerprint.as_bytes(),
            identity.scope.as_str(),
            identity.operation.as_str(),
            identity.key.hash(),
            &self.keys.member,
        ];
        arguments.extend(input.iter().map(|input| input.0.to_vec()));
        record::claimed(self.write(&scripts::CLAIM, &arguments).await?)
    }

    async fn write(&self, script: &scripts::Script, arguments: &Arguments) -> Result<Value, Failed> {
        self.store.connection().write(script, &self.keys, arguments).await
    }

    fn duration(&self) -> Vec<u8> {
        microseconds(self.terms.duration)
    }

    /// How long the record lives from a renewal on: the `ttl` after the end of the lease.
    fn lives(&self) -> Vec<u8> {
        microseconds(self.terms.duration.min(LONGEST).saturating_add(self.request.ttl))
    }

    /// Ends the lease. The attempt is numbered only if it has run.
    async fn give_back(&self, has_run: bool) -> Result<(), Error> {
        let nobodys = Claim::random()?;
        let arguments = arguments![self.claim.as_bytes(), nobodys.as_bytes(), if has_run { "1" } else { "0" }];
        held(self.write(&scripts::RELEASE, &arguments).await.map_err(Failed::harmless)?)
    }
}

impl Drop for Sent {
    /// The caller has gone, or got no answer: the claim may have been made, or will be. It is handed back behind itself, on
    /// the same connection. If that fails, its lease ends by itself.
    fn drop(&mut self) {
        if let (Some(run), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let counted = run.store.runs().enter();
            runtime.spawn(async move {
                _ = run.give_back(false).await;
                drop(counted);
            });
        }
    }
}

impl Clone for RedisLease {
    fn clone(&self) -> Self {
        Self { run: Arc::clone(&self.run), fence: self.fence, _entered: None }
    }
}

impl fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLease").field("claim", &self.run.claim).finish_non_exhaustive()
    }
}
