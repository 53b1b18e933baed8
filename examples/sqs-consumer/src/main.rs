//! Books seats from an SQS queue, each booking once.
//!
//! Run with
//!
//! ```not_rust
//! pip install 'moto[server]' && moto_server -p 5000
//! cargo run -p sqs-consumer
//! ```
//!
//! It makes its queues on that server, sends a few messages (one of them twice, one that makes no sense), and reports
//! what becomes of each. With `SQS_QUEUE_URL` and `SQS_DEAD_LETTER_URL` it takes messages from AWS, with the
//! credentials and the region of the environment. The seats are in `sqs-consumer.db`: an event must be in it before its
//! messages arrive.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{DisplayErrorContext, SdkError};
use aws_sdk_sqs::types::Message;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use idem_sqlx::{SqliteStore, Sweep};
use sqlx::SqlitePool;
use sqs_consumer::bookings::on_message;
use sqs_consumer::consumer::Consumer;

/// A local server, for trying it out.
const LOCAL: &str = "http://127.0.0.1:5000";

const MESSAGES: [&str; 5] = [
    r#"{"id": "b-1", "event": "concert", "seats": 2}"#,
    r#"{"id": "b-1", "event": "concert", "seats": 2}"#,
    r#"{"id": "b-2", "event": "concert"}"#,
    r#"{"id": "b-3", "event": "concert", "seats": 1000}"#,
    r#"{"id": "b-4", "event": "concert", "seats": 1}"#,
];

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().init();
    match consume().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sqs-consumer: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn consume() -> Result<(), Box<dyn Error>> {
    let pool = sqs_consumer::open("sqlite://sqs-consumer.db".parse()?).await?;
    let store = SqliteStore::new(pool.clone());
    store.migrate().await?;
    let sweeper = store.sweeper(Sweep::default());

    let consumer = match (env::var("SQS_QUEUE_URL"), env::var("SQS_DEAD_LETTER_URL")) {
        (Ok(queue), Ok(dead_letters)) => Consumer::new(client(environment()).await, &queue, &dead_letters)?,
        (Err(_), Err(_)) => demonstration(&pool).await?,
        _ => return Err("set both SQS_QUEUE_URL and SQS_DEAD_LETTER_URL, or neither".into()),
    };
    let handle = async |message: &Message| on_message(&store, message.body().unwrap_or_default()).await;
    consumer.run(handle, stop_signal()).await;
    store.drain(Duration::from_secs(30)).await;
    sweeper.stop().await;
    Ok(())
}

/// Waits for Ctrl-C, or for the SIGTERM of a supervisor. An impatient supervisor may send SIGKILL: an interrupted
/// message leaves nothing, and is delivered again.
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

/// The settings that AWS's own tools also read: the region, the credentials, the endpoint.
fn environment() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
}

async fn client(config: ConfigLoader) -> Client {
    let https = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    // Without a timeout, the client would wait for ever on a connection that died silently. The longest poll takes 20
    // s.
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(30)).build();
    Client::new(&config.http_client(https).timeout_config(timeouts).load().await)
}

/// Queues of the local server, with messages in one of them.
async fn demonstration(pool: &SqlitePool) -> Result<Consumer, Box<dyn Error>> {
    let nobody = Credentials::new("test", "test", None, None, "none");
    let local = environment().endpoint_url(LOCAL).region(Region::new("us-east-1")).credentials_provider(nobody);
    let sqs = client(local).await;
    let create = async |name: &str| match sqs.create_queue().queue_name(name).send().await {
        Ok(created) => created.queue_url.ok_or_else(|| format!("{LOCAL} gave {name} no URL")),
        Err(SdkError::DispatchFailure(_)) => Err(format!(
            "nothing listens on {LOCAL}. Start a local SQS, and run this again:

  pip install 'moto[server]'
  moto_server -p 5000
"
        )),
        Err(error) => Err(format!("{LOCAL}: {}", DisplayErrorContext(error))),
    };
    let (queue, dead_letters) = (create("bookings").await?, create("bookings-dead").await?);

    sqlx::query("INSERT INTO events VALUES ('concert', 10) ON CONFLICT DO NOTHING").execute(pool).await?;
    for message in MESSAGES {
        sqs.send_message().queue_url(&queue).message_body(message).send().await?;
    }
    Ok(Consumer::new(sqs, &queue, &dead_letters)?)
}
