//! The public names for leased runs.

use std::future::Future;

use idem_core::machine::{Explanation, Retry};
use idem_core::store::{Abandoned, Place, Recover};
use idem_core::{Error, Identity, Resumed, Steps};
use serde::de::DeserializeOwned;

use super::store::SqliteStore;
use crate::lease::{self, DbLease};
use crate::operate;

/// The steps of a leased run on SQLite: what a handler gets as `steps: &mut SqliteSteps`.
///
/// ```
/// use idem_core::Error;
/// use idem_sqlx::SqliteSteps;
/// # async fn post(_: &str) -> Result<String, Error> { Ok(String::new()) }
///
/// async fn pay(steps: &mut SqliteSteps, order: i64) -> Result<String, Error> {
///     steps
///         .transaction("reserve", async |tx| {
///             let reserve = sqlx::query("UPDATE stock SET free = free - 1 WHERE id = $1").bind(order);
///             reserve.execute(tx).await.map(|_| ()).map_err(idem_sqlx::into_idem_error)
///         })
///         .await?;
///     steps.call("charge", async |key| post(key.as_str()).await).await
/// }
/// ```
///
/// # Limitations
/// - A step's transaction has the write lock, like every handler's transaction on SQLite, and every other writer waits
///   for it. Keep the step short, and let it wait for nothing.
pub type SqliteSteps = Steps<SqliteLease>;

/// The right to run one attempt, on SQLite: see [`SqliteSteps`].
pub type SqliteLease = DbLease<SqliteStore>;

impl SqliteStore {
    /// Explains what a retry would get now, and why, by the decisions that answer requests. It changes nothing, and shows
    /// nothing of a request or a reply.
    ///
    /// ```no_run
    /// # async fn example(store: &idem_sqlx::SqliteStore) -> Result<(), idem_core::Error> {
    /// use idem_core::Identity;
    /// use idem_core::machine::{Expected, Retry};
    ///
    /// let identity = Identity::new("ada", "payments.create", "order-1")?;
    /// let explained = store.explain(&identity, &Retry::default()).await?;
    /// if let Expected::Refuse(kind) = explained.expected {
    ///     println!("{}", kind.code());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Rules
    /// - The record does not say how many attempts the handler allows: a question about a leased handler has the
    ///   handler's `terms`.
    /// - It does not wait for the write lock. A transaction that runs in another process is not seen before it commits.
    ///
    /// # Errors
    /// The database cannot be reached, or its tables do not fit.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn explain(&self, identity: &Identity, retry: &Retry) -> Result<Explanation, Error> {
        operate::explain(self, identity, retry).await
    }

    /// Resets the attempts of a leased run that has used up its `attempts`, or whose next attempt may not begin yet. The
    /// next retry resumes the run at once, after its finished steps. Returns whether there was a run that is not over
    /// and that no process holds.
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn reset_attempts(&self, identity: &Identity) -> Result<bool, Error> {
        lease::reset_attempts(self, identity).await
    }

    /// Resumes the abandoned runs of an operation: it gives the recorded input of each run to the handler, one run
    /// after the other. Call it when the process starts, and at intervals.
    ///
    /// ```no_run
    /// use idem_core::{Error, idempotent};
    /// use idem_sqlx::{SqliteSteps, SqliteStore};
    /// # async fn deliver(_: &str, _: &str) -> Result<(), Error> { Ok(()) }
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Mail {
    ///     id: String,
    ///     to: String,
    /// }
    ///
    /// #[idempotent(key = mail.id, scope = "mails", operation = "mails.send", record_input = mail)]
    /// async fn send(steps: &mut SqliteSteps, mail: &Mail) -> Result<(), Error> {
    ///     steps.call("deliver", async |key| deliver(&mail.to, key.as_str()).await).await
    /// }
    ///
    /// async fn go_on(store: &SqliteStore) -> Result<(), Error> {
    ///     let resumed = store.resume_abandoned("mails.send", async |mail: Mail| send(store, &mail).await).await?;
    ///     println!("{} mails sent, {} not", resumed.succeeded, resumed.failed);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Rules
    /// - The handler is the annotated function itself, called with the input that its `record_input` recorded. It
    ///   claims the run as a retry does, so any number of processes can resume runs at a time, beside the callers.
    /// - A run is abandoned when its lease has ended and the run has not: its process died, or the run failed and was
    ///   released.
    /// - Each run is given to the handler once in a pass. Each time is an attempt: one that fails is
    ///   [spaced](idem_core::Kind::AttemptTooSoon), one that crashes counts. A run whose next attempt may not begin yet
    ///   is left for a later pass. A run whose attempts are used up answers `Err` until an operator
    ///   [resets](Self::reset_attempts) them.
    /// - It begins no new run. A run that is over by then, or has expired, answers
    ///   [`NothingToResume`](idem_core::Kind::NothingToResume). So does a call under another operation, scope or key
    ///   that the handler makes before the run's own. Calls inside the run are not restricted, nor are tasks that the
    ///   handler spawns.
    ///
    /// # Errors
    /// The database cannot be reached.
    ///
    /// # Cancel safety
    /// When it is dropped, the current run is released, or becomes free when its lease ends.
    ///
    /// # Limitations
    /// - The input is in the database as JSON until its run is over or expires.
    pub async fn resume_abandoned<T, F, R, E>(
        &self,
        operation: &str,
        handler: impl Fn(T) -> F,
    ) -> Result<Resumed, Error>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<R, E>>,
    {
        idem_core::resume_abandoned(self, operation, handler).await
    }
}

impl Recover for SqliteStore {
    async fn abandoned(&self, operation: &str, after: Option<Place>) -> Result<Vec<Abandoned>, Error> {
        lease::abandoned(self, operation, after.as_ref()).await
    }

    fn place(&self, identity: &Identity) -> Place {
        Place::of(&self.inner().sealer.identity(identity))
    }
}
