//! Errors as `application/problem+json`, the form of the framework's own refusals.

use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use idem_core::Disposition;
use serde_json::json;

pub(crate) enum ApiError {
    Unauthorized,
    NoJson(JsonRejection),
    Invalid(&'static str),
    Declined,
    NotFound,
    Database(idem_core::Error),
}

impl From<sqlx::Error> for ApiError {
    /// A deadlock becomes a 503 with `Retry-After`. Only an error that a retry cannot fix becomes a 500.
    fn from(error: sqlx::Error) -> Self {
        Self::Database(idem_sqlx::into_idem_error(error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized => {
                let problem = problem(StatusCode::UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer NAME`");
                ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
            }
            Self::NoJson(rejection) => problem(rejection.status(), "payment_invalid", &rejection.body_text()),
            Self::Invalid(detail) => problem(StatusCode::UNPROCESSABLE_ENTITY, "payment_invalid", detail),
            // Final: a retry gets the same answer without another run. The handler's writes are rolled back.
            Self::Declined => {
                let problem = problem(StatusCode::PAYMENT_REQUIRED, "payment_declined", "the amount is over the limit");
                (Disposition::Reject, problem).into_response()
            }
            Self::NotFound => problem(StatusCode::NOT_FOUND, "payment_not_found", "you have no such payment"),
            // Unlike the decline it is not stored, like every other status from 400 on: a retry runs.
            Self::Database(error) => error.into_response(),
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
