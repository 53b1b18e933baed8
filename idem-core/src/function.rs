//! One call of an annotated plain function, from its arguments to its result.

use std::future::Future;

use tracing::{Instrument, Span};

use crate::begin::{Guard, Settled, Start, Stored, begin_within};
use crate::bounds::{Answer, Refusal, Storable};
use crate::cut::within;
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::first_sent::FirstSent;
use crate::identity::{Identity, Key};
use crate::observe;
use crate::observer::Watch;
use crate::policy::{OnFirstSent, Policy};
use crate::record::{Format, Outcome, Request};
use crate::resume;
use crate::store::{Context, Store};
use crate::value::{self, Written};

/// The values of the attribute's expressions for one call.
type Asked = crate::asked::Asked<Result<Option<Key>, Error>, Result<Fingerprint, Error>>;

/// An absent key is refused: callers without a key never share one.
fn request(asked: Asked, policy: &Policy) -> Result<Request, Error> {
    let key = asked.key?.ok_or_else(|| Error::new(Kind::KeyMissing))?;
    let first_sent = match policy.first_sent {
        OnFirstSent::Ignore => None,
        OnFirstSent::Refuse => FirstSent::of_key(&key),
    };
    let identity = Identity { scope: asked.scope?, operation: policy.operation, key };
    let request = Request::new(identity, asked.fingerprint?, policy.ttl)?.then(policy.then)?;
    let request = request.with_first_sent(first_sent);
    Ok(match asked.input.transpose()? {
        Some(input) => request.with_input(input),
        None => request,
    })
}

/// How answers are stored and read. The bounds on their types are in one place, so that the user gets one error.
pub struct Codec<R> {
    check: fn() -> Result<(), Error>,
    refuse: fn(Error) -> R,
    read: fn(&Stored) -> Result<R, Error>,
    value: Write<R>,
    error: Write<R>,
}

/// Writes an answer within a limit, or returns `None` if it is not stored.
type Write<R> = fn(&R, usize) -> Option<Result<Written<R>, Error>>;

/// The codec of a function that stores no errors.
pub fn codec<R: Answer>() -> Codec<R>
where
    R::Value: Storable,
    R::Error: Refusal,
{
    Codec {
        check: value::check::<R::Value>,
        refuse: |refusal| R::of(Err(refusal.into())),
        read: |stored| match stored {
            Stored::Completed(value) => Ok(R::of(Ok(value.read()?))),
            // The error was stored by a release of the program whose function had `rejects`.
            Stored::Rejected(_) => Err(Error::new(Kind::RecordUnreadable)),
        },
        value: |answer, limit| {
            let value = answer.as_result().ok()?;
            Some(value::write(Format::VALUE, value, limit).map(|written| written.map(|value| R::of(Ok(value)))))
        },
        error: |_, _| None,
    }
}

/// The codec of a function with `rejects`.
pub fn codec_with_errors<R: Answer>() -> Codec<R>
where
    R::Value: Storable,
    R::Error: Storable + Refusal,
{
    Codec {
        check: || value::check::<R::Value>().and_then(|()| value::check::<R::Error>()),
        read: |stored| match stored {
            Stored::Completed(value) => Ok(R::of(Ok(value.read()?))),
            Stored::Rejected(error) => Ok(R::of(Err(error.read()?))),
        },
        error: |answer, limit| {
            let error = answer.as_result().err()?;
            Some(value::write(Format::ERROR, error, limit).map(|written| written.map(|error| R::of(Err(error)))))
        },
        ..codec::<R>()
    }
}

/// [`codec`] for a function whose return type is written as `Result<T, E>`. rustc reports a missing bound at the type
/// that lacks it.
pub fn codec_of<T: Storable, E: Refusal>() -> Codec<Result<T, E>> {
    codec()
}

/// [`codec_with_errors`] for a function whose return type is written as `Result<T, E>`.
pub fn codec_with_errors_of<T: Storable, E: Storable + Refusal>() -> Codec<Result<T, E>> {
    codec_with_errors()
}

/// Whether `rejects = …` says that the answer is a final error.
pub fn is_final<R: Answer>(answer: &Result<R, Kind>, rejects: impl FnOnce(&R::Error) -> bool) -> bool {
    answer.as_ref().ok().and_then(|answer| answer.as_result().err()).is_some_and(rejects)
}

