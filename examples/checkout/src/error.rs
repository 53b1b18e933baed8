//! Errors as `application/problem+json`, the form of the framework's own refusals.

use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use idem_core::Disposition;
use serde_json::json;

use crate::provider::NoDecision;

pub(crate) enum ApiError {
    Unauthorized,
    NoJson(JsonRejection),
    Invalid(&'static str),
    SoldOut,
    Declined,
    Refused,
    Withdrawn,
    Provider(NoDecision),
    Store(idem_core::Error),
}

/// A step may fail because of the store: the lease is lost, or the database cannot be reached.
impl From<idem_core::Error> for ApiError {
    fn from(error: idem_core::Error) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for ApiError {
    /// A deadlock becomes a 503 with `Retry-After`. Only an error that a retry cannot fix becomes a 500.
    fn from(error: sqlx::Error) -> Self {
        Self::Store(idem_sqlx::into_idem_error(error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized => {
                let problem = problem(StatusCode::UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer NAME`");
                ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
            }
            Self::NoJson(rejection) => problem(rejection.status(), "order_invalid", &rejection.body_text()),
            Self::Invalid(detail) => problem(StatusCode::UNPROCESSABLE_ENTITY, "order_invalid", detail),
            // Not final, and nothing is reserved: a retry may find more on the shelf.
            Self::SoldOut => problem(StatusCode::CONFLICT, "sold_out", "there is not enough of it on sale"),
            // Final: the finished steps are undone, and a retry gets the same answer.
            Self::Declined => {
                let problem = problem(StatusCode::PAYMENT_REQUIRED, "card_declined", "the card was declined");
                (Disposition::Reject, problem).into_response()
            }
            Self::Refused => {
                let detail = "the provider does not take this payment";
                let problem = problem(StatusCode::UNPROCESSABLE_ENTITY, "payment_refused", detail);
                (Disposition::Reject, problem).into_response()
            }
            Self::Withdrawn => {
                let problem = problem(StatusCode::GONE, "item_withdrawn", "the item is no longer on sale");
                (Disposition::Reject, problem).into_response()
            }
            // Not final: an earlier attempt may have charged, and the order itself is valid. The log tells an operator.
            Self::Provider(NoDecision::Refused(_)) => {
                let detail = "payments do not work at present; retry the request later, unchanged";
                let problem = problem(StatusCode::SERVICE_UNAVAILABLE, "payment_unavailable", detail);
                ([(RETRY_AFTER, "60")], problem).into_response()
            }
            // Not final, and the charge may have happened: the stock stays reserved, and the retry resumes here.
            Self::Provider(_) => {
                let detail = "the payment is not through yet; retry the request, unchanged";
                let problem = problem(StatusCode::SERVICE_UNAVAILABLE, "payment_pending", detail);
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
