//! Who takes the money: another company's server.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
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
    url: String,
    patience: Duration,
}

/// What the provider has decided, for good: it is recorded, and not asked for again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Charge {
    Paid { id: String },
    Declined,
}

/// Whether the money has moved is not known. The next attempt asks again, under the same key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the provider did not answer in time")]
    Late,
    #[error("the provider answered {0}")]
    Failed(StatusCode),
    #[error("the provider cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Provider {
    pub(crate) fn new(url: String, patience: Duration) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), url, patience }
    }

    /// Takes the amount from the card. Under one key it is taken once, however often this is asked.
    pub(crate) async fn charge(&self, key: &StepKey, card: &str, amount: i64) -> Result<Charge, NoAnswer> {
        tracing::info!(amount, "charging");
        let (status, body) = self.post("/charges", key, &json!({ "card": card, "amount": amount })).await?;
        match (status, body["id"].as_str()) {
            (StatusCode::CREATED, Some(id)) => Ok(Charge::Paid { id: id.to_owned() }),
            (StatusCode::PAYMENT_REQUIRED, _) => Ok(Charge::Declined),
            _ => Err(NoAnswer::Failed(status)),
        }
    }

    /// Gives the money of a charge back.
    pub(crate) async fn refund(&self, key: &StepKey, charge: &str) -> Result<(), NoAnswer> {
        tracing::info!(charge, "refunding");
        let (status, _) = self.post("/refunds", key, &json!({ "charge": charge })).await?;
        if status == StatusCode::CREATED { Ok(()) } else { Err(NoAnswer::Failed(status)) }
    }

    async fn post(&self, path: &str, key: &StepKey, body: &Value) -> Result<(StatusCode, Value), NoAnswer> {
        let request = Request::post(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", key.as_str())
            .body(Full::from(body.to_string()))
            .map_err(|error| NoAnswer::Unreachable(error.into()))?;
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            // An error's page may be no JSON; its status says enough.
            Ok((parts.status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let answer = timeout(self.patience, exchange).await.map_err(|_| NoAnswer::Late)?;
        let (status, body): (StatusCode, Value) = answer.map_err(NoAnswer::Unreachable)?;
        tracing::info!(status = status.as_u16(), "{path} answered");
        Ok((status, body))
    }
}