/// The result of entering a call.
pub enum Entered<C: Context, R> {
    /// The call runs its body with this guard.
    Run(Guard<C>),
    /// The call is over. This is its answer.
    Over(R),
}

/// Claims the call, or answers it.
pub async fn enter<C: Context, R>(
    store: &C::Store,
    policy: &'static Policy,
    asked: Asked,
    codec: &Codec<R>,
) -> Entered<C, R> {
    match claim::<C, R>(store, policy, asked, codec).await {
        Ok(Start::Run(run)) => Entered::Run(run),
        Ok(Start::Stored(stored)) => Entered::Over(codec.replay(&stored)),
        Err(refusal) => Entered::Over((codec.refuse)(refusal)),
    }
}

async fn claim<C: Context, R>(
    store: &C::Store,
    policy: &Policy,
    asked: Asked,
    codec: &Codec<R>,
) -> Result<Start<C>, Error> {
    observe::note(false);
    let request = asked_for(store, policy, asked, codec).inspect_err(|refused| {
        Watch::start(store, policy.operation).failed(refused);
    })?;
    let deadline = policy.deadline.unwrap_or_else(|| store.deadline());
    begin_within(store, &request, policy.in_flight, &policy.lease, deadline).await
}

/// The request of a call, or why the call is refused before it asks the store.
fn asked_for<R>(store: &impl Store, policy: &Policy, asked: Asked, codec: &Codec<R>) -> Result<Request, Error> {
    (codec.check)()?;
    let request = request(asked, policy)?;
    if request.input.as_ref().is_some_and(|input| input.0.len() > store.reply_limit()) {
        let words = "the input is over the store's limit for a reply; nothing was run";
        return Err(Error::new(Kind::ReplyFailed).because(words));
    }
    Ok(request)
}

/// Is ready when the run must end before its body has answered, and says why. Beside it is the span of the body.
pub fn cut<C: Context>(run: &Guard<C>) -> (impl Future<Output = Kind> + Send + 'static, Span) {
    (run.cut(), run.handler_span())
}

/// The body's answer, or why it was cut first. The body runs in its span.
pub fn answer<R>(
    (cut, span): (impl Future<Output = Kind>, Span),
    body: impl Future<Output = R>,
) -> impl Future<Output = Result<R, Kind>> {
    within(cut, body).instrument(span)
}

/// Ends a run as its answer says.
pub async fn settle<C: Context, R>(run: Guard<C>, answer: Result<R, Kind>, is_final: bool, codec: &Codec<R>) -> R {
    // The body may have made calls of its own, which have noted their replays.
    observe::note(false);
    // A body that was cut is never a final error, whatever `rejects` would say.
    let answer = match answer {
        Ok(answer) => answer,
        Err(kind) => {
            let released = run.release_for::<()>(Error::new(kind)).await;
            resume::note_end(kind);
            return (codec.refuse)(released.err().unwrap_or_else(|| Error::new(kind)));
        }
    };
    let limit = run.limit();
    // What ends a run is boxed: it is large, and would be a part of every handler's future.
    let settled = if run.is_rejected() {
        // The outcome of the rejection is recorded; this attempt's answer does not count.
        Box::pin(run.reject_with(Outcome::Oversized)).await.map(|stored| Settled::of(stored, answer))
    } else if let Some(written) = (codec.value)(&answer, limit) {
        match written {
            Ok(Written { outcome, read_back }) => {
                Box::pin(run.complete_with(outcome)).await.map(|()| Settled::Kept(read_back))
            }
            Err(error) => run.release_for(error).await,
        }
    } else if is_final && let Some(written) = (codec.error)(&answer, limit) {
        match written {
            Ok(Written { outcome, read_back }) => {
                Box::pin(run.reject_with(outcome)).await.map(|stored| Settled::of(stored, read_back))
            }
            Err(error) => run.release_for(error).await,
        }
    } else {
        Box::pin(run.release()).await.map(|()| Settled::Kept(answer))
    };
    match settled {
        Ok(Settled::Kept(answer)) => answer,
        // The stored outcome of another run or of an earlier attempt counts.
        Ok(Settled::Stored(stored)) => codec.replay(&stored),
        Err(error) => {
            resume::note_end(error.kind());
            (codec.refuse)(error)
        }
    }
}

impl<R> Codec<R> {
    fn replay(&self, stored: &Stored) -> R {
        let read = (self.read)(stored);
        observe::note(read.is_ok());
        read.unwrap_or_else(self.refuse)
    }
}
