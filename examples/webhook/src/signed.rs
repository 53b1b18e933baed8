//! Checks that a message is from the sender.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;
use standardwebhooks::{HEADER_WEBHOOK_TIMESTAMP, Webhook};

/// The body of a message whose signature is right and less than five minutes old.
///
/// It is an extractor, so it runs before the attribute looks for a record. A message that is not from the sender leaves
/// no trace, and its answer reveals nothing that is stored.
pub(crate) struct Signed<T>(pub(crate) T);

impl<S, T> FromRequest<S> for Signed<T>
where
    S: Send + Sync,
    Arc<Webhook>: FromRef<S>,
    T: DeserializeOwned,
{
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await.map_err(|error| Refused::Unread(error.into_response()))?;
        if !has_plain_timestamp(&headers) {
            return Err(Refused::NotSigned("the timestamp is no number of seconds".to_owned()));
        }
        let sender = Arc::<Webhook>::from_ref(state);
        sender.verify(&body, &headers).map_err(|error| Refused::NotSigned(error.to_string()))?;
        serde_json::from_slice(&body).map(Self).map_err(Refused::Malformed)
    }
}

/// The crate calculates with the timestamp before it has verified the signature, and an absurd timestamp would
/// overflow.
fn has_plain_timestamp(headers: &HeaderMap) -> bool {
    let timestamp = headers.get(HEADER_WEBHOOK_TIMESTAMP).map(|timestamp| timestamp.as_bytes());
    timestamp.is_some_and(|digits| (1..=12).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit))
}

/// Why a message was refused.
#[derive(Debug)]
pub(crate) enum Refused {
    Unread(Response),
    NotSigned(String),
    Malformed(serde_json::Error),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Unread(response) => return response,
            Self::NotSigned(why) => (StatusCode::UNAUTHORIZED, why),
            // Sending the message again would not help: the sender should dead-letter it.
            Self::Malformed(why) => (StatusCode::UNPROCESSABLE_ENTITY, why.to_string()),
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}
