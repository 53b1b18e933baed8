//! One request of an annotated handler, from its key to its response.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use tracing::Instrument;

use crate::catch::{catch, catch_now};
use crate::claim;
use crate::cut::{cut, within};
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::first_sent::FirstSent;
use crate::http::asked::{AskedFingerprint, AskedKey};
use crate::http::content::Content;
use crate::http::detach::DetachOnDrop;
use crate::http::extract::Call;
use crate::http::{Refusal, attempt, first_sent, key, problem, reply};
use crate::identity::Identity;
use crate::observer::{TraceParent, Watch};
use crate::policy::{InFlight, Intent, MissingKey, OnFirstSent, Policy, Retention};
use crate::record::{Outcome, Request};
use crate::store::{Claimed, Context, Rejected, Store};

/// The values of the attribute's expressions for one request.
type Asked = crate::asked::Asked<AskedKey, AskedFingerprint>;

/// The user's handler, waiting for its context.
type Body<C> = Box<dyn for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Response> + Send>;

impl<C: Context> Call<C> {
    /// Runs an annotated handler: the attribute generates only a call to this function.
    ///
    /// Dropping this future before the claim ends the request. After the claim, when the client hangs up or a timeout
    /// drops this future, the run continues in a task of its own (rule 12).
    pub fn serve(
        self,
        policy: &'static Policy,
        asked: Result<Asked, Error>,
        body: impl for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Response> + Send + 'static,
    ) -> impl Future<Output = Response> + Send {
        // Boxed, so that the rest is compiled once for all handlers of a context.
        let body: Body<C> = Box::new(body);
        let store = self.store.clone();
        let traced = traceparent(&self.headers);
        // Before the first await, so that the future need not hold the request's headers and body.
        let request = catch_now(|| self.into_request(policy, asked)).unwrap_or_else(|panic| Err(bug(panic)));
        // Boxed where it is made: Axum moves the future of a handler several times, and this one is large.
        let mut watch = Watch::start(&store, policy.operation);
        watch.trace(traced);
        Box::pin(serve(store, request, policy, body, watch))
    }

    /// The request to claim, or `None` if nothing is to be recorded.
    ///
    /// Consumes the call, so that a request that waits for another one does not hold its body.
    fn into_request(self, policy: &Policy, asked: Result<Asked, Error>) -> Result<Option<Unclaimed>, Error> {
        let asked = asked?;
        // Rule 9: a request that changes nothing needs no record. A key by expression is the developer's word that
        // there is something to protect.
        let is_safe = matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if is_safe && matches!(asked.key, AskedKey::Header(_)) {
            return Ok(None);
        }
        let key = match asked.key {
            AskedKey::Header(name) => key::from_headers(&self.headers, &HeaderName::from_static(name))?,
            AskedKey::Value(key) => key?,
        };
        let Some(key) = key else {
            return match policy.missing_key {
                MissingKey::Reject => Err(Error::new(Kind::KeyMissing)),
                MissingKey::Run => Ok(None),
            };
        };
        if let Some(announced) = self.announced {
            announced.announce(Retention::new(policy.ttl, policy.then));
        }
        let first_sent = match policy.first_sent {
            OnFirstSent::Ignore => None,
            OnFirstSent::Refuse => first_sent(&self.headers, &key)?,
        };
        let identity = Identity { scope: asked.scope?, operation: policy.operation, key };
        // HEAD asks for what GET asks for, and Axum takes the body off its response. So a link that a mail scanner has
        // checked with HEAD still opens.
        let method = if self.method == Method::HEAD { Method::GET } else { self.method };
        let (path, query) = (self.uri.path(), self.uri.query());
        // A request with another path never gets the stored reply, whatever fingerprint the handler has chosen (rule
        // 8).
        let compared = match asked.fingerprint {
            AskedFingerprint::Request => {
                let content_type = self.headers.get(header::CONTENT_TYPE).cloned();
                let content = Content { method, uri: self.uri, content_type, body: self.body };
                content.digest_at_once().map_or_else(|| Compared::Content(content), Compared::Digested)
            }
            AskedFingerprint::Value(chosen) => {
                Compared::Digested(Fingerprint::of_request_with(method.as_str(), path, query, &chosen?))
            }
            AskedFingerprint::None => Compared::Digested(Fingerprint::of_path(path)),
        };
        let is_retry = attempt::is_retry(&self.headers);
        Ok(Some(Unclaimed { identity, compared, first_sent, is_retry }))
    }
}

