//! The payment provider: another company's server.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use idem_core::StepKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

/// A client of the provider.
#[derive(Clone)]
pub(crate) struct Provider {
    client: Client<HttpConnector, Full<Bytes>>,
    charges: Uri,
    refunds: Uri,
    patience: Duration,
}

/// The final decision of the provider: it is recorded, and not asked for again. `Refused` means that the order itself
/// is wrong, such as an order with an unknown card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Charge {
    Paid { id: String },
    Declined,
    Refused,
}

/// There is no decision. The next attempt asks again, under the same key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDecision {
    #[error("the provider did not answer in time")]
    Late,
    #[error("the provider cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the provider answered {0}")]
    Failed(StatusCode),
    #[error("the provider has charged, and its answer has no `id`")]
    NoId,
    /// This request has moved no money, and a retry will move none before an operator fixes the cause: the API key, the
    /// URL, or the request itself.
    #[error("the provider refuses the request: {0}")]
    Refused(StatusCode),
}

#[derive(Debug, thiserror::Error)]
#[error("PROVIDER_URL has to be a URL like http://127.0.0.1:4000")]
pub(crate) struct NoUrl;

impl Provider {
    pub(crate) fn new(url: &str, patience: Duration) -> Result<Self, NoUrl> {
        let at = |path| {
            let uri: Uri = format!("{}{path}", url.trim_end_matches('/')).parse().map_err(|_| NoUrl)?;
            let is_one = uri.scheme() == Some(&Scheme::HTTP) && uri.path().ends_with(path);
            if is_one { Ok(uri) } else { Err(NoUrl) }
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, charges: at("/charges")?, refunds: at("/refunds")?, patience })
    }

    /// Takes the amount from the card. Under one key the provider takes it once, however often it is asked.
    pub(crate) async fn charge(&self, key: &StepKey, card: &str, amount: i64) -> Result<Charge, NoDecision> {
        tracing::info!("charging");
        let answer = self.post(&self.charges, key, &json!({ "card": card, "amount": amount })).await;
        let decision = answer.and_then(|(status, body)| decision(status, &body));
        decision.inspect_err(|error| match error {
            NoDecision::Refused(_) | NoDecision::NoId => tracing::error!(%error, "charging needs an operator"),
            NoDecision::Unreachable(cause) => tracing::warn!(%error, cause, "not known to be charged"),
            NoDecision::Late | NoDecision::Failed(_) => tracing::warn!(%error, "not known to be charged"),
        })
    }

    /// Refunds a charge.
    pub(crate) async fn refund(&self, key: &StepKey, charge: &str) -> Result<(), NoDecision> {
        tracing::info!("refunding");
        let (status, body) = self.post(&self.refunds, key, &json!({ "charge": charge })).await?;
        // The charge may have been refunded by hand.
        if status == StatusCode::CREATED || body["code"] == "already_refunded" {
            return Ok(());
        }
        let error = no_decision(status);
        if let NoDecision::Refused(_) = error {
            // Until then the order stays `undo_failed`. After a refund by hand, the retry gets `already_refunded`.
            tracing::error!(%error, "the refund is refused: mend why, or give the money back by hand");
        }
        Err(error)
    }

    async fn post(&self, uri: &Uri, key: &StepKey, body: &Value) -> Result<(StatusCode, Value), NoDecision> {
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", key.as_str())
            .body(Full::from(body.to_string()))
            .expect("a URL that is parsed, and a key of hexadecimal digits");
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            // The body of an error may not be JSON. Its status is enough.
            Ok((parts.status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let answer = timeout(self.patience, exchange).await.map_err(|_| NoDecision::Late)?;
        let (status, body): (_, Value) = answer.map_err(NoDecision::Unreachable)?;
        tracing::info!(status = status.as_u16(), code = body["code"].as_str(), "{} answered", uri.path());
        Ok((status, body))
    }
}

/// The meaning of an answer to a charge. The codes are those of this provider: take your provider's codes from its
/// documentation.
///
/// Only an answer about this order is final. That is safe if the provider looks the key up before anything else.
/// Otherwise a refusal says nothing about an earlier attempt, which may have charged.
fn decision(status: StatusCode, body: &Value) -> Result<Charge, NoDecision> {
    match (status, body["code"].as_str()) {
        (StatusCode::CREATED, _) => {
            body["id"].as_str().map(|id| Charge::Paid { id: id.to_owned() }).ok_or(NoDecision::NoId)
        }
        (StatusCode::PAYMENT_REQUIRED, _) => Ok(Charge::Declined),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("card_unknown")) => Ok(Charge::Refused),
        _ => Err(no_decision(status)),
    }
}

fn no_decision(status: StatusCode) -> NoDecision {
    match status {
        // Temporary: the provider is too busy, or still works on an earlier attempt.
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            NoDecision::Failed(status)
        }
        _ if status.is_redirection() || status.is_client_error() => NoDecision::Refused(status),
        // Many providers also store a 5xx and replay it under the same key. With such a provider the error is
        // permanent, and an operator has to look up what was charged.
        _ => NoDecision::Failed(status),
    }
}

#[cfg(test)]
mod tests;
