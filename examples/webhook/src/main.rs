//! Takes webhooks, each message once.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p webhook
//! ```
//!
//! It prints a line with a signed message to send, which is valid for five minutes. Send it twice: the second answer is
//! the first one, marked `idempotent-replayed: true`, and so the sender stops.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::env;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use idem_sqlx::{SqliteStore, Sweep};
use standardwebhooks::Webhook;
use tokio::net::TcpListener;

/// For trying it out. A real secret comes from the sender, and is never in source code.
const SECRET: &str = "whsec_aWRlbS1leGFtcGxlLXNlY3JldC0wMDAxIQ==";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = env::var("WEBHOOK_SECRET").unwrap_or_else(|_| SECRET.to_owned());
    let port: u16 = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;

    let pool = webhook::open("sqlite://webhook.db".parse()?).await?;
    let store = SqliteStore::new(pool);
    store.migrate().await?;
    let sweeper = store.sweeper(Sweep::default());

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let body = r#"{"id": "evt_1", "type": "invoice.paid", "invoice": "inv_1", "amount": 100}"#;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let signature = Webhook::new(&secret)?.sign("msg_1", now, body.as_bytes())?;
    println!(
        "listening on http://{address}

Send a message, then send the same line again:

  curl -i http://{address}/webhooks/messages \\
    -H 'webhook-id: msg_1' -H 'webhook-timestamp: {now}' -H 'webhook-signature: {signature}' \\
    -H 'Content-Type: application/json' -d '{body}'
",
        address = listener.local_addr()?
    );
    let app = webhook::app(store.clone(), Webhook::new(&secret)?);
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    store.drain(Duration::from_secs(30)).await;
    sweeper.stop().await;
    Ok(())
}
