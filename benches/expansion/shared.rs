// A program of `cargo bench -p expansion`: payments at HANDLERS routes. Around it is the same code in every variant.
// `idem-sqlx/tests/it/expansion.rs` sees to it that all variants compile.

use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use idem_core::{Error, Fingerprint, idempotent, Identity, Request, Scope, Start, Stored, ToScope};
use idem_sqlx::{PgStore, PgTx};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Order {
    amount: i64,
}

#[derive(Serialize, Deserialize)]
pub struct Payment {
    id: i64,
    amount: i64,
}

pub struct User(i64);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        Ok(Self(1))
    }
}

impl ToScope for User {
    fn to_scope(&self) -> Result<Scope, Error> {
        self.0.to_scope()
    }
}

pub struct Failed(String);

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0).into_response()
    }
}

async fn insert(tx: &mut sqlx::PgConnection, user: &User, order: &Order) -> sqlx::Result<i64> {
    let insert = "INSERT INTO payments (payer, amount) VALUES ($1, $2) RETURNING id";
    sqlx::query_scalar(insert).bind(user.0).bind(order.amount).fetch_one(tx).await
}