/// The trace that the request is part of. Of several headers none counts.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    TraceParent::parse(first.to_str().ok()?)
}

/// A request whose content may still have to be digested.
struct Unclaimed {
    identity: Identity,
    compared: Compared,
    first_sent: Option<FirstSent>,
    is_retry: bool,
}

/// What is compared with a retry.
enum Compared {
    /// A content that takes long to digest.
    Content(Content),
    Digested(Fingerprint),
}

async fn serve<C: Context>(
    store: C::Store,
    request: Result<Option<Unclaimed>, Error>,
    policy: &'static Policy,
    body: Body<C>,
    mut watch: Watch,
) -> Response {
    let counted = store.runs().enter();
    let request = match request {
        Ok(Some(Unclaimed { identity, compared, first_sent, is_retry })) => {
            let fingerprint = match compared {
                Compared::Digested(fingerprint) => Ok(fingerprint),
                // Boxed: the future of every request should not reserve space for its content.
                Compared::Content(content) => catch(Box::pin(content.digest())).await.flatten(),
            };
            let request = fingerprint.and_then(|fingerprint| Request::new(identity, fingerprint, policy.ttl));
            match request.and_then(|request| request.then(policy.then)) {
                Ok(request) => request.with_first_sent(first_sent).with_retry(is_retry),
                Err(error) => return refuse(policy, watch, error),
            }
        }
        Ok(None) => {
            let run = catch(Box::pin(async move {
                let _counted = counted;
                let ended = run_unrecorded(&store, policy, body, &mut watch).await;
                tell(watch, &ended);
                ended
            }));
            // Nothing is claimed. One transaction is rolled back if its client is gone. Finished steps would stay
            // without the rest of the request, and no retry could resume them: they continue in a task.
            let ended = if C::IS_ONE_TRANSACTION { run.await } else { DetachOnDrop::new(run.in_current_span()).await };
            return respond(policy, ended.unwrap_or_else(|panic| Err(bug(panic))));
        }
        Err(error) => return refuse(policy, watch, error),
    };
    let claimed = {
        let claiming = pin!(claim::claim::<C>(&store, &request, policy.in_flight, &policy.lease, Intent::Run));
        catch(claiming.instrument(watch.span())).await
    };
    match watch.answered(claimed.unwrap_or_else(|panic| Err(bug(panic)))) {
        // No await comes between the claim and the task that outlives this future.
        Ok(Claimed::Run(context)) => {
            let run = catch(Box::pin(async move {
                let _counted = counted;
                watch.claimed(context.attempt(), true);
                let ended = run_recorded(context, &store, policy, body, &mut watch).await;
                tell(watch, &ended);
                respond(policy, ended)
            }));
            let response = DetachOnDrop::new(run.in_current_span()).await;
            response.unwrap_or_else(|panic| respond(policy, Err(bug(panic))))
        }
        Ok(Claimed::Replay(stored, age)) => {
            watch.size(&stored);
            watch.first_trace(reply::first_trace(&stored));
            match reply::replay(stored) {
                Ok(response) => {
                    watch.replayed(age);
                    response
                }
                Err(error) => refuse(policy, watch, error),
            }
        }
        Ok(Claimed::Refuse(kind)) => refuse(policy, watch, Error::new(kind)),
        Ok(Claimed::TooSoon(rest)) => refuse(policy, watch, Error::too_soon(rest)),
        Err(error) => refuse(policy, watch, error),
    }
}

/// Answers a request whose handler does not run.
fn refuse(policy: &Policy, watch: Watch, error: Error) -> Response {
    let span = watch.span();
    watch.failed(&error);
    span.in_scope(|| respond(policy, Err(error)))
}

/// Tells how a run has ended. The handler may have answered with an error of the library.
fn tell(watch: Watch, ended: &Result<Response, Error>) {
    match ended {
        Ok(response) => watch.ended(response.extensions().get().map(Refusal::kind)),
        Err(error) => watch.failed(error),
    }
}

/// A panic of this library. The handler's own panic is caught earlier.
fn bug(panic: Error) -> Error {
    Error::new(Kind::OutcomeUnknown).caused_by(panic)
}

