//! Sends each notification once. The README says how to try it.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::env;
use std::error::Error;
use std::time::Duration;

use idem_redis::RedisStore;
use notify::Mailer;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    let (host, smtp) = (env::var("SMTP_HOST").unwrap_or_else(|_| "127.0.0.1".to_owned()), port("SMTP_PORT", 25)?);

    let store = RedisStore::connect(&redis).await?;
    let mailer = Mailer::new(&host, smtp, "shop@example.com")?;
    let listener = TcpListener::bind(("127.0.0.1", port("PORT", 3000)?)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, notify::app(store.clone(), mailer)).with_graceful_shutdown(stop).await?;
    store.drain(Duration::from_secs(30)).await;
    Ok(())
}

fn port(variable: &str, default: u16) -> Result<u16, Box<dyn Error>> {
    Ok(env::var(variable).map_or(Ok(default), |port| port.parse())?)
}
