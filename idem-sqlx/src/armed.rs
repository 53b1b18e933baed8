//! A lease that was claimed and has not reached its run.

use idem_core::{Holder, Kind};
use tokio::runtime::Handle;

/// Releases the lease, unless it is disarmed: a claim may be dropped while its COMMIT is under way.
pub(crate) struct Armed<H: Holder>(Option<H>);

impl<H: Holder> Armed<H> {
    pub(crate) fn new(holder: H) -> Self {
        Self(Some(holder))
    }

    pub(crate) fn disarm(mut self) -> H {
        self.0.take().expect("armed until now")
    }
}

impl<H: Holder> Drop for Armed<H> {
    fn drop(&mut self) {
        let Some(holder) = self.0.take() else { return };
        // Without a runtime the lease ends by itself.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                match holder.release().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == Kind::LeaseLost => {}
                    Err(error) => {
                        tracing::debug!(target: "idem", %error, "a claim was not released; its lease ends by itself");
                    }
                }
            });
        }
    }
}