fn respond(policy: &Policy, ended: Result<Response, Error>) -> Response {
    match ended {
        Ok(response) => response,
        Err(error) if error.kind() == Kind::KeyInFlight && policy.in_flight == InFlight::Accepted => {
            Refusal::new(&error).accepted().into_response()
        }
        Err(error) => problem::respond(&error),
    }
}

async fn run_recorded<C: Context>(
    mut context: C,
    store: &C::Store,
    policy: &Policy,
    body: Body<C>,
    watch: &mut Watch,
) -> Result<Response, Error> {
    let deadline = deadline(store, policy);
    context.set_deadline(deadline);
    let mut cut = pin!(cut(context.lost(), deadline));
    let ended = within(&mut cut, catch(body(&mut context).instrument(watch.handler_span()))).await;
    let mut response = match ended.unwrap_or_else(|kind| Err(Error::new(kind))) {
        Ok(response) => response,
        Err(failed) => {
            release(context, watch).await?;
            return Err(failed);
        }
    };
    let disposition = disposition(&mut response);
    if context.is_rejected() {
        // The outcome of the rejection is recorded; this attempt's response does not count.
        watch.ran(Disposition::Reject, None);
        return reject(context, &Outcome::Oversized, response, watch).await;
    }
    if disposition == Disposition::Release {
        watch.released(context.stopped());
        release(context, watch).await?;
        return Ok(response);
    }
    // The body may be a stream of the handler's: an error or a panic in it releases the run, too.
    let captured = within(cut, catch(reply::capture(response, watch.traceparent(), store.reply_limit()))).await;
    let (outcome, response) = match captured.unwrap_or_else(|kind| Err(Error::new(kind))).flatten() {
        Ok(captured) => captured,
        Err(error) => {
            release(context, watch).await?;
            return Err(error);
        }
    };
    watch.ran(disposition, Some(&outcome));
    if disposition == Disposition::Commit {
        // Pinned where it is made: it is large, and the span is around it.
        pin!(context.complete(&outcome)).instrument(watch.span()).await?;
        return Ok(response);
    }
    reject(context, &outcome, response, watch).await
}

/// Boxed, like [`reject`]: the future of a usual run does not grow by it.
fn release<C: Context>(context: C, watch: &Watch) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(context.release().instrument(watch.span()))
}

async fn reject<C: Context>(
    context: C,
    outcome: &Outcome,
    response: Response,
    watch: &Watch,
) -> Result<Response, Error> {
    // Boxed: otherwise the future of every run would reserve space for it.
    match Box::pin(context.reject(outcome).instrument(watch.span())).await? {
        Rejected::Stored => Ok(response),
        Rejected::Replay(stored) => reply::replay(stored),
        Rejected::Refuse(kind) => Err(Error::new(kind)),
    }
}

async fn run_unrecorded<C: Context>(
    store: &C::Store,
    policy: &Policy,
    body: Body<C>,
    watch: &mut Watch,
) -> Result<Response, Error> {
    let mut context = C::begin_unrecorded(store).instrument(watch.span()).await?;
    watch.claimed(1, false);
    let deadline = deadline(store, policy);
    context.set_deadline(deadline);
    let cut = cut(context.lost(), deadline);
    let ended = within(cut, catch(body(&mut context).instrument(watch.handler_span()))).await;
    match ended.unwrap_or_else(|kind| Err(Error::new(kind))) {
        Ok(mut response) => {
            let disposition = disposition(&mut response);
            watch.ran(disposition, None);
            context.finish_unrecorded(disposition).instrument(watch.span()).await?;
            Ok(response)
        }
        Err(failed) => {
            context.finish_unrecorded(Disposition::Release).instrument(watch.span()).await?;
            Err(failed)
        }
    }
}

/// How long the run may take.
fn deadline(store: &impl Store, policy: &Policy) -> Duration {
    policy.deadline.unwrap_or_else(|| store.deadline())
}

/// The disposition that the handler set, or else the one that follows from the status (rule 14). The response is ours
/// afterwards.
fn disposition(response: &mut Response) -> Disposition {
    reply::own(response).unwrap_or_else(|| {
        if response.status() < StatusCode::BAD_REQUEST { Disposition::Commit } else { Disposition::Release }
    })
}

impl IntoResponseParts for Disposition {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Self::Error> {
        response.extensions_mut().insert(self);
        Ok(response)
    }
}

impl IntoResponse for Disposition {
    /// An empty response with this disposition: `(StatusCode::PAYMENT_REQUIRED, Disposition::Reject)` needs no body.
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}
