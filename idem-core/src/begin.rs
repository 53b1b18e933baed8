//! A run without the macro: by hand, what the attribute does for a plain function.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{Instrument, Span};

use crate::claim;
use crate::cut::cut;
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::observer::Watch;
use crate::policy::{InFlight, LeaseTerms};
use crate::record::{Format, Outcome, Reply, Request};
use crate::resume;
use crate::runs::Run;
use crate::store::{Claimed, Context, Rejected, Store};
use crate::value::{self, Value, Written};

/// The answer to a request to run something once.
#[derive(Debug)]
pub enum Start<C: Context> {
    /// The request is claimed. Do the work with this guard, then complete, reject or release it.
    Run(Guard<C>),
    /// The request has run. This is its result.
    Stored(Stored),
}

/// The result of an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The run was completed.
    Completed(Value),
    /// The run was rejected: its writes were undone, and this error was stored.
    Rejected(Value),
}

/// The result of a rejection.
#[derive(Clone, PartialEq, Eq)]
pub enum Settled<T> {
    /// This value is stored, and every retry reads it as it is here.
    Kept(T),
    /// The stored result of another run or of an earlier attempt counts instead.
    Stored(Stored),
}

impl<T> fmt::Debug for Settled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The value is content of a reply.
            Self::Kept(_) => f.write_str("Kept(…)"),
            Self::Stored(stored) => f.debug_tuple("Stored").field(stored).finish(),
        }
    }
}

impl<T> Settled<T> {
    pub(crate) fn of(stored: Option<Stored>, answer: T) -> Self {
        stored.map_or(Self::Kept(answer), Self::Stored)
    }
}

impl Stored {
    fn of(reply: Reply) -> Result<Self, Error> {
        match reply.format {
            Format::VALUE => Ok(Self::Completed(Value::of(reply))),
            Format::ERROR => Ok(Self::Rejected(Value::of(reply))),
            _ => Err(Error::new(Kind::RecordUnreadable)),
        }
    }
}

/// Claims a request, or gives the stored result of its earlier run.
///
/// The stores offer this as a method, with an example: `PgStore::begin`.
///
/// # Errors
/// By [`Error::kind`]: [`Kind::KeyInFlight`] while the same request runs, [`Kind::KeyReused`] if the key belongs to
/// another request, [`Kind::ReplyTooLarge`] and [`Kind::RecordUnreadable`] if the request has run and there is no
/// result to give, and the errors of a store that cannot be asked. In each case nothing is claimed.
///
/// # Limitations
/// - The run has no deadline, because its work is not a future that the library holds. Put a timeout around the work.
/// - The type of the result is not known yet. So a result that cannot be stored is detected only when it is stored. An
///   attribute on a function, and the steps of a leased run, check the type before they run.
///
/// # Cancel safety
/// Dropped, it has claimed nothing. The claim of a leased run is released, or ends with its lease.
pub async fn begin<C: Context>(store: &C::Store, request: &Request) -> Result<Start<C>, Error> {
    begin_within(store, request, InFlight::Conflict, &LeaseTerms::DEFAULT, store.deadline()).await
}

pub(crate) async fn begin_within<C: Context>(
    store: &C::Store,
    request: &Request,
    in_flight: InFlight,
    terms: &LeaseTerms,
    deadline: Duration,
) -> Result<Start<C>, Error> {
    let counted = store.runs().enter();
    let mut watch = Watch::start(store, request.identity.operation);
    let claimed = async {
        let intent = resume::intent_of(&request.identity)?;
        claim::claim::<C>(store, request, in_flight, terms, intent).await
    };
    // Boxed: to the compiler the futures of a claim are nested deeply, and its callers nest them further.
    let claimed = Box::pin(claimed).instrument(watch.span()).await;
    let refused = match watch.answered(claimed) {
        Ok(Claimed::Run(mut context)) => {
            context.set_deadline(deadline);
            watch.claimed(context.attempt(), true);
            return Ok(Start::Run(Guard { context, limit: store.reply_limit(), deadline, watch, _counted: counted }));
        }
        Ok(Claimed::Replay(reply, age)) => {
            watch.size(&reply);
            match Stored::of(reply) {
                Ok(stored) => {
                    watch.replayed(age);
                    return Ok(Start::Stored(stored));
                }
                Err(error) => error,
            }
        }
        Ok(Claimed::Refuse(kind)) => Error::new(kind),
        Ok(Claimed::TooSoon(rest)) => Error::too_soon(rest),
        Err(error) => error,
    };
    watch.failed(&refused);
    resume::note_refusal_of(&request.identity, refused.kind());
    Err(refused)
}

