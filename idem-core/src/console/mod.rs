//! A page for operators: how many records there are, what is stuck and why, and what a retry would get.
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::Router;
//! use idem_core::console;
//! use idem_core::operate::Inspect;
//! # async fn only_operators(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
//! #     next.run(request).await
//! # }
//!
//! fn app(store: Arc<dyn Inspect>) -> Router {
//!     let console = console::router(store).layer(axum::middleware::from_fn(only_operators));
//!     Router::new().nest("/operators/idempotency", console)
//! }
//! ```
//!
//! ![The overview: what is stuck, and how many records there are](https://raw.githubusercontent.com/idem-rs/idem/HEAD/idem-core/docs/console.png)
//!
//! # Rules
//! - It has no authentication of its own. **Put it behind the application's**: scopes are in it, and they may name people.
//! - [`router`] only reads. It has an [`Inspect`], which cannot change a record, and needs no protection against forged
//!   requests.
//! - [`router_with_changes`] also resets the attempts of a run, gives a run up, and forgets a scope. A page asks first, and
//!   for a scope it shows the numbers. Only a form of the same origin is accepted: the browser says so in
//!   `Sec-Fetch-Site`, or by an `Origin` with the host that was asked. A request with neither is refused (403).
//! - Who has made a change is the application's matter: [`Changed`] is in the extensions of the answer, for a layer that
//!   writes a log. The reason of `give_up` is kept with the record, so write a name into it, too.
//! - It works without a script and with a keyboard. Its content security policy allows no script, no frame and nothing
//!   from elsewhere.
//! - A key that is looked up is sent in the body of a form and hashed here. It is in no address, no log and no answer.
//! - Everything is shown as text. Control characters, and those that turn the direction of text, are shown as escapes.
//! - No answer is kept in a cache.
//!
//! # Errors
//! A store that cannot be reached is a page with the status of its error. A change that was not made is a page with 409.
//!
//! # Cancel safety
//! Safe: pages only read, and a change is that of [`Operate`].
//!
//! # Limitations
//! - A page is as old as its answer. Load it again to see what has changed. A run that is given up may have had another
//!   attempt since its page was shown, and the steps of that attempt are gone with it.
//! - A change that was made in part, or whose COMMIT got no answer, is an error page without [`Changed`].
//! - The forms have no token: the console has no session that could hold one. Where an operator is told by a cookie, let
//!   the application set it `SameSite=Strict`. Serve it by its own name over TLS: where nothing is encrypted, browsers send
//!   no `Sec-Fetch-Site`, and a proxy that changes `Host` makes an `Origin` look like another's.
//! - It answers under every name. Where only a place in the network tells an operator, let the application refuse a `Host`
//!   that it does not know: another site could have its own name lead to this address.
//! - The links are made of the path of the request: a proxy that cuts a prefix off breaks them.
//! - At most 10,000 records are looked at for a list, and 20,000 for the counts.

mod asked;
mod changes;
mod confirm;
mod own_page;
mod pages;
mod shown;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, OriginalUri, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use maud::Markup;

use self::asked::{KeyForm, ListForm};
pub use self::changes::Changed;
use self::pages::Overview;
use crate::error::Error;
use crate::machine::{Retry, Stage};
use crate::operate::{Condition, Inspect, Operate, Query};
use crate::policy::LeaseTerms;

/// How many records a list shows.
const SHOWN: u32 = 50;

/// The store, as the pages see it that only read.
#[derive(Clone)]
struct Shown {
    store: Arc<dyn Inspect>,
    /// Whether the pages have forms that lead to changes.
    offers_changes: bool,
}

/// The routes of the console, over a store. None of them changes a record. See the [module](self).
pub fn router<S>(store: Arc<dyn Inspect>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    reading(Shown { store, offers_changes: false }).layer(map_response(guarded))
}

/// The routes of the console with those by which an operator changes records. See the [module](self).
///
/// ```
/// use std::sync::Arc;
///
/// use axum::Router;
/// use idem_core::console;
/// use idem_core::operate::Operate;
/// # async fn only_administrators(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
/// #     next.run(request).await
/// # }
///
/// fn app(store: Arc<dyn Operate>) -> Router {
///     let console = console::router_with_changes(store).layer(axum::middleware::from_fn(only_administrators));
///     Router::new().nest("/administrators/idempotency", console)
/// }
/// ```
pub fn router_with_changes<S>(store: Arc<dyn Operate>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let shown = Shown { store: Arc::<dyn Operate>::clone(&store), offers_changes: true };
    reading(shown).merge(changes::router(store)).layer(map_response(guarded))
}

