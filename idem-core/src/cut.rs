//! What drops a body before it has answered.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::sleep;

use crate::error::Kind;

/// Is ready when the run has lost its right to run, or when its deadline is over, and says which (rule 12a).
pub(crate) async fn cut(lost: impl Future<Output = ()> + Send + 'static, deadline: Duration) -> Kind {
    match select(pin!(lost), pin!(sleep(deadline))).await {
        Either::Left(_) => Kind::LeaseLost,
        Either::Right(_) => Kind::DeadlineExceeded,
    }
}

/// The body's answer, or why it was cut first. The body is dropped then.
///
/// The body is boxed, since it may be of any size: whatever holds this future, a handler's caller or a test that joins
/// several, would hold and move it, too.
pub(crate) fn within<T>(
    cut: impl Future<Output = Kind>,
    body: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Kind>> {
    let body = Box::pin(body);
    async move {
        match select(body, pin!(cut)).await {
            Either::Left((answer, _)) => Ok(answer),
            Either::Right((kind, _)) => Err(kind),
        }
    }
}