/// A claimed request: the context to work with, and the three ways to end the run.
///
/// Use the guard like the context itself: with `PgStore`, `&mut *run` is an executor.
///
/// # Rules
/// - [`complete`](Self::complete) commits the writes and stores the result, together.
/// - [`reject`](Self::reject) undoes the writes and stores the error.
/// - [`release`](Self::release) undoes the writes and stores nothing: the next attempt runs.
///
/// # Cancel safety
/// Dropped, the guard releases the run.
pub struct Guard<C: Context> {
    context: C,
    limit: usize,
    deadline: Duration,
    watch: Watch,
    _counted: Run,
}

impl<C: Context> Guard<C> {
    /// Commits the writes and the result together. Returns the result as every retry reads it. Return that value, so
    /// that the first caller gets no field that is not stored.
    ///
    /// A result over the store's limit leaves a tombstone: a retry gets [`Kind::ReplyTooLarge`] and does not run.
    ///
    /// # Errors
    /// [`Kind::ReplyFailed`] if the result does not serialise or cannot be read back, and the errors of the store.
    /// Nothing was committed, unless the kind is [`Kind::OutcomeUnknown`] or [`Kind::TransactionEnded`].
    pub fn complete<T: Serialize + DeserializeOwned>(
        self,
        result: &T,
    ) -> impl Future<Output = Result<T, Error>> + use<C, T> {
        // Written before the first await, so that the future need not borrow the result.
        let written = value::write(Format::VALUE, result, self.limit);
        async move {
            match written {
                Ok(Written { outcome, read_back }) => self.complete_with(outcome).await.map(|()| read_back),
                Err(error) => self.release_for(error).await,
            }
        }
    }

    pub(crate) async fn complete_with(self, outcome: Outcome) -> Result<(), Error> {
        let Self { context, mut watch, _counted, .. } = self;
        watch.ran(Disposition::Commit, Some(&outcome));
        let completed = context.complete(&outcome).instrument(watch.span()).await;
        told(watch, completed)
    }

    /// Undoes the writes and stores the error: every retry gets it. Returns the error as every retry reads it.
    ///
    /// The key stays claimed between the two steps, so no other run begins. If an earlier attempt of a leased run was
    /// rejected, its error counts and is the answer.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    pub fn reject<E: Serialize + DeserializeOwned>(
        self,
        error: &E,
    ) -> impl Future<Output = Result<Settled<E>, Error>> + use<C, E> {
        let written = value::write(Format::ERROR, error, self.limit);
        async move {
            match written {
                Ok(Written { outcome, read_back }) => {
                    self.reject_with(outcome).await.map(|stored| Settled::of(stored, read_back))
                }
                Err(error) => self.release_for(error).await,
            }
        }
    }

    pub(crate) async fn reject_with(self, outcome: Outcome) -> Result<Option<Stored>, Error> {
        let Self { context, mut watch, _counted, .. } = self;
        // The outcome of an earlier rejection counts, and not this one.
        watch.ran(Disposition::Reject, Some(&outcome).filter(|_| !context.is_rejected()));
        let rejected = match context.reject(&outcome).instrument(watch.span()).await {
            Ok(Rejected::Stored) => Ok(None),
            Ok(Rejected::Replay(reply)) => Stored::of(reply).map(Some),
            Ok(Rejected::Refuse(kind)) => Err(Error::new(kind)),
            Err(error) => Err(error),
        };
        told(watch, rejected)
    }

    /// Releases a run whose outcome cannot be stored. Returns the given error, or the error of the release if that
    /// fails.
    pub(crate) async fn release_for<T>(self, error: Error) -> Result<T, Error> {
        let Self { context, watch, _counted, .. } = self;
        let error = Box::pin(context.release()).instrument(watch.span()).await.err().unwrap_or(error);
        watch.failed(&error);
        Err(error)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn handler_span(&self) -> Span {
        self.watch.handler_span()
    }

    pub(crate) fn cut(&self) -> impl Future<Output = Kind> + Send + 'static {
        cut(self.context.lost(), self.deadline)
    }

    /// Undoes the writes and frees the key.
    ///
    /// # Errors
    /// [`Kind::TransactionEnded`] if the work ended the transaction itself: something may have been committed.
    pub async fn release(self) -> Result<(), Error> {
        let Self { context, mut watch, _counted, .. } = self;
        watch.released(context.stopped());
        let released = context.release().instrument(watch.span()).await;
        told(watch, released)
    }
}

/// Tells how a run has ended.
fn told<T>(watch: Watch, ended: Result<T, Error>) -> Result<T, Error> {
    match &ended {
        Ok(_) => watch.ended(None),
        Err(error) => watch.failed(error),
    }
    ended
}

impl<C: Context> Deref for Guard<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.context
    }
}

impl<C: Context> DerefMut for Guard<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.context
    }
}

impl<C: Context> fmt::Debug for Guard<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
