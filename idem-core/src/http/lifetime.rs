//! The layer that tells clients how long their key is kept, and whether anything looks at it.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method};
use tower_layer::Layer;
use tower_service::Service;

use crate::policy::Retention;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LIFETIME: HeaderName = HeaderName::from_static("idempotency-key-lifetime");
const STATUS: HeaderName = HeaderName::from_static("idempotency-status");

/// A layer that announces how long records are replayed, and finds the routes that ignore a key.
///
/// ```
/// use axum::{Router, routing::post};
/// use idem_core::http::Lifetime;
///
/// async fn unprotected() {}
///
/// let lifetime = Lifetime::default();
/// let app: Router = Router::new().route("/transfers", post(unprotected)).layer(lifetime.clone());
/// assert_eq!(lifetime.ignored(), 0);
/// ```
///
/// # Rules
/// - An answer to a request with a key gets `Idempotency-Key-Lifetime` from its annotated handler: the handler's `ttl`, in
///   seconds. Refusals get it, too. Layers around this one read the same, and how long retries are refused after that,
///   from the answer's extensions, as a [`Retention`].
/// - An answer to a request with an `Idempotency-Key` that has reached no annotated handler gets
///   `Idempotency-Status: ignored`. It is [counted](Self::ignored), and the first of each route is logged at `warn`.
/// - An answer with a status from 400 to 499 is not counted: the request may have been refused before its handler. So
///   are the requests that need no protection: `GET`, `HEAD`, `OPTIONS` and `TRACE`.
/// - Put it around all routes, with [`Router::layer`](axum::Router::layer). All its clones count together.
///
/// # Limitations
/// - A handler whose key comes from another header, or from an expression, announces its `ttl` like any other. A key that
///   a client sends for nothing is only found in `Idempotency-Key`.
/// - A route is known by its pattern, such as `/orders/{id}`. Requests outside of all patterns are logged as one route.
#[derive(Clone, Default)]
pub struct Lifetime(Arc<Seen>);

#[derive(Default)]
struct Seen {
    ignored: AtomicU64,
    /// The patterns that were logged. A router has a limited number of them.
    logged: Mutex<HashSet<String>>,
}

impl Lifetime {
    /// How many requests with a key have reached no annotated handler.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.0.ignored.load(Ordering::Relaxed)
    }

    fn note_ignored(&self, route: Option<&MatchedPath>) {
        self.0.ignored.fetch_add(1, Ordering::Relaxed);
        let route = route.map_or("", MatchedPath::as_str);
        let mut logged = self.0.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.contains(route) {
            logged.insert(route.to_owned());
            drop(logged);
            tracing::warn!(target: "idem", route, "a request with an idempotency key reached a handler that ignores it");
        }
    }
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifetime").field("ignored", &self.ignored()).finish_non_exhaustive()
    }
}

/// Where an annotated handler says how long its records are replayed.
///
/// It is an extension of the request, so middleware that rebuilds the response does not lose it.
#[derive(Clone, Default)]
pub(crate) struct Announced(Arc<OnceLock<Retention>>);

impl Announced {
    pub(crate) fn announce(&self, retention: Retention) {
        // A handler may call another one. The client's key is the first one's.
        _ = self.0.set(retention);
    }
}

impl<S> Layer<S> for Lifetime {
    type Service = Announcing<S>;

    fn layer(&self, inner: S) -> Announcing<S> {
        Announcing { inner, lifetime: self.clone() }
    }
}

/// The service of [`Lifetime`].
#[derive(Debug, Clone)]
pub struct Announcing<S> {
    inner: S,
    lifetime: Lifetime,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Announcing<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Answer<S::Future> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let has_key = request.headers().contains_key(KEY) && !is_safe;
        let route = if has_key { request.extensions().get::<MatchedPath>().cloned() } else { None };
        let announced = Announced::default();
        request.extensions_mut().insert(announced.clone());
        let answering = Box::pin(self.inner.call(request));
        Answer { answering, announced, lifetime: self.lifetime.clone(), has_key, route }
    }
}

