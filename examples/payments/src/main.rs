//! A payment is charged once, however often its request is sent.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p payments
//! DATABASE_URL=postgres://localhost/shop cargo run -p payments --features postgres
//! ```
//!
//! Try with this line, twice: the second answer is the first one, marked `idempotent-replayed: true`.
//!
//! ```not_rust
//! curl -i http://127.0.0.1:3000/payments \
//!   -H 'Authorization: Bearer ada' -H 'Idempotency-Key: order-1' \
//!   -H 'Content-Type: application/json' -d '{"customer_id": "c1", "amount": 100, "currency": "USD"}'
//! ```
//!
//! `PORT` is the port, `DATABASE_URL` the database. With `CHARGE_MS=5000` a charge takes five seconds, which is long
//! enough to see a duplicate being refused. `cargo run -p payments -- demo` shows all of it.
//!
//! With `--features metrics`, `GET /metrics` is what Prometheus scrapes.

// A program prints its address on its standard output.
#![allow(clippy::print_stdout)]

mod caller;
mod database;
mod demo;
mod error;
#[cfg(feature = "metrics")]
mod metrics;
mod payments;

use std::env;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
#[cfg(feature = "metrics")]
use idem_core::observer::Metrics;
use idem_sqlx::Sweep;
use tokio::net::TcpListener;

use crate::database::Store;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The router's state.
#[derive(Clone)]
struct App {
    store: Store,
    charge_time: Duration,
}

/// Lets the attribute find the store. Without it, a route to an idempotent handler does not compile.
impl FromRef<App> for Store {
    fn from_ref(app: &App) -> Self {
        app.store.clone()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => serve().await,
        ["demo"] => demo::play().await,
        ["demo", "server"] => demo::serve().await,
        _ => Err("the only argument is `demo`".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("payments: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Failure> {
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://payments.db".to_owned());
    let pool = database::open(&url).await?;
    database::create_tables(&pool).await?;
    let store = Store::builder(pool.clone());
    // First the recorder, then the store that is counted.
    #[cfg(feature = "metrics")]
    let (prometheus, store) = (metrics::install()?, store.observer(Metrics::new()));
    let store = store.build();
    store.migrate().await?;
    let sweeper = store.sweeper(Sweep::default());

    let app = App { store: store.clone(), charge_time: Duration::from_millis(number("CHARGE_MS", 0)?) };
    let router = Router::new()
        .route("/payments", get(payments::list).post(payments::create))
        .route("/payments/{id}", get(payments::get))
        .with_state(app);
    #[cfg(feature = "metrics")]
    let router = router.route("/metrics", metrics::route(prometheus));

    let port: u16 = number("PORT", 3000)?;
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; choose another one with PORT"))?;
    let address = listener.local_addr()?;
    println!(
        "listening on http://{address}

Charge a payment, then send the same line again:

  curl -i http://{address}/payments \\
    -H 'Authorization: Bearer ada' -H 'Idempotency-Key: order-1' \\
    -H 'Content-Type: application/json' -d '{{\"customer_id\": \"c1\", \"amount\": 100, \"currency\": \"USD\"}}'

There is one payment:

  curl http://{address}/payments -H 'Authorization: Bearer ada'
"
    );
    axum::serve(listener, router).with_graceful_shutdown(stop_signal()).await?;

    // A claimed run continues when its client hangs up, so the last connection may end before the last run.
    store.drain(Duration::from_secs(30)).await;
    sweeper.stop().await;
    pool.close().await;
    Ok(())
}

/// Waits for Ctrl-C, or for the SIGTERM of a supervisor. An impatient supervisor may send SIGKILL: an interrupted
/// charge leaves nothing, and its retry charges.
async fn stop_signal() {
    let interrupt = async {
        tokio::signal::ctrl_c().await.expect("a handler for Ctrl-C");
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler for SIGTERM").recv().await;
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();

    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

/// A number from the environment.
fn number<T: FromStr>(name: &str, default: T) -> Result<T, Failure> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} has to be a whole number, not {text:?}").into()),
        Err(_) => Ok(default),
    }
}
