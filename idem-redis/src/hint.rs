//! A hint in Redis, in front of a database.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use idem_core::hint::{Hint, Name, Secret};
use idem_core::observer::Source;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::{Client, Cmd, FromRedisValue, RedisError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::builder::ConnectError;
use crate::connection::Server;

/// Replies in Redis or Valkey, shared by all processes that have the same secret: a hint in front of a database.
///
/// ```no_run
/// # fn example<B>(hint: impl Fn(idem_redis::RedisHint) -> B) -> Result<B, Box<dyn std::error::Error>> {
/// use idem_core::hint::Secret;
/// use idem_redis::RedisHint;
///
/// let secret = Secret::new(std::env::var("IDEM_HINT_SECRET")?)?;
/// let builder = hint(RedisHint::new("redis://10.0.0.1/", secret)?);
/// # Ok(builder) }
/// ```
///
/// Give it to `PgStore::builder(pool).hint(…)`. The page [`hints`](idem_core::docs::hints) has the rules.
///
/// # Rules
/// - The server may lose everything at any time, may remove what it likes (`allkeys-lru` is fine), and may be away,
///   also at the start: requests are answered by the database then.
/// - It learns neither keys nor their hashes. It has the replies, in clear unless the store is
///   [sealed](idem_core::seal).
/// - It cannot make a process replay a reply that is not the request's own: a program that writes to it does not have the
///   secret.
/// - An entry lives for its record's `ttl`, and for [`longest`](Self::longest) at most.
#[derive(Clone)]
pub struct RedisHint {
    inner: Arc<Inner>,
    secret: Secret,
    longest: Duration,
    prefix: String,
}

struct Inner {
    target: Target,
    server: OnceLock<Server>,
    is_connecting: AtomicBool,
    /// Writes that are under way. A server that has fallen silent does not fill the memory of the process with them.
    writes: Semaphore,
}

enum Target {
    Single(Client),
    Cluster(Box<ClusterClient>),
}

/// How long a write may take. Nobody waits for it.
const WRITE: Duration = Duration::from_secs(1);

/// Most writes at a time.
const WRITES: usize = 1024;

/// The pause between two tries to connect.
const PAUSE: Duration = Duration::from_secs(1);

impl RedisHint {
    /// A hint on one server. It connects in the background.
    ///
    /// # Errors
    /// [`ConnectError::Url`].
    pub fn new(url: &str, secret: Secret) -> Result<Self, ConnectError> {
        let client = Client::open(url).map_err(|_| ConnectError::Url)?;
        Ok(Self::on(Target::Single(client), secret))
    }

    /// A hint on a cluster, of which these are some nodes. It connects in the background.
    ///
    /// # Errors
    /// [`ConnectError::Url`].
    pub fn cluster<'u>(urls: impl IntoIterator<Item = &'u str>, secret: Secret) -> Result<Self, ConnectError> {
        let builder = ClusterClientBuilder::new(urls).connection_timeout(WRITE).response_timeout(WRITE).retries(1);
        Ok(Self::on(Target::Cluster(Box::new(builder.build().map_err(|_| ConnectError::Url)?)), secret))
    }

    fn on(target: Target, secret: Secret) -> Self {
        let inner = Inner {
            target,
            server: OnceLock::new(),
            is_connecting: AtomicBool::new(false),
            writes: Semaphore::new(WRITES),
        };
        let hint = Self {
            inner: Arc::new(inner),
            secret,
            longest: Duration::from_secs(24 * 60 * 60),
            prefix: "idem-hint:".to_owned(),
        };
        hint.server();
        hint
    }

    /// How long an entry lives at most. Default: a day. Retries come early, and memory costs.
    #[must_use]
    pub fn longest(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// What the names of all keys begin with. Default: `idem-hint:`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The connection, if there is one. Otherwise a task connects.
    fn server(&self) -> Option<Server> {
        if let Some(server) = self.inner.server.get() {
            return Some(server.clone());
        }
        let runtime = Handle::try_current().ok()?;
        if !self.inner.is_connecting.swap(true, Ordering::AcqRel) {
            let connecting = Connecting(self.inner.clone());
            runtime.spawn(async move {
                let Connecting(inner) = &connecting;
                match timeout(2 * WRITE, inner.target.connect()).await {
                    Ok(Ok(server)) => drop(inner.server.set(server)),
                    failed => {
                        // Its text may have the address, and no password.
                        let error = failed.ok().and_then(Result::err).map(|error| error.kind());
                        tracing::warn!(target: "idem", ?error, "the hint cannot reach Redis; the database answers");
                        sleep(PAUSE).await;
                    }
                }
            });
        }
        None
    }

    fn key(&self, name: &Name) -> Vec<u8> {
        [self.prefix.as_bytes(), name.as_bytes()].concat()
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        match self.server()? {
            Server::Single(mut manager) => command.query_async(&mut manager).await.ok(),
            Server::Cluster(mut cluster) => command.query_async(&mut cluster).await.ok(),
        }
    }

    async fn write(&self, command: &Cmd) {
        let Ok(_write) = self.inner.writes.try_acquire() else { return };
        _ = timeout(WRITE, self.ask::<redis::Value>(command)).await;
    }
}

impl Target {
    async fn connect(&self) -> Result<Server, RedisError> {
        match self {
            Self::Single(client) => {
                // It connects anew by itself from then on.
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_min_delay(Duration::from_millis(20))
                    .set_connection_timeout(Some(WRITE))
                    .set_response_timeout(Some(WRITE));
                Ok(Server::Single(ConnectionManager::new_with_config(client.clone(), config).await?))
            }
            Self::Cluster(client) => Ok(Server::Cluster(client.get_async_connection().await?)),
        }
    }
}

impl Hint for RedisHint {
    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let value: Option<Vec<u8>> = self.ask(redis::cmd("GET").arg(self.key(name))).await?;
            value.map(Bytes::from)
        })
    }

    fn put<'a>(&'a self, name: &'a Name, value: Bytes, lifetime: Duration) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let lifetime = u64::try_from(lifetime.min(self.longest).as_millis()).unwrap_or(u64::MAX);
            if lifetime > 0 {
                self.write(redis::cmd("SET").arg(self.key(name)).arg(&value[..]).arg("PX").arg(lifetime)).await;
            }
        })
    }

    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.write(redis::cmd("DEL").arg(self.key(name))).await })
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn source(&self) -> Source {
        Source::Redis
    }
}

impl fmt::Debug for RedisHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHint").finish_non_exhaustive()
    }
}

/// One task at a time connects, until this is dropped.
struct Connecting(Arc<Inner>);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.is_connecting.store(false, Ordering::Release);
    }
}
