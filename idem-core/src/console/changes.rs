//! What an operator changes on the console. Each change has a page that asks first and changes nothing.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router, middleware};
use http::StatusCode;

use super::asked::{PlaceForm, ScopeForm};
use super::confirm::{self, What};
use super::{INCOMPLETE, Place, Trouble, own_page, page, shown};
use crate::identity::Identity;
use crate::machine::Retry;
use crate::operate::{Change, Cursor, Forgotten, Operate, Reason};
use crate::policy::LeaseTerms;
use crate::redacted::Redacted;

type Store = Arc<dyn Operate>;

/// A change that the console has made. It is in the extensions of the answer, for the application's log of changes: the
/// application knows who has asked.
///
/// ```
/// use axum::extract::Request;
/// use axum::middleware::Next;
/// use axum::response::Response;
/// use idem_core::console::Changed;
///
/// async fn logged(request: Request, next: Next) -> Response {
///     let operator = "ada"; // the application's authentication says who asks
///     let answer = next.run(request).await;
///     if let Some(changed) = answer.extensions().get::<Changed>() {
///         println!("{operator} has changed {changed:?}");
///     }
///     answer
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// [`reset_attempts`](Operate::reset_attempts) of the run at this place.
    Reset(Cursor),
    /// [`give_up`](Operate::give_up) of the run at this place, for this reason.
    GivenUp(Cursor, Reason),
    /// [`forget`](Operate::forget) of this scope, as it is stored. It is personal data if it names a person.
    Forgotten(String, Forgotten),
}

/// Without the scope, which may name a person.
impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(at) => f.debug_tuple("Reset").field(at).finish(),
            Self::GivenUp(at, reason) => f.debug_tuple("GivenUp").field(at).field(reason).finish(),
            Self::Forgotten(scope, numbers) => {
                f.debug_tuple("Forgotten").field(&Redacted(scope.len())).field(numbers).finish()
            }
        }
    }
}

/// The routes that change a record, and those that ask first.
pub(super) fn router<S>(store: Store) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/reset", post(ask_to_reset))
        .route("/reset/confirmed", post(reset))
        .route("/give-up", post(ask_to_give_up))
        .route("/give-up/confirmed", post(give_up))
        .route("/forget", post(ask_to_forget))
        .route("/forget/confirmed", post(forget))
        .route_layer(middleware::from_fn(own_page::required))
        .with_state(store)
}

type Posted<F> = Result<Form<F>, FormRejection>;

async fn ask_to_reset(state: State<Store>, place: Place, form: Posted<PlaceForm>) -> Result<Response, Trouble> {
    ask(state, place, form, What::Reset).await
}

async fn ask_to_give_up(state: State<Store>, place: Place, form: Posted<PlaceForm>) -> Result<Response, Trouble> {
    ask(state, place, form, What::GiveUp).await
}

async fn ask(
    State(store): State<Store>,
    place: Place,
    form: Posted<PlaceForm>,
    what: What,
) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let identity = form.identity().map_err(|words| Trouble::form(&place, words))?;
    let retry = Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() };
    let explained = store.explain(&identity, &retry).await.map_err(|error| Trouble::store(&place, error))?;
    if !confirm::may_be_changed(&explained) {
        return Err(Trouble::new(&place, StatusCode::CONFLICT, NO_RUN));
    }
    Ok(page(&place, what.title(), &confirm::of_run(&place.0, what, &identity, &explained)))
}

async fn reset(State(store): State<Store>, place: Place, form: Posted<PlaceForm>) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let identity = form.identity().map_err(|words| Trouble::form(&place, words))?;
    let change = store.reset_attempts(&identity).await.map_err(|error| Trouble::store(&place, error))?;
    made(&place, What::Reset, &identity, change, Changed::Reset(Cursor::of(&identity)))
}

async fn give_up(State(store): State<Store>, place: Place, form: Posted<PlaceForm>) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let identity = form.identity().map_err(|words| Trouble::form(&place, words))?;
    let reason = form.reason().map_err(|words| Trouble::form(&place, words))?;
    let change = store.give_up(&identity, &reason).await.map_err(|error| Trouble::store(&place, error))?;
    made(&place, What::GiveUp, &identity, change, Changed::GivenUp(Cursor::of(&identity), reason))
}

async fn ask_to_forget(State(store): State<Store>, place: Place, form: Posted<ScopeForm>) -> Result<Response, Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let scope = form.scope().map_err(|words| Trouble::form(&place, words))?;
    let would = store.forget(&scope, true).await.map_err(|error| Trouble::store(&place, error))?;
    Ok(page(&place, "Forget a scope?", &confirm::of_scope(&place.0, scope.as_str(), would)))
}

async fn forget(
    State(store): State<Store>,
    place: Place,
    form: Posted<ScopeForm>,
) -> Result<(Extension<Changed>, Response), Trouble> {
    let Form(form) = form.map_err(|_| Trouble::form(&place, INCOMPLETE))?;
    let scope = form.scope().map_err(|words| Trouble::form(&place, words))?;
    let forgotten = store.forget(&scope, false).await.map_err(|error| Trouble::store(&place, error))?;
    let answer = page(&place, "Forgotten", &confirm::forgotten(&place.0, scope.as_str(), forgotten));
    Ok((Extension(Changed::Forgotten(scope.as_str().to_owned(), forgotten)), answer))
}

const NO_RUN: &str =
    "There is no leased run of this key that is not over and that no process holds. Nothing has changed.";

fn made(place: &Place, what: What, identity: &Identity, change: Change, changed: Changed) -> Result<Response, Trouble> {
    let refused = |words: &str| Err(Trouble::new(place, StatusCode::CONFLICT, words));
    match change {
        Change::Made => {
            let mut answer = page(place, "Done", &confirm::made(&place.0, what, identity));
            answer.extensions_mut().insert(changed);
            Ok(answer)
        }
        Change::Held(until) => refused(&format!(
            "A process holds the run until {}, or longer. Nothing has changed. Stop the process, or wait until its lease \
            has ended.",
            shown::time(until)
        )),
        Change::NoRun => refused(NO_RUN),
    }
}