fn reading<S>(shown: Shown) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/", get(overview))
        .route("/key", post(key))
        .route("/records", post(records))
        .route("/style.css", get(style))
        .with_state(shown)
}

const INCOMPLETE: &str = "The form was not complete.";

async fn overview(State(Shown { store, offers_changes }): State<Shown>, place: Place) -> Result<Response, Trouble> {
    let in_trouble = |error| Trouble::store(&place, error);
    let counts = &store.counts().await.map_err(in_trouble)?;
    let backlog = &store.backlog().await.map_err(in_trouble)?;
    let query = &Query { conditions: Condition::STUCK.to_vec(), limit: SHOWN, ..Query::default() };
    let stuck = &store.list(query).await.map_err(in_trouble)?;
    let overview = Overview { counts, backlog, query, stuck, offers_changes };
    Ok(page(&place, "Idempotency", &pages::overview(&place.0, overview)))
}

async fn key(
    State(Shown { store, offers_changes }): State<Shown>,
    place: Place,
    form: Result<Form<KeyForm>, FormRejection>,
) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let (identity, retry) = form.read().map_err(|words| Trouble::form(&place, words))?;
    let in_trouble = |error| Trouble::store(&place, error);
    let mut explained = store.explain(&identity, &retry).await.map_err(in_trouble)?;
    // Only a leased handler has left such a record.
    let is_leased = explained.record.is_some_and(|seen| matches!(seen.stage, Stage::Leased { .. }));
    let terms = retry.terms.or(is_leased.then_some(LeaseTerms::DEFAULT));
    if terms != retry.terms {
        explained = store.explain(&identity, &Retry { terms, ..retry }).await.map_err(in_trouble)?;
    }
    let content = pages::explained(&place.0, &identity, &explained, terms, offers_changes);
    Ok(page(&place, "What a retry gets", &content))
}

async fn records(
    State(Shown { store, .. }): State<Shown>,
    place: Place,
    form: Result<Form<ListForm>, FormRejection>,
) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let query = form.read(SHOWN).map_err(|words| Trouble::form(&place, words))?;
    let listed = store.list(&query).await.map_err(|error| Trouble::store(&place, error))?;
    Ok(page(&place, "Records", &pages::listed(&place.0, &query, &listed)))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}

fn page(place: &Place, title: &str, content: &Markup) -> Response {
    pages::whole(&place.0, title, content).into_string().into_html()
}

/// What stands before the console's own routes in the path: where the application has nested it.
struct Place(String);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Place {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Result<Self, Self::Rejection> {
        let OriginalUri(whole) = OriginalUri::from_request_parts(parts, state).await?;
        Ok(Self(before(&whole, &parts.uri).to_owned()))
    }
}

fn before<'w>(whole: &'w Uri, own: &Uri) -> &'w str {
    let own = own.path().trim_start_matches('/');
    let whole = whole.path();
    whole.strip_suffix(own).unwrap_or(whole).trim_end_matches('/')
}

/// A page that says what went wrong.
struct Trouble {
    place: String,
    status: StatusCode,
    words: String,
}

impl Trouble {
    fn new(place: &Place, status: StatusCode, words: &str) -> Self {
        Self { place: place.0.clone(), status, words: words.to_owned() }
    }

    fn form(place: &Place, words: &str) -> Self {
        Self::new(place, StatusCode::BAD_REQUEST, words)
    }

    fn store(place: &Place, error: Error) -> Self {
        let words = format!("{}: {error}", error.code());
        // It is logged as every refusal is.
        Self { place: place.0.clone(), status: error.into_response().status(), words }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let content = pages::trouble(&self.place, &self.words);
        (self.status, pages::whole(&self.place, "Not answered", &content).into_string().into_html()).into_response()
    }
}

trait IntoHtml {
    fn into_html(self) -> Response;
}

impl IntoHtml for String {
    fn into_html(self) -> Response {
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], self).into_response()
    }
}

/// The headers of every answer, refusals and unknown paths included.
async fn guarded(mut response: Response) -> Response {
    // `same-origin`, and not `no-referrer`: with that a browser sends forms with `Origin: null`, which an application's
    // own check of the origin would refuse.
    const HEADERS: [(HeaderName, &str); 6] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
