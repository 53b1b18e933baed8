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
//! # Rules
//! - It has no authentication of its own. **Put it behind the application's**: scopes are in it, and they may name people.
//! - It only reads. It has an [`Inspect`], which cannot change a record, and needs no protection against forged requests.
//! - It works without a script and with a keyboard. Its content security policy allows no script, no frame and nothing
//!   from elsewhere.
//! - A key that is looked up is sent in the body of a form and hashed here. It is in no address, no log and no answer.
//! - Everything is shown as text. Control characters, and those that turn the direction of text, are shown as escapes.
//! - No answer is kept in a cache.
//!
//! # Errors
//! A store that cannot be reached is a page with the status of its error.
//!
//! # Cancel safety
//! Safe: it only reads.
//!
//! # Limitations
//! - A page is as old as its answer. Load it again to see what has changed.
//! - The links are made of the path of the request: a proxy that cuts a prefix off breaks them.
//! - At most 10,000 records are looked at for a list, and 20,000 for the counts.

mod asked;
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
use crate::error::Error;
use crate::machine::{Retry, Stage};
use crate::operate::{Condition, Inspect, Query};
use crate::policy::LeaseTerms;

type Store = Arc<dyn Inspect>;

/// How many records a list shows.
const SHOWN: u32 = 50;

/// The routes of the console, over a store. See the [module](self).
pub fn router<S>(store: Arc<dyn Inspect>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/", get(overview))
        .route("/key", post(key))
        .route("/records", post(records))
        .route("/style.css", get(style))
        .layer(map_response(guarded))
        .with_state(store)
}

async fn overview(State(store): State<Store>, place: Place) -> Result<Response, Trouble> {
    let in_trouble = |error| Trouble::store(&place, error);
    let counts = store.counts().await.map_err(in_trouble)?;
    let backlog = store.backlog().await.map_err(in_trouble)?;
    let query = Query { conditions: Condition::STUCK.to_vec(), limit: SHOWN, ..Query::default() };
    let stuck = store.list(&query).await.map_err(in_trouble)?;
    Ok(page(&place, "Idempotency", &pages::overview(&place.0, &counts, &backlog, &query, &stuck)))
}

async fn key(
    State(store): State<Store>,
    place: Place,
    form: Result<Form<KeyForm>, FormRejection>,
) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, "The form was not complete."))?;
    let (identity, retry) = form.read().map_err(|words| Trouble::form(&place, words))?;
    let in_trouble = |error| Trouble::store(&place, error);
    let mut explained = store.explain(&identity, &retry).await.map_err(in_trouble)?;
    // Only a leased handler has left such a record.
    let is_leased = explained.record.is_some_and(|seen| matches!(seen.stage, Stage::Leased { .. }));
    let terms = retry.terms.or(is_leased.then_some(LeaseTerms::DEFAULT));
    if terms != retry.terms {
        explained = store.explain(&identity, &Retry { terms, ..retry }).await.map_err(in_trouble)?;
    }
    Ok(page(&place, "What a retry gets", &pages::explained(&place.0, &identity, &explained, terms)))
}

async fn records(
    State(store): State<Store>,
    place: Place,
    form: Result<Form<ListForm>, FormRejection>,
) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, "The form was not complete."))?;
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
    fn form(place: &Place, words: &str) -> Self {
        Self { place: place.0.clone(), status: StatusCode::BAD_REQUEST, words: words.to_owned() }
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
