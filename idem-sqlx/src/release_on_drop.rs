//! The COMMIT of a leased claim, whose caller may go away before the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use idem_core::store::Lease;
use idem_core::{Error, Kind};

use crate::database::CommitFailed;
use crate::settle::in_task;

/// A lease that can be released before its attempt has run.
pub(crate) trait Unused: Lease {
    fn store(&self) -> &Self::Store;

    /// Ends the lease as [`release`](Lease::release) does, but the attempt does not count, because it has not run.
    fn hand_back(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Commits a claim, and returns its lease.
///
/// A COMMIT that was sent may still take effect after its future is dropped. So if the caller goes away, the COMMIT
/// continues in a task of its own, and the lease is released after it. The key is then free at once, not only when the
/// lease ends.
pub(crate) fn commit<L: Unused + Unpin>(
    lease: L,
    commit: impl Future<Output = Result<(), CommitFailed>> + Send + 'static,
) -> impl Future<Output = Result<L, Error>> + Send {
    ReleaseOnDrop(Some((lease, commit.map(|committed| committed.map_err(Into::into)).boxed())))
}

/// A claim that is being committed. `Some` until its COMMIT has answered.
struct ReleaseOnDrop<L: Unused + Unpin>(Option<(L, BoxFuture<'static, Result<(), Error>>)>);

impl<L: Unused + Unpin> Future for ReleaseOnDrop<L> {
    type Output = Result<L, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, commit) = self.0.as_mut().expect("not polled after its end");
        let committed = ready!(commit.as_mut().poll(context));
        let (lease, _) = self.0.take().expect("it was there just now");
        Poll::Ready(match committed {
            Ok(()) => Ok(lease),
            Err(error) => {
                hand_back_after(lease, std::future::ready(()));
                Err(error)
            }
        })
    }
}

impl<L: Unused + Unpin> Drop for ReleaseOnDrop<L> {
    fn drop(&mut self) {
        if let Some((lease, commit)) = self.0.take() {
            hand_back_after(lease, commit.map(drop));
        }
    }
}

fn hand_back_after<L: Unused>(lease: L, committed: impl Future<Output = ()> + Send + 'static) {
    let store = lease.store().clone();
    in_task(&store, async move {
        committed.await;
        match lease.hand_back().await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::LeaseLost => {}
            Err(error) => {
                tracing::debug!(target: "idem", %error, "a claim was not released; its lease ends by itself");
            }
        }
    });
}
