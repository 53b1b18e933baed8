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
/// use axum::{Json, Router, middleware, response::{IntoResponse, Response}};
/// use idem_core::http::Refusal;
///
/// async fn restyle(response: Response) -> Response {
///     match response.extensions().get::<Refusal>().cloned() {
///         Some(refusal) => {
///             (refusal.status(), Json(serde_json::json!({ "error": refusal.code() }))).into_response()
///         }
///         None => response,
///     }
/// }
///
/// let app: Router = Router::new().layer(middleware::map_response(restyle));
/// ```
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
/// is not, nor is a retry that comes too soon: there may be many of them, and the failure before them was logged.
pub(crate) fn respond(error: &Error) -> Response {
    let refusal = Refusal::new(error);
    if refusal.status.is_server_error() && refusal.kind != Kind::AttemptTooSoon {
        tracing::error!(target: "idem", code = refusal.code(), cause = ?std::error::Error::source(error), "{error}");
    } else {
        tracing::debug!(target: "idem", code = refusal.code(), "{error}");
    }
    refusal.into_response()
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::KeyMissing | Kind::KeyInvalid | Kind::BodyUnreadable => StatusCode::BAD_REQUEST,
        Kind::KeyInFlight | Kind::LeaseLost | Kind::RunRejected | Kind::NothingToResume => StatusCode::CONFLICT,
        Kind::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::ReplyTooLarge => StatusCode::GONE,
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