/// The answer of a request, until it is there.
pub struct Answer<F> {
    /// Boxed, so that it can be polled without `unsafe`.
    answering: Pin<Box<F>>,
    announced: Announced,
    lifetime: Lifetime,
    has_key: bool,
    route: Option<MatchedPath>,
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match ready!(self.answering.as_mut().poll(context)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(retention) = self.announced.0.get() {
            response.headers_mut().insert(LIFETIME, HeaderValue::from(retention.replayed.as_secs()));
            response.extensions_mut().insert(*retention);
        } else if self.has_key && !response.status().is_client_error() {
            response.headers_mut().insert(STATUS, HeaderValue::from_static("ignored"));
            self.lifetime.note_ignored(self.route.as_ref());
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for Answer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::routing::{get, post};
    use axum::{Router, middleware};
    use http::StatusCode;
    use tower::ServiceExt;

    use super::*;
    use crate::asked::Asked;
    use crate::http::asked::{AskedFingerprint, AskedKey};
    use crate::http::extract::Recorded;
    use crate::identity::{Operation, Scope};
    use crate::memory::{MemoryStore, MemoryTx};
    use crate::policy::{InFlight, LeaseTerms, MissingKey, OnFirstSent, Policy, Then};

    static POLICY: Policy = Policy {
        operation: Operation::new("lifetime"),
        ttl: Duration::from_secs(7200),
        then: Then::Refuse(Duration::from_secs(60)),
        first_sent: OnFirstSent::Ignore,
        in_flight: InFlight::Conflict,
        missing_key: MissingKey::Run,
        deadline: None,
        lease: LeaseTerms::DEFAULT,
    };

    /// As the attribute expands a handler.
    async fn annotated(last: Recorded<MemoryTx<u32>, ()>) -> Response {
        let (call, ()) = last.into_parts();
        let asked = Asked {
            scope: Ok(Scope::global()),
            key: AskedKey::Header("idempotency-key"),
            fingerprint: AskedFingerprint::Request,
            input: None,
        };
        call.serve(&POLICY, Ok(asked), |tx| {
            Box::pin(async move {
                **tx += 1;
                Response::default()
            })
        })
        .await
    }

    async fn rebuilt(response: Response) -> Response {
        Response::new(response.into_body())
    }

    fn app(lifetime: &Lifetime) -> Router {
        Router::new()
            .route("/annotated", post(annotated).get(annotated))
            .route("/rebuilt", post(annotated).layer(middleware::map_response(rebuilt)))
            .route("/bare/{id}", post(async || "").get(async || ""))
            .route("/refusing", post(async || StatusCode::UNAUTHORIZED))
            .route("/failing", get(async || "").post(async || StatusCode::BAD_GATEWAY))
            .layer(lifetime.clone())
            .with_state(MemoryStore::new(0_u32))
    }

    /// The two headers of the answer.
    async fn said(app: &Router, method: Method, path: &str, key: Option<&str>) -> (Option<String>, Option<String>) {
        let mut request = Request::new(Body::empty());
        (*request.method_mut(), *request.uri_mut()) = (method, path.parse().expect("a path"));
        if let Some(key) = key {
            request.headers_mut().insert(KEY, key.parse().expect("a header"));
        }
        let response = app.clone().oneshot(request).await.expect("an answer");
        let header = |name| response.headers().get(name).map(|value| value.to_str().expect("a text").to_owned());
        let retention = header(LIFETIME).map(|_| Retention::new(POLICY.ttl, POLICY.then));
        assert_eq!(response.extensions().get().copied(), retention);
        (header(LIFETIME), header(STATUS))
    }

    #[tokio::test]
    async fn r36_an_annotated_handler_says_how_long_its_key_is_kept() {
        let lifetime = Lifetime::default();
        let app = app(&lifetime);
        let seconds = (Some("7200".to_owned()), None);
        // The run, the replay, and the refusal of another request.
        assert_eq!(said(&app, Method::POST, "/annotated", Some("k")).await, seconds);
        assert_eq!(said(&app, Method::POST, "/annotated", Some("k")).await, seconds);
        assert_eq!(said(&app, Method::POST, "/annotated?other", Some("k")).await, seconds);
        assert_eq!(said(&app, Method::POST, "/rebuilt", Some("r")).await, seconds);
        // Nothing is recorded of these.
        assert_eq!(said(&app, Method::POST, "/annotated", None).await, (None, None));
        assert_eq!(said(&app, Method::GET, "/annotated", Some("g")).await, (None, None));
        assert_eq!(said(&app, Method::POST, "/annotated", Some("two words")).await, (None, None));
        assert_eq!(lifetime.ignored(), 0);
    }

    #[tokio::test]
    async fn r36_a_key_that_nobody_looks_at_is_said_to_be_ignored_and_counted() {
        let lifetime = Lifetime::default();
        let app = app(&lifetime);
        let ignored = (None, Some("ignored".to_owned()));
        for id in 0..3 {
            assert_eq!(said(&app, Method::POST, &format!("/bare/{id}"), Some("k")).await, ignored);
        }
        assert_eq!(said(&app, Method::POST, "/failing", Some("k")).await, ignored, "it may have had an effect");
        for (method, path, key) in [
            (Method::POST, "/bare/1", None),
            (Method::GET, "/bare/1", Some("k")),
            (Method::POST, "/refusing", Some("k")),
            (Method::POST, "/nowhere", Some("k")),
        ] {
            assert_eq!(said(&app, method, path, key).await, (None, None), "{path}");
        }
        assert_eq!(lifetime.ignored(), 4);
        // One line for each pattern, and not for each request.
        let logged = lifetime.0.logged.lock().expect("no panic").clone();
        assert_eq!(logged, HashSet::from(["/bare/{id}".to_owned(), "/failing".to_owned()]));
    }
}
