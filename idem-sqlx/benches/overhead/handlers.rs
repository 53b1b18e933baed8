//! The same payment, written in several ways. Both modules have the same handlers in the same order.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::error::Error;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use idem_core::{Scope, ToScope};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The operation of every record.
pub(crate) const OPERATION: &str = "payments.create";

#[derive(Deserialize)]
pub(crate) struct NewPayment {
    customer_id: String,
    amount: i64,
    currency: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Payment {
    id: i64,
    customer_id: String,
    amount: i64,
    currency: String,
    status: String,
}

impl Payment {
    fn charged(id: i64, order: NewPayment) -> Self {
        let NewPayment { customer_id, amount, currency } = order;
        Self { id, customer_id, amount, currency, status: "charged".to_owned() }
    }
}

/// The caller, as an authentication layer before the handler may have named it.
pub(crate) struct User(String);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let name = parts.headers.get("x-user").and_then(|name| name.to_str().ok());
        name.map(|name| Self(name.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
    }
}

impl ToScope for User {
    fn to_scope(&self) -> Result<Scope, idem_core::Error> {
        self.0.to_scope()
    }
}

/// The key's digest, for the handlers that keep records themselves.
pub(crate) struct KeyHash([u8; 32]);

impl<S: Sync> FromRequestParts<S> for KeyHash {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let key = parts.headers.get("idempotency-key").ok_or(StatusCode::BAD_REQUEST)?;
        Ok(Self(Sha256::digest(key).into()))
    }
}

impl KeyHash {
    /// A number for a lock on the caller's key.
    fn lock_number(&self, user: &User) -> i64 {
        let digest = Sha256::new().chain_update(&user.0).chain_update(OPERATION).chain_update(self.0).finalize();
        i64::from_be_bytes(std::array::from_fn(|at| digest[at]))
    }
}

/// A digest of the body, as the fingerprint.
fn fingerprint(body: &[u8]) -> Vec<u8> {
    Sha256::digest(body).to_vec()
}

/// A reply to store and to send, for the handlers that keep records themselves.
struct Reply {
    status: StatusCode,
    headers: Vec<u8>,
    body: Vec<u8>,
}

impl Reply {
    fn created(payment: &Payment) -> Result<Self, serde_json::Error> {
        // Each name and value after its length, as the framework stores headers.
        let (name, value) = (CONTENT_TYPE.as_str(), "application/json");
        let mut headers = (name.len() as u16).to_be_bytes().to_vec();
        headers.extend(name.as_bytes());
        headers.extend((value.len() as u32).to_be_bytes());
        headers.extend(value.as_bytes());
        Ok(Self { status: StatusCode::CREATED, headers, body: serde_json::to_vec(payment)? })
    }

    fn status(&self) -> i16 {
        self.status.as_u16() as i16
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (self.status, [(CONTENT_TYPE, "application/json")], self.body).into_response()
    }
}

/// Any error, as a 500, at which the bench stops.
pub(crate) struct Failed(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, Json(self.0.to_string())).into_response()
    }
}
