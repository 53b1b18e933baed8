//! Orders as Kafka delivers them: more than once, to more than one, and in the middle of a crash.
//!
//! Each test runs on librdkafka's mock cluster and on a broker process, by the same source.

mod broker;
mod deliveries;
mod outages;
mod program;
mod shop;
mod soak;

/// Each test twice: in `mock` and in `broker_process`.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod mock {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&crate::broker::Broker::mock()).await;
                }
            )*
        }
        mod broker_process {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&crate::broker::Broker::process()).await;
                }
            )*
        }
    };
}
use on_both;

use std::time::{Duration, Instant};

/// Waits until the condition holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    until_within(Duration::from_secs(30), what, condition).await;
}

async fn until_within(limit: Duration, what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
