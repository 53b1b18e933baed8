//! The handler. [`create`] is the one to copy.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use idem_core::idempotent;
use idem_redis::RedisSteps;
use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::mailer::Sent;

/// A notification, as a client sends it.
#[derive(Deserialize)]
pub(crate) struct NewNotification {
    to: Mailbox,
    subject: String,
    text: String,
}

#[derive(Serialize)]
pub(crate) struct Notification {
    /// The mail's name, which is in its `Message-ID`.
    mail: String,
    to: String,
}

/// Sends a mail, and answers with its name. If this process ends for any reason, the client's retry sends the mail again
/// only if there is no record that the mail server has taken it, and under the same `Message-ID`.
///
/// `operation` is in the records, and the key of the call derives from it. With it, you may rename or move the function.
#[idempotent(scope = caller, operation = "notifications.create", ttl = "24h", lease = "5s")]
pub(crate) async fn create(
    caller: Caller,
    State(app): State<App>,
    steps: &mut RedisSteps,
    new: NewNotification,
) -> Result<(StatusCode, Json<Notification>), ApiError> {
    let NewNotification { to, subject, text } = new;
    let address = to.to_string();
    let sent = steps
        .call("mail", async |key| app.mailer.send(&key, to, &subject, &text).await.map_err(|_| ApiError::NoMailServer))
        .await?;
    match sent {
        Sent::Taken { id } => Ok((StatusCode::CREATED, Json(Notification { mail: id, to: address }))),
        Sent::Refused => Err(ApiError::Refused),
    }
}

/// Checks the body while it is extracted. Extractors run before the key is looked up, so a mistake in the body does not
/// use up the key: the client corrects the body and sends the same key.
impl<S: Send + Sync> FromRequest<S> for NewNotification {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(new) = Json::<Self>::from_request(request, state).await.map_err(ApiError::NoJson)?;
        Ok(new)
    }
}
