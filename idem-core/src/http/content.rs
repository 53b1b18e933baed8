//! The content of a request that is compared with a retry.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use bytes::Bytes;
use http::{HeaderValue, Method, Uri};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::catch::no_answer;
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;

/// A longer body is digested on a thread for blocking work. A digest has no await, and a client that means harm can
/// make it take some 0.2 microseconds for each byte: a body of this length holds an async worker for a few
/// milliseconds at the worst, and a usual one for less than the switch of threads costs.
const AT_ONCE: usize = 16 * 1024;

/// Long bodies that may be digested at once. More than there are processors end no earlier, and take memory.
static LONG: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, NonZero::get)));

/// A request whose whole content counts.
pub(crate) struct Content {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl Content {
    /// The fingerprint of the request.
    ///
    /// # Cancel safety
    /// Dropped while it waits for its turn, it digests nothing. A digest that has begun ends by itself.
    pub(crate) async fn digest(self) -> Result<Fingerprint, Error> {
        if let Some(fingerprint) = self.digest_at_once() {
            return Ok(fingerprint);
        }
        let turn = LONG.acquire().await;
        let digest = spawn_blocking(move || {
            let _turn = turn;
            self.digest_now()
        });
        digest.await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime shuts down. Nothing was run.
            Err(error) => Error::new(Kind::RetryLater).caused_by(no_answer(&error)),
        })
    }

    /// The fingerprint, unless the body is so long that the digest takes a thread for blocking work.
    pub(crate) fn digest_at_once(&self) -> Option<Fingerprint> {
        (self.body.len() <= AT_ONCE).then(|| self.digest_now())
    }

    fn digest_now(&self) -> Fingerprint {
        let content_type = self.content_type.as_ref().map_or(b"".as_slice(), HeaderValue::as_bytes);
        Fingerprint::of_request(self.method.as_str(), self.uri.path(), self.uri.query(), content_type, &self.body)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn content(length: usize) -> Content {
        Content {
            method: Method::POST,
            uri: Uri::from_static("/payments?a=1"),
            content_type: Some(HeaderValue::from_static("application/json")),
            body: format!("[{}]", "1,".repeat(length / 2 - 1) + "1").into(),
        }
    }

    #[tokio::test]
    async fn r05_a_long_body_is_not_digested_on_an_async_worker() {
        let (short, long) = (content(AT_ONCE - 1), content(AT_ONCE + 1));
        assert!(short.body.len() <= AT_ONCE && long.body.len() > AT_ONCE);
        let expected = [short.digest_now(), long.digest_now()];
        assert_eq!(short.digest().now_or_never().expect("at once").expect("a digest"), expected[0]);

        let mut digest = Box::pin(long.digest());
        assert!((&mut digest).now_or_never().is_none(), "it was digested by the worker");
        assert_eq!(digest.await.expect("a digest"), expected[1]);
    }

    #[tokio::test]
    async fn r05_no_more_long_bodies_are_digested_at_once_than_there_are_processors() {
        let all = available_parallelism().map_or(1, NonZero::get) as u32;
        let turns = LONG.acquire_many(all).await.expect("never closed");
        assert_eq!(LONG.available_permits(), 0);
        let mut waiting = Box::pin(content(2 * AT_ONCE).digest());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(content(100).digest().now_or_never().is_some(), "a short body waits for no turn");
        drop(turns);
        waiting.await.expect("a digest");
    }
}
