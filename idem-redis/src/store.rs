//! The store.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use idem_core::machine::{Explanation, Retry};
use idem_core::observer::{Observer, Source};
use idem_core::operate::Inspect;
use idem_core::seal::Sealer;
use idem_core::store::{Abandoned, Place, Recover, Runs, Store};
use idem_core::{Error, Identity, Resumed};
use serde::de::DeserializeOwned;

use crate::builder::{ConnectError, RedisStoreBuilder};
use crate::connection::Connection;
use crate::keys::Keys;
use crate::operate;
use crate::running::Running;

/// Keeps records in Redis, and keeps its promises **while Redis loses no acknowledged write**: for handlers whose effects
/// are all calls, such as a mail or an account at a provider.
///
/// ```no_run
/// use idem_core::{Error, idempotent};
/// use idem_redis::{RedisSteps, RedisStore};
/// # async fn deliver(_: &str, _: &str) -> Result<String, Error> { Ok(String::new()) }
///
/// #[idempotent(key = id, scope = "mails", ttl = "24h")]
/// async fn send(steps: &mut RedisSteps, id: &str, to: &str) -> Result<String, Error> {
///     steps.call("deliver", async |key| deliver(to, key.as_str()).await).await
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::connect("redis://127.0.0.1/").await?;
/// send(&store, "order-17", "ada@example.com").await?;
/// # Ok(()) }
/// ```
///
/// A cheap handle: clones share everything. The page [`redis`](crate::docs::redis) has what is promised, what is lost when
/// Redis loses writes, and which settings of the server narrow that.
///
/// # Rules
/// - A record is one hash, every operation on it is one script, and all its keys are in one slot. The clock is the server's.
/// - The store shares its keys with every store of the same [`prefix`](RedisStoreBuilder::prefix).
/// - If Redis cannot be reached, a request is refused as `store_unavailable` (503) and does not run.
/// - Another program's value under the name of a record, a record that lacks a field, and one of a later release are
///   refused as `record_unreadable` and do not run.
///
/// # Limitations
/// - No handler writes in a transaction with its record: see [`RedisTx`](crate::RedisTx).
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) connection: Connection,
    pub(crate) prefix: String,
    pub(crate) patience: Duration,
    pub(crate) reply_limit: usize,
    pub(crate) deadline: Duration,
    pub(crate) sealer: Sealer,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) runs: Runs,
    pub(crate) running: Running,
}

impl RedisStore {
    /// A store on the server of this URL, with the builder's defaults.
    ///
    /// # Errors
    /// Those of [`RedisStoreBuilder::build`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url).build().await
    }

    /// A store on one server, to be configured: `redis://user:password@host:port/db`.
    #[must_use]
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::new(vec![url.to_owned()], false)
    }

    /// A store on a cluster, to be configured. Some of its nodes are enough: they know the others.
    #[must_use]
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(urls.into_iter().map(Into::into).collect(), true)
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Waits until no run is active, but no longer than the limit. Returns false if runs were still active then. Call it
    /// after the server has stopped accepting requests.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.runs.drain(limit).await
    }

    /// Explains what a retry would get now, and why, by the decisions that answer requests. It changes nothing, and shows
    /// nothing of a request or a reply.
    ///
    /// ```no_run
    /// # async fn example(store: &idem_redis::RedisStore) -> Result<(), idem_core::Error> {
    /// use idem_core::Identity;
    /// use idem_core::machine::{Expected, Retry};
    /// use idem_core::store::LeaseTerms;
    ///
    /// let identity = Identity::new("mails", "mails.send", "order-17")?;
    /// let retry = Retry { terms: Some(LeaseTerms::DEFAULT), ..Retry::default() };
    /// if let Expected::Refuse(kind) = store.explain(&identity, &retry).await?.expected {
    ///     println!("{}", kind.code());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Redis cannot be reached.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn explain(&self, identity: &Identity, retry: &Retry) -> Result<Explanation, Error> {
        Inspect::explain(self, identity, retry).await
    }

    /// Resumes the abandoned runs of an operation: it gives the recorded input of each run to the handler, one run after
    /// the other. Call it when the process starts, and at intervals.
    ///
    /// ```no_run
    /// use idem_core::{Error, idempotent};
    /// use idem_redis::{RedisSteps, RedisStore};
    /// # async fn deliver(_: &str, _: &str) -> Result<(), Error> { Ok(()) }
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Mail {
    ///     id: String,
    ///     to: String,
    /// }
    ///
    /// #[idempotent(key = mail.id, scope = "mails", operation = "mails.send", record_input = mail)]
    /// async fn send(steps: &mut RedisSteps, mail: &Mail) -> Result<(), Error> {
    ///     steps.call("deliver", async |key| deliver(&mail.to, key.as_str()).await).await
    /// }
    ///
    /// async fn go_on(store: &RedisStore) -> Result<(), Error> {
    ///     let resumed = store.resume_abandoned("mails.send", async |mail: Mail| send(store, &mail).await).await?;
    ///     println!("{} mails sent, {} not", resumed.succeeded, resumed.failed);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Rules
    /// - The rules of the SQL stores' method of this name.
    /// - The runs that are not over are in an index, a sorted set in each of 256 shards. A pass reads the indexes, and then
    ///   each run in them: its cost depends on the number of runs, and not on the number of records.
    ///
    /// # Errors
    /// Redis cannot be reached.
    ///
    /// # Cancel safety
    /// When it is dropped, the current run is released, or becomes free when its lease ends.
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

    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.0.prefix
    }

    pub(crate) fn keys(&self, identity: &Identity) -> Keys {
        Keys::of(&self.0.prefix, identity)
    }

    /// How long an operation is tried whose answers are lost.
    pub(crate) fn patience(&self) -> Duration {
        self.0.patience
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    pub(crate) fn running(&self) -> &Running {
        &self.0.running
    }
}

impl Store for RedisStore {
    fn reply_limit(&self) -> usize {
        self.0.reply_limit
    }

    fn runs(&self) -> &Runs {
        &self.0.runs
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.0.observer.as_ref()
    }

    fn source(&self) -> Source {
        Source::Redis
    }

    fn deadline(&self) -> Duration {
        self.0.deadline
    }
}

impl Recover for RedisStore {
    async fn abandoned(&self, operation: &str, after: Option<Place>) -> Result<Vec<Abandoned>, Error> {
        let sealed = operate::abandoned(self, operation, after).await?;
        Ok(sealed.into_iter().map(|run| self.sealer().abandoned(operation, run)).collect())
    }

    fn place(&self, identity: &Identity) -> Place {
        Place::of(&self.sealer().identity(identity))
    }
}

/// For a router whose state is an `Arc<App>`.
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<App: AsRef<Self>> axum::extract::FromRef<Arc<App>> for RedisStore {
    fn from_ref(app: &Arc<App>) -> Self {
        app.as_ref().as_ref().clone()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.0.prefix).finish_non_exhaustive()
    }
}
