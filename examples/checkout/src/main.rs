//! An order is reserved, charged and confirmed once, even if a process crashes in between.
//!
//! Run with
//!
//! ```not_rust
//! cargo run -p checkout
//! DATABASE_URL=postgres://localhost/shop cargo run -p checkout --features postgres
//! ```
//!
//! Try with this line, twice: the second answer is the first one, marked `idempotent-replayed: true`.
//!
//! ```not_rust
//! curl -i http://127.0.0.1:3000/orders \
//!   -H 'Authorization: Bearer ada' -H 'Idempotency-Key: order-1' \
//!   -H 'Content-Type: application/json' -d '{"item": "lamp", "quantity": 2, "card": "visa"}'
//! ```
//!
//! `PORT` is the port, `DATABASE_URL` the database, `PROVIDER_URL` the payment provider: a stand-in, unless it is set.
//! `cargo run -p checkout -- provider` runs that stand-in by itself. `cargo run -p checkout -- demo` shows all of it,
//! with the server killed at each point of an order.

// A program prints its address on its standard output.
#![allow(clippy::print_stdout)]

mod caller;
mod database;
mod demo;
mod error;
mod orders;
mod provider;
mod standin;
mod stock;

use std::env;
use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use idem_sqlx::Sweep;
use tokio::net::TcpListener;

use crate::database::Store;
use crate::provider::Provider;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The router's state.
#[derive(Clone)]
struct App {
    store: Store,
    provider: Provider,
}

/// Lets the attribute find the store. Without it, a route to an idempotent handler does not compile.
impl FromRef<App> for Store {
    fn from_ref(app: &App) -> Self {
        app.store.clone()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        // The log layer stops the program at the line that the demo names.
        ["demo", _] => tracing_subscriber::fmt().with_writer(demo::halt::Log::to_the_point).init(),
        _ => tracing_subscriber::fmt().init(),
    }
    let outcome = match arguments[..] {
        [] => serve().await,
        ["provider"] => serve_provider().await,
        ["demo"] => demo::play().await,
        ["demo", "server"] => demo::serve(serve()).await,
        ["demo", "provider"] => demo::serve(serve_provider()).await,
        _ => Err("the only arguments are `provider` and `demo`".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("checkout: {failure}");
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
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://checkout.db".to_owned());
    let pool = database::open(&url).await?;
    database::create_tables(&pool).await?;
    let store = Store::new(pool.clone());
    store.migrate().await?;
    let sweeper = store.sweeper(Sweep::default());

    let patience = Duration::from_millis(number("PROVIDER_TIMEOUT_MS", 10_000)?);
    let provider = match env::var("PROVIDER_URL") {
        Ok(url) => url,
        Err(_) => stand_in().await?,
    };
    let app = App { store: store.clone(), provider: Provider::new(&provider, patience)? };
    let router = Router::new()
        .route("/orders", get(orders::list).post(orders::create))
        .route("/stock", get(stock::list))
        .layer(map_response(log))
        .with_state(app);

    let (listener, address) = listen(3000).await?;
    println!(
        "listening on http://{address}
to crash it: kill -9 {}

Place an order, then send the same line again:

  curl -i http://{address}/orders \\
    -H 'Authorization: Bearer ada' -H 'Idempotency-Key: order-1' \\
    -H 'Content-Type: application/json' -d '{{\"item\": \"lamp\", \"quantity\": 2, \"card\": \"visa\"}}'

There is one order, and two lamps are gone:

  curl http://{address}/orders -H 'Authorization: Bearer ada'
  curl http://{address}/stock
",
        process::id()
    );
    axum::serve(listener, router).with_graceful_shutdown(stop_signal()).await?;

    // A claimed run continues when its client hangs up, so the last connection may end before the last run.
    store.drain(Duration::from_secs(30)).await;
    sweeper.stop().await;
    pool.close().await;
    Ok(())
}

/// The provider as a program.
async fn serve_provider() -> Result<(), Failure> {
    let (listener, address) = listen(4000).await?;
    println!(
        "listening on http://{address}

Take orders with it in another terminal:

  PROVIDER_URL=http://{address} cargo run -p checkout

Say how it is with the provider (\"well\", \"down\", \"stranger\", \"slow\", \"cut\"), and see what it has charged:

  curl -X PUT http://{address}/mood -H 'Content-Type: application/json' -d '\"slow\"'
  curl http://{address}/ledger
"
    );
    Ok(axum::serve(listener, standin::router()).with_graceful_shutdown(stop_signal()).await?)
}

/// A provider inside this program, for trying it out without one.
async fn stand_in() -> Result<String, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, standin::router()).await });
    Ok(url)
}

async fn listen(default: u16) -> Result<(TcpListener, SocketAddr), Failure> {
    let port: u16 = number("PORT", default)?;
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; choose another one with PORT"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn log(response: Response) -> Response {
    tracing::info!(status = response.status().as_u16(), "answering");
    response
}

/// Waits for Ctrl-C, or for the SIGTERM of a supervisor. An impatient supervisor may send SIGKILL: the retry of an
/// interrupted order resumes it.
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
