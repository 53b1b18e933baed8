//! Refusals and failures as `application/problem+json` (RFC 9457).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::error::{Error, Kind};

/// A refusal as it is sent: a status, a stable code, and words for people.
///
/// Every response that the framework itself makes carries a `Refusal` in its extensions, so that an application can
/// restyle it:
///
/// ```
/// use axum::{Json, Router, http::header::RETRY_AFTER, middleware, response::{IntoResponse, Response}};
/// use idem_core::http::Refusal;
///
/// async fn restyle(response: Response) -> Response {
///     let Some(refusal) = response.extensions().get::<Refusal>() else { return response };
///     let body = serde_json::json!({ "error": refusal.code(), "final": refusal.is_final() });
///     let mut restyled = (refusal.status(), Json(body)).into_response();
///     // A client that is not told when to come again comes at once, or never.
///     if let Some(wait) = response.headers().get(RETRY_AFTER) {
///         restyled.headers_mut().insert(RETRY_AFTER, wait.clone());
///     }
///     restyled
/// }
///
/// let app: Router = Router::new().layer(middleware::map_response(restyle));
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # use idem_core::{Error, Kind};
/// # let restyled = restyle(Error::new(Kind::KeyInFlight).into_response()).await;
/// # assert_eq!((restyled.status().as_u16(), &restyled.headers()[RETRY_AFTER]), (409, &"1".parse().unwrap()));
/// # assert!(!restyle(Error::new(Kind::KeyReused).into_response()).await.headers().contains_key(RETRY_AFTER));
/// # });
/// ```
///
/// # Rules
/// - Keep the status and `Retry-After`: clients, proxies and retry loops decide by them.
/// - Tell the client in some form whether a retry can help: [`is_final`](Self::is_final).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    kind: Kind,
    status: StatusCode,
    detail: String,
    retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            status: status(error.kind()),
            detail: error.detail().to_owned(),
            // Whole seconds, as RFC 9110 requires, rounded up so that no client asks too early.
            retry_after: error.retry_after().map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
        }
    }

    /// The refusal of a duplicate under `in_flight = accepted`.
    pub(crate) fn accepted(mut self) -> Self {
        self.status = StatusCode::ACCEPTED;
        self
    }

    /// The kind, for decisions.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable name of the kind.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Whether no retry of the same request can help: see [`Kind::is_final`].
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.kind.is_final()
    }

    /// The response's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The message for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Seconds to wait before asking again, if asking again can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Error {
    /// The refusal as a response: for handlers whose own errors include the store's.
    fn into_response(self) -> Response {
        respond(&self)
    }
}

/// The refusal as a response, with one trace event. A failure on our side is logged as an error. A mistake of the client
/// is not, nor is a retry that comes too soon: there may be many of them, and the failure before them was logged. An
/// outage of the store is told once, by the store's [`Outages`](crate::observer::Outages).
pub(crate) fn respond(error: &Error) -> Response {
    let refusal = Refusal::new(error);
    let is_told = matches!(refusal.kind, Kind::AttemptTooSoon | Kind::StoreUnavailable | Kind::RetryLater);
    if refusal.status.is_server_error() && !is_told {
        tracing::error!(target: "idem", code = refusal.code(), cause = ?std::error::Error::source(error), "{error}");
    } else {
        tracing::debug!(target: "idem", code = refusal.code(), "{error}");
    }
    refusal.into_response()
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::KeyMissing | Kind::KeyInvalid | Kind::BodyUnreadable | Kind::FirstSentInvalid => StatusCode::BAD_REQUEST,
        Kind::KeyInFlight | Kind::LeaseLost | Kind::RunRejected | Kind::NothingToResume => StatusCode::CONFLICT,
        Kind::KeyReused | Kind::DataRefused => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::ReplyTooLarge | Kind::RetryTooLate | Kind::GivenUp => StatusCode::GONE,
        Kind::FirstSentTooOld => StatusCode::PRECONDITION_FAILED,
        Kind::RetryLater
        | Kind::StoreUnavailable
        | Kind::DeadlineExceeded
        | Kind::UndoFailed
        | Kind::AttemptTooSoon => StatusCode::SERVICE_UNAVAILABLE,
        Kind::ScopeInvalid
        | Kind::TtlInvalid
        | Kind::FingerprintFailed
        | Kind::ReplyFailed
        | Kind::RecordUnreadable
        | Kind::OutcomeUnknown
        | Kind::TransactionEnded
        | Kind::TransactionAborted
        | Kind::DeploymentBroken
        | Kind::StoreFailed
        | Kind::Panicked
        | Kind::StepMismatch
        | Kind::AttemptsExhausted => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn r25a_retry_after_is_the_rest_of_the_pause_and_never_too_early() {
        let header = |rest| Error::too_soon(rest).into_response().headers()[header::RETRY_AFTER].clone();
        let second = Duration::from_secs(1);
        for (rest, seconds) in [
            (Duration::from_micros(1), "1"),
            (second, "1"),
            (second + Duration::from_micros(1), "2"),
            (second * 59, "59"),
            (second * 60 - Duration::from_nanos(1), "60"),
        ] {
            assert_eq!(header(rest), seconds, "{rest:?}");
        }
    }
}
