//! One call of an annotated plain function, from its arguments to its result.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::guard::{Guard, Start, Stored, begin_within};
use crate::identity::{Identity, Key, Scope};
use crate::origin;
use crate::policy::Policy;
use crate::record::{Format, Outcome, Request};
use crate::store::Context;
use crate::value::{self, Value};

/// What the attribute's expressions said about one call.
#[derive(Debug)]
pub struct Named {
    /// Who owns the key.
    pub scope: Result<Scope, Error>,
    /// The key.
    pub key: Result<Option<Key>, Error>,
    /// What must be equal on a retry.
    pub fingerprint: Result<Fingerprint, Error>,
}

impl Named {
    fn request(self, policy: &Policy) -> Result<Request, Error> {
        // An absent key is no key, and never one that all callers share.
        let key = self.key?.ok_or_else(|| Error::new(Kind::KeyMissing))?;
        let identity = Identity { scope: self.scope?, operation: policy.operation, key };
        Ok(Request { identity, fingerprint: self.fingerprint?, ttl: policy.ttl })
    }
}

/// What a plain function returns: a result whose error can say that the call was refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say that the call was refused",
    label = "an idempotent function returns a `Result`",
    note = "write `Result<T, E>`, where `T` can be stored and `E` is `From<idem_core::Error>`",
    note = "an Axum handler whose key is an expression needs `axum` beside it: `axum, key = …`"
)]
pub trait Answer {
    /// What is stored.
    type Value: Serialize + DeserializeOwned;
    /// What a refusal becomes.
    type Error: From<Error>;

    /// The answer as what it is.
    fn into_result(self) -> Result<Self::Value, Self::Error>;

    /// And back.
    fn from_result(result: Result<Self::Value, Self::Error>) -> Self;
}

impl<T: Serialize + DeserializeOwned, E: From<Error>> Answer for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_result(self) -> Self {
        self
    }

    fn from_result(result: Self) -> Self {
        result
    }
}

/// Which errors are stored, and how.
pub trait Errors<E> {
    /// The error as it is stored, or `None` where it is not.
    fn outcome(&self, error: &E, limit: usize) -> Option<Result<Outcome, Error>>;

    /// A stored error.
    fn read(&self, stored: &Value) -> Result<E, Error>;
}

/// No error is stored.
#[derive(Debug)]
pub struct NoErrors;

impl<E> Errors<E> for NoErrors {
    fn outcome(&self, _: &E, _: usize) -> Option<Result<Outcome, Error>> {
        None
    }

    fn read(&self, _: &Value) -> Result<E, Error> {
        // By a release of the program whose function had `rejects`.
        Err(Error::new(Kind::RecordUnreadable))
    }
}

/// Errors for which this is true are stored: `rejects = is_final`.
#[derive(Debug)]
pub struct FinalErrors<F>(pub F);

impl<E: Serialize + DeserializeOwned, F: Fn(&E) -> bool> Errors<E> for FinalErrors<F> {
    fn outcome(&self, error: &E, limit: usize) -> Option<Result<Outcome, Error>> {
        (self.0)(error).then(|| value::outcome(Format::ERROR, error, limit))
    }

    fn read(&self, stored: &Value) -> Result<E, Error> {
        stored.read()
    }
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Entered<C: Context, R> {
    /// It runs the body with this.
    Run(Guard<C>),
    /// It is over.
    Over(R),
}

/// Claims the call, or answers it.
pub async fn enter<C: Context, R: Answer, K: Errors<R::Error>>(
    store: &C::Store,
    policy: &'static Policy,
    named: Named,
    errors: K,
) -> Entered<C, R> {
    let answer = match claim::<C>(store, policy, named).await {
        Ok(Start::Run(run)) => return Entered::Run(run),
        Ok(Start::Stored(stored)) => replay(&stored, &errors),
        Err(error) => Err(R::Error::from(error)),
    };
    Entered::Over(R::from_result(answer))
}

async fn claim<C: Context>(store: &C::Store, policy: &Policy, named: Named) -> Result<Start<C>, Error> {
    origin::note(false);
    let request = named.request(policy)?;
    begin_within(store, &request, policy.in_flight).await
}

fn replay<T: DeserializeOwned, E: From<Error>>(stored: &Stored, errors: &impl Errors<E>) -> Result<T, E> {
    let read = match stored {
        Stored::Completed(value) => value.read().map(Ok),
        Stored::Rejected(value) => errors.read(value).map(Err),
    };
    origin::note(read.is_ok());
    read.unwrap_or_else(|error| Err(E::from(error)))
}

/// Ends a run as its answer says.
pub async fn settle<C: Context, R: Answer, K: Errors<R::Error>>(run: Guard<C>, answer: R, errors: K) -> R {
    R::from_result(settled(run, answer.into_result(), errors).await)
}

async fn settled<C, T, E>(run: Guard<C>, result: Result<T, E>, errors: impl Errors<E>) -> Result<T, E>
where
    C: Context,
    T: Serialize + DeserializeOwned,
    E: From<Error>,
{
    // The body may have made calls of its own, which have noted theirs.
    origin::note(false);
    match result {
        Ok(value) => {
            let kept = run.complete(&value);
            kept.await?;
            Ok(value)
        }
        Err(error) => match errors.outcome(&error, run.limit()) {
            None => {
                run.release().await?;
                Err(error)
            }
            Some(outcome) => match run.reject_with(outcome).await? {
                None => Err(error),
                Some(stored) => replay(&stored, &errors),
            },
        },
    }
}
