//! Orders in recorded steps, with undos, as applications write them.

use idem_core::Error;
use serde::{Deserialize, Serialize};

/// What an order is refused with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// For good.
    Declined,
    /// A step failed.
    Failed,
    /// By its code.
    Idem(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Idem(error.code().to_owned())
    }
}

macro_rules! orders {
    ($module:ident, $Store:ident, $Steps:ident, $Tx:ident) => {
        pub mod $module {
            use std::sync::Arc;
            use std::sync::atomic::Ordering;

            use axum::Router;
            use axum::extract::{Extension, FromRef};
            use axum::http::StatusCode;
            use axum::response::{IntoResponse, Response};
            use idem_core::{Disposition, idempotent, StepKey, Steps};
            use idem_core::store::Lease;
            use idem_sqlx::{$Steps, $Store, $Tx};
            use sqlx::Executor;

            use idem_testkit::logs::CANARY;

            use super::Refused;
            use crate::pay::Caller;
            use crate::script::Script;

            type Failure = Box<dyn std::error::Error + Send + Sync>;

            /// A step, or the undo of one, with one effect.
            async fn write(tx: &mut $Tx, script: &Script, what: &'static str) -> Result<(), Failure> {
                let act = script.enter(what, "").await.map_err(|failed| format!("{failed:?} {CANARY}"))?;
                sqlx::query("INSERT INTO effects VALUES ('step', $1)").bind(what).execute(&mut *tx).await?;
                if let Some(act) = act {
                    tx.execute("COMMIT").await?;
                    script.leave(act).await.map_err(|failed| format!("{failed:?} {CANARY}"))?;
                }
                Ok(())
            }

            /// Two finished steps with their undos, and then an answer of the outside world.
            async fn run(steps: &mut $Steps, declines: bool, script: &Arc<Script>) -> Result<u32, Refused> {
                script.begin(steps.attempt());
                let reserve = async |tx: &mut $Tx| {
                    write(tx, script, "reserve").await.map_err(|_| Refused::Failed)?;
                    Ok::<u32, Refused>(7)
                };
                let reserved = steps.transaction("reserve", reserve).await?;
                let of_undo = script.clone();
                steps.undo("reserve", async move |tx| write(tx, &of_undo, "undo reserve").await);
                let charge = async |key: StepKey| {
                    script.enter("charge", key.as_str()).await.map_err(|_| Refused::Failed)?;
                    Ok::<_, Refused>(())
                };
                steps.call("charge", charge).await?;
                let of_undo = script.clone();
                steps.undo_call("charge", async move |key: StepKey| {
                    of_undo.enter("undo charge", key.as_str()).await.map(|_| ()).map_err(|failed| format!("{failed:?} {CANARY}"))
                });
                let shipped = ship(steps, declines, script).await;
                if script.changed.load(Ordering::SeqCst) {
                    steps.undo_call("chrage", async |_| Ok::<_, String>(()));
                }
                shipped.map(|()| reserved)
            }

            async fn ship<H: Lease>(steps: &mut Steps<H>, declines: bool, script: &Script) -> Result<(), Refused> {
                let ship = async |_| {
                    script.enter("ship", "").await.map_err(|_| Refused::Failed)?;
                    if declines { Err(Refused::Declined) } else { Ok(()) }
                };
                steps.call("ship", ship).await
            }

            #[idempotent(
                key = id, scope = "test", operation = "undo.order", fingerprint = id, ttl = "1h", attempts = 3,
                record_input = (id, declines), rejects = |refused| *refused == Refused::Declined
            )]
            pub async fn order(
                steps: &mut $Steps,
                id: &str,
                declines: bool,
                script: &Arc<Script>,
            ) -> Result<u32, Refused> {
                run(steps, declines, script).await
            }

            /// The same with a deadline of its own.
            #[idempotent(
                key = id, scope = "test", operation = "undo.order", fingerprint = id, deadline = "400ms",
                rejects = |refused| *refused == Refused::Declined
            )]
            pub async fn order_in_time(steps: &mut $Steps, id: &str, script: &Arc<Script>) -> Result<u32, Refused> {
                run(steps, true, script).await
            }

            /// The same in a release in which every error is final.
            #[idempotent(
                key = id, scope = "test", operation = "undo.order", fingerprint = id, rejects = |_: &Refused| true
            )]
            pub async fn order_or_reject(steps: &mut $Steps, id: &str, script: &Arc<Script>) -> Result<u32, Refused> {
                run(steps, true, script).await
            }

            /// Its calls happen, and it takes whatever comes of them for a final no.
            #[idempotent(
                key = id, scope = "test", operation = "undo.hasty", fingerprint = id, rejects = |_: &Refused| true
            )]
            pub async fn hasty(
                steps: &mut $Steps,
                id: &str,
                length: usize,
                script: &Arc<Script>,
            ) -> Result<u32, Refused> {
                let charge = async |key: StepKey| {
                    script.enter("charge", key.as_str()).await.map_err(|_| Refused::Failed)?;
                    Ok::<String, Refused>("x".repeat(length))
                };
                let charge = tokio::time::timeout(std::time::Duration::from_millis(200), steps.call("charge", charge));
                charge.await.map_err(|_| Refused::Declined)?.map_err(|_| Refused::Declined)?;
                Ok(1)
            }

            /// What is withdrawn from sale is not charged, and not sold.
            #[idempotent(
                key = id, scope = "test", operation = "undo.withdrawn", fingerprint = id,
                rejects = |refused| *refused == Refused::Declined
            )]
            pub async fn withdrawn(
                steps: &mut $Steps,
                id: &str,
                script: &Arc<Script>,
                then: Result<u32, Refused>,
            ) -> Result<u32, Refused> {
                let reserve = async |tx: &mut $Tx| write(tx, script, "reserve").await.map_err(|_| Refused::Failed);
                steps.transaction("reserve", reserve).await?;
                let of_undo = script.clone();
                steps.undo("reserve", async move |tx| write(tx, &of_undo, "undo reserve").await);
                if script.left_out.load(Ordering::SeqCst) {
                    return then;
                }
                let name = if script.changed.load(Ordering::SeqCst) { "another charge" } else { "charge" };
                let charge = async |key: StepKey| script.enter("charge", key.as_str()).await.map(|_| ());
                let charged = steps.call(name, async |key| charge(key).await.map_err(|_| Refused::Declined)).await;
                match charged {
                    Err(Refused::Declined) if then.is_ok() => Err(Refused::Failed),
                    charged => charged.map(|()| 1),
                }
            }

            /// It lives with whatever comes of its call.
            #[idempotent(key = id, scope = "test", operation = "undo.tolerant", fingerprint = id)]
            pub async fn tolerant(steps: &mut $Steps, id: &str, script: &Script) -> Result<bool, Refused> {
                Ok(enter(steps, "charge", script).await.is_ok())
            }

            /// It gives its one step up, and tries it again.
            #[idempotent(key = id, scope = "test", operation = "undo.impatient", fingerprint = id)]
            pub async fn impatient(steps: &mut $Steps, id: &str, script: &Arc<Script>) -> Result<u32, Refused> {
                for _ in 0..2 {
                    let write = async |tx: &mut $Tx| write(tx, script, "reserve").await.map_err(|_| Refused::Failed);
                    let write = steps.transaction("reserve", write);
                    let in_time = tokio::time::timeout(std::time::Duration::from_millis(500), write).await;
                    if let Ok(ended) = in_time {
                        return ended.map(|()| 1);
                    }
                }
                Err(Refused::Failed)
            }

            /// It registers before it knows.
            #[idempotent(key = id, scope = "test", operation = "undo.eager", fingerprint = id)]
            pub async fn eager(steps: &mut $Steps, id: &str, script: &Arc<Script>) -> Result<u32, Refused> {
                let entered = enter(steps, "first", script).await;
                steps.undo_call("first", async |_| Ok::<_, String>(()));
                entered.map(|()| 1)
            }

            #[idempotent(key = id, scope = "test", operation = "undo.misspelt", fingerprint = id)]
            pub async fn misspelt(steps: &mut $Steps, id: &str, script: &Script) -> Result<u32, Refused> {
                enter(steps, "charge", script).await?;
                steps.undo_call("chrage", async |_| Ok::<_, String>(()));
                Ok(1)
            }

            #[idempotent(key = id, scope = "test", operation = "undo.fallback", fingerprint = id)]
            pub async fn fallback(steps: &mut $Steps, id: &str, script: &Script) -> Result<u32, Refused> {
                if enter(steps, "first", script).await.is_err() {
                    enter(steps, "second", script).await?;
                }
                Ok(1)
            }

            #[idempotent(key = id, scope = "test", operation = "undo.fallback", fingerprint = id)]
            pub async fn again(steps: &mut $Steps, id: &str, script: &Script) -> Result<u32, Refused> {
                while enter(steps, "first", script).await.is_err() {}
                enter(steps, "second", script).await?;
                Ok(1)
            }

            async fn enter(steps: &mut $Steps, name: &'static str, script: &Script) -> Result<(), Refused> {
                let enter = async |_| script.enter(name, "").await.map(|_| ()).map_err(|_| Refused::Failed);
                steps.call(name, enter).await
            }

            #[derive(Clone, FromRef)]
            struct App {
                store: $Store,
            }

            #[idempotent(scope = caller, ttl = "1h")]
            async fn over_http(
                caller: Caller,
                Extension(script): Extension<Arc<Script>>,
                steps: &mut $Steps,
            ) -> Response {
                match run(steps, true, &script).await {
                    Ok(_) => StatusCode::CREATED.into_response(),
                    Err(Refused::Declined) => {
                        let words = format!("declined for {}", caller.0);
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject, [("x-why", "no funds")], words)
                            .into_response()
                    }
                    Err(_) => StatusCode::BAD_GATEWAY.into_response(),
                }
            }

            pub fn app(store: $Store, script: Arc<Script>) -> Router {
                let route = axum::routing::post(over_http).get(over_http);
                Router::new().route("/orders", route).layer(Extension(script)).with_state(App { store })
            }
        }
    };
}

#[rustfmt::skip]
orders!(postgres_orders, PgStore, PgSteps, PgTx);
#[rustfmt::skip]
orders!(sqlite_orders, SqliteStore, SqliteSteps, SqliteTx);
