//! Leased handlers: they reserve, charge and confirm, and do in each step as the script says.

use axum::http::StatusCode;
use idem_core::{Error, Kind, Scope, ToScope};
use idem_testkit::logs::CANARY;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    pub reserved: u32,
    pub charge: String,
}

/// The provider's name for a charge.
pub fn charge() -> String {
    format!("ch_1 {CANARY}")
}

/// What a run that has done all its steps gives.
pub fn paid() -> Paid {
    Paid { reserved: 7, charge: charge() }
}

#[derive(Debug)]
pub enum Failed {
    Told,
    Idem(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Idem(error)
    }
}

impl Failed {
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Told => None,
            Self::Idem(error) => Some(error.kind()),
        }
    }
}

/// Why it was refused.
#[track_caller]
pub fn kind<T: std::fmt::Debug>(result: &Result<T, Failed>) -> Option<Kind> {
    result.as_ref().expect_err("refused").kind()
}

/// An error that is always stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Final(pub String);

impl From<Error> for Final {
    fn from(error: Error) -> Self {
        Self(error.code().to_owned())
    }
}

/// The caller of the HTTP routes.
#[derive(Debug, Clone)]
pub struct Caller(pub String);

impl ToScope for Caller {
    fn to_scope(&self) -> Result<Scope, Error> {
        let canary = if self.0.is_empty() { "" } else { CANARY };
        format!("{}{canary}", self.0).to_scope()
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, StatusCode> {
        let name = parts.headers.get("x-caller").and_then(|name| name.to_str().ok());
        name.map(|name| Self(name.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
    }
}

macro_rules! handlers {
    ($module:ident, $Store:ident, $Steps:ident, $Tx:ident) => {
        pub mod $module {
            use std::sync::Arc;
            use std::sync::atomic::Ordering;

            use axum::extract::{Extension, FromRef};
            use axum::http::StatusCode;
            use axum::{Json, Router};
            use idem_core::{Error, idempotent, StepKey};
            use idem_sqlx::{$Steps, $Store, $Tx};
            use sqlx::Executor;

            use super::{Caller, Failed, Final, Paid};
            use crate::script::Script;

            /// A step with one effect.
            async fn write(tx: &mut $Tx, script: &Script, step: &'static str) -> Result<(), Failed> {
                let act = script.enter(step, "").await?;
                let effect = sqlx::query("INSERT INTO effects VALUES ('step', $1)").bind(step);
                effect.execute(&mut *tx).await.expect("an effect");
                match act {
                    None => Ok(()),
                    Some(act) => {
                        tx.execute("COMMIT").await.expect("a COMMIT of its own");
                        script.leave(act).await
                    }
                }
            }

            async fn run(steps: &mut $Steps, script: &Script) -> Result<Paid, Failed> {
                script.begin(steps.attempt());
                let reserve = async |tx: &mut $Tx| write(tx, script, "reserve").await.map(|()| 7);
                let reserved = steps.transaction("reserve", reserve).await?;
                let charge = if script.changed.load(Ordering::SeqCst) { "charge twice" } else { "charge" };
                let call = async |key: StepKey| {
                    script.enter("charge", key.as_str()).await?;
                    Ok::<_, Failed>(super::charge())
                };
                let charge = if script.left_out.load(Ordering::SeqCst) {
                    String::new()
                } else {
                    steps.call(charge, call).await?
                };
                steps.finish(async |tx: &mut $Tx| write(tx, script, "confirm").await).await?;
                Ok(Paid { reserved, charge })
            }

            #[idempotent(
                key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order, attempts = 3
            )]
            pub async fn pay(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// The same operation in another release of the program.
            #[idempotent(
                key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order
            )]
            pub async fn pay_in_one(tx: &mut $Tx, scope: &str, id: &str, order: &str) -> Result<Paid, Error> {
                tx.execute("INSERT INTO effects VALUES ('in', 'one')").await.expect("an effect");
                Ok(super::paid())
            }

            /// The same, for tests that wait for the lease.
            #[idempotent(
                key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order, lease = "2s"
            )]
            pub async fn pay_briefly(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// The same, whose records refuse late retries.
            #[idempotent(
                key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order, lease = "2s",
                then = refuse("30d")
            )]
            pub async fn pay_once(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Its deadline is the store's.
            #[idempotent(key = id, scope = "test", operation = "steps.in_time", fingerprint = id, lease = "2s")]
            pub async fn pay_in_time(steps: &mut $Steps, id: &str, script: &Script) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Gives a slow statement up, in a step or in the last writes, and fails.
            #[idempotent(key = id, scope = "test", operation = "steps.impatient", fingerprint = id)]
            pub async fn pay_impatiently(
                steps: &mut $Steps,
                id: &str,
                last: bool,
                slow: &'static str,
            ) -> Result<(), Failed> {
                let slowly = async |tx: &mut $Tx| {
                    let slow = sqlx::raw_sql(slow).execute(&mut **tx);
                    let limit = std::time::Duration::from_millis(200);
                    tokio::time::timeout(limit, slow).await.map(|_| ()).map_err(|_| Failed::Told)
                };
                if last { steps.finish(slowly).await } else { steps.transaction("slow", slowly).await }
            }

            /// The same, for callers that wait.
            #[idempotent(
                key = id, scope = scope, ttl = "1h", operation = "steps.pay", fingerprint = order,
                in_flight = wait("5s")
            )]
            pub async fn pay_patiently(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Its records are kept for less time than its lease lasts.
            #[idempotent(
                key = id, scope = scope, ttl = "1s", operation = "steps.short", fingerprint = order, lease = "30s"
            )]
            pub async fn pay_shortly(
                steps: &mut $Steps,
                scope: &str,
                id: &str,
                order: &str,
                script: &Script,
            ) -> Result<Paid, Failed> {
                run(steps, script).await
            }

            /// Every error is final, as far as it can say so.
            #[idempotent(
                key = id, scope = "test", operation = "steps.rejecting", fingerprint = id, lease = "2s",
                rejects = |_: &Final| true
            )]
            pub async fn reject(steps: &mut $Steps, id: &str, script: &Script) -> Result<Paid, Final> {
                run(steps, script).await.map_err(|error| Final(format!("{error:?}")))
            }

            /// A name for two steps.
            #[idempotent(key = id, scope = "test", operation = "steps.twice")]
            pub async fn twice(steps: &mut $Steps, id: &str) -> Result<u32, Error> {
                let one: u32 = steps.call("one", async |_| Ok::<_, Error>(1)).await?;
                let two: u32 = steps.call("one", async |_| Ok::<_, Error>(2)).await?;
                Ok(one + two)
            }

            #[derive(Clone, FromRef)]
            struct App {
                store: $Store,
            }

            #[idempotent(scope = caller, ttl = "1h", lease = "5s")]
            async fn checkout(
                caller: Caller,
                Extension(script): Extension<Arc<Script>>,
                steps: &mut $Steps,
            ) -> (StatusCode, Json<Option<Paid>>) {
                assert!(!caller.0.is_empty());
                match run(steps, &script).await {
                    Ok(paid) => (StatusCode::CREATED, Json(Some(paid))),
                    Err(_) => (StatusCode::BAD_GATEWAY, Json(None)),
                }
            }

            pub fn app(store: $Store, script: Arc<Script>) -> Router {
                let route = axum::routing::post(checkout).get(checkout);
                Router::new().route("/checkout", route).layer(Extension(script)).with_state(App { store })
            }
        }
    };
}

handlers!(postgres_steps, PgStore, PgSteps, PgTx);
handlers!(sqlite_steps, SqliteStore, SqliteSteps, SqliteTx);
