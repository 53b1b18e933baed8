//! Errors as `application/problem+json`, the form of the framework's own refusals.

use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use idem_core::Disposition;
use serde_json::json;

#[derive(Debug)]
pub(crate) enum ApiError {
    Unauthorized,
    NoJson(JsonRejection),
    /// The mail server takes no such mail.
    Refused,
    /// The mail server cannot be asked, or does not take mail now.
    NoMailServer,
    Store(idem_core::Error),
}

/// A step may fail because of the store: the lease is lost, or Redis cannot be reached.
impl From<idem_core::Error> for ApiError {
    fn from(error: idem_core::Error) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized => {
                let problem = problem(StatusCode::UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer NAME`");
                ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
            }
            Self::NoJson(rejection) => problem(rejection.status(), "notification_invalid", &rejection.body_text()),
            // Final: a retry gets the same answer, and the mail server is not asked again.
            Self::Refused => {
                let detail = "the mail server does not take a mail to this address";
                let problem = problem(StatusCode::UNPROCESSABLE_ENTITY, "mail_refused", detail);
                (Disposition::Reject, problem).into_response()
            }
            // Not final, and the mail may have been taken: the retry sends it again, under the same `Message-ID`.
            Self::NoMailServer => {
                let detail = "the mail is not through yet; retry the request, unchanged";
                let problem = problem(StatusCode::SERVICE_UNAVAILABLE, "mail_pending", detail);
                ([(RETRY_AFTER, "1")], problem).into_response()
            }
            Self::Store(error) => error.into_response(),
        }
    }
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
