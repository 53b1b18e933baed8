//! The builder of a store: it connects, and asks the server whether a store may rely on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use idem_core::observer::Observer;
use idem_core::seal::{Seal, Sealer};
use idem_core::store::{DEFAULT_DEADLINE, Runs};
use idem_core::{Error, Kind};
use redis::aio::ConnectionManagerConfig;
use redis::cluster::ClusterClientBuilder;
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, RedisError};
use tokio::time::timeout;

use crate::connection::{Connection, Durable, Server};
use crate::failure::Failed;
use crate::running::Running;
use crate::store::{Inner, RedisStore};

/// Configures a [`RedisStore`].
pub struct RedisStoreBuilder {
    urls: Vec<String>,
    is_cluster: bool,
    prefix: String,
    durable: Durable,
    timeout: Duration,
    patience: Duration,
    reply_limit: usize,
    deadline: Duration,
    sealer: Sealer,
    observer: Option<Arc<dyn Observer>>,
}

/// Why a store cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be read. It is not shown: it may have a password in it.
    #[error("the URL of Redis cannot be read, or asks for what this client is not built for")]
    Url,
    /// The server could not be asked.
    #[error("Redis cannot be used")]
    Unavailable(#[source] Error),
    /// The server removes records when its memory is full: a retry of a request that has run would run again.
    #[error("Redis has `maxmemory-policy {0}`, under which it removes records that are needed: set it to `noeviction`")]
    Evicts(String),
    /// The server is older than Redis 7.0.
    #[error("this is Redis {0}, and the store needs 7.0 or later")]
    TooOld(String),
    /// The server does not know what [`wait_aof`](RedisStoreBuilder::wait_aof) asks for.
    #[error("this server cannot wait for its append-only file: it has none, or is older than Redis 7.2")]
    NoWaitAof,
    /// The records of this prefix are named by another index key, or one of the two has none. An index key comes before the
    /// first request, and is the same in every process: see the page [`encryption`](idem_core::docs::encryption).
    #[error(
        "the records of this prefix are named by another index key than this process has, or one of the two has none"
    )]
    OtherIndex,
    /// The prefix is empty or has a brace, which would decide in which slot of a cluster a key is.
    #[error("a prefix has 1 to 64 printable ASCII characters, and no brace")]
    Prefix,
}

impl RedisStoreBuilder {
    pub(crate) fn new(urls: Vec<String>, is_cluster: bool) -> Self {
        Self {
            urls,
            is_cluster,
            prefix: "idem".to_owned(),
            durable: Durable { patience: Duration::from_secs(1), ..Durable::default() },
            timeout: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            reply_limit: 1024 * 1024,
            deadline: DEFAULT_DEADLINE,
            sealer: Sealer::default(),
            observer: None,
        }
    }

    /// What the names of all keys begin with. Default: `idem`. Stores of one prefix share their records.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Lets a write count only when so many replicas have it in memory: `WAIT`. Default: 0. If they do not have it after
    /// this time, the request is answered as if Redis had not answered.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), idem_redis::ConnectError> {
    /// use std::time::Duration;
    /// use idem_redis::RedisStore;
    ///
    /// let nodes = ["redis://10.0.0.1/", "redis://10.0.0.2/"];
    /// let store = RedisStore::cluster(nodes).wait(1, Duration::from_millis(500)).build().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Limitations
    /// - It narrows what a failover loses, and does not end it: a replica that does not have the write may still be
    ///   elected, after a partition or with more than one replica.
    /// - The connection waits meanwhile, and with it the other requests of this process to that server.
    #[must_use]
    pub fn wait(mut self, replicas: u32, patience: Duration) -> Self {
        (self.durable.replicas, self.durable.patience) = (replicas, patience);
        self
    }

    /// Lets a write count only when it is in the append-only file of its server, and in those of so many replicas:
    /// `WAITAOF`, which needs Redis 7.2 or Valkey. With `appendfsync always` the server's own file needs no waiting.
    ///
    /// The limitations of [`wait`](Self::wait) apply.
    #[must_use]
    pub fn wait_aof(mut self, replicas: u32, patience: Duration) -> Self {
        (self.durable.files, self.durable.patience) = (Some(replicas), patience);
        self
    }

    /// How long an answer of the server may take. Default: 2 seconds. A claim that is not answered by then is
    /// `store_unavailable`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// For how long a completion is sent again whose answer is lost. Default: 10 seconds. After that, the caller gets
    /// `outcome_unknown`.
    #[must_use]
    pub fn completion_deadline(mut self, deadline: Duration) -> Self {
        self.patience = deadline;
        self
    }

    /// The longest reply that is stored, in bytes of its headers and body, and the longest result of a step. Default: 1 MiB.
    ///
    /// A longer reply goes to its caller and leaves a tombstone: a retry gets 410 and does not run.
    #[must_use]
    pub fn reply_limit(mut self, bytes: usize) -> Self {
        self.reply_limit = bytes;
        self
    }

    /// How long a run may take, unless its handler says otherwise by `deadline = "…"`. Default: 60 seconds.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Encrypts what is stored: replies, final errors, results of steps and recorded inputs. Default: nothing is
    /// encrypted. The page [`encryption`](idem_core::docs::encryption) has the rules.
    #[must_use]
    pub fn seal(mut self, seal: impl Seal) -> Self {
        self.sealer = Sealer::new(seal);
        self
    }

    /// Who is told what happens to requests. Default: nobody.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Connects, and asks every server whether a store may rely on it.
    ///
    /// # Errors
    /// [`ConnectError`]: the server cannot be reached, is too old, or has another `maxmemory-policy` than `noeviction`. In a
    /// cluster one such server is enough, master or replica, if it answers.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// # Limitations
    /// - The servers are asked once. A server that gets another policy later is not noticed.
    pub async fn build(self) -> Result<RedisStore, ConnectError> {
        let is_plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '{' | '}');
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.chars().all(is_plain) {
            return Err(ConnectError::Prefix);
        }
        let connection = Connection { server: self.connect().await?, timeout: self.timeout, durable: self.durable };
        check(&connection).await?;
        check_index(&connection, &self.prefix, &self.sealer).await?;
        Ok(RedisStore::new(Inner {
            connection,
            prefix: self.prefix,
            patience: self.patience,
            reply_limit: self.reply_limit,
            deadline: self.deadline,
            sealer: self.sealer,
            observer: self.observer,
            runs: Runs::default(),
            running: Running::default(),
        }))
    }

    async fn connect(&self) -> Result<Server, ConnectError> {
        // A peer that no longer acknowledges what it is sent is given up, and the next request connects anew.
        let tcp = || TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = || tcp().set_user_timeout(self.timeout);
        let answer = self.timeout.saturating_add(self.durable.patience);
        let parsed = self.urls.iter().map(|url| {
            let info = url.as_str().into_connection_info().map_err(|_| ConnectError::Url)?;
            Ok(info.set_tcp_settings(tcp()))
        });
        let mut nodes = parsed.collect::<Result<Vec<_>, ConnectError>>()?;
        if self.is_cluster {
            let client = ClusterClientBuilder::new(nodes)
                .connection_timeout(self.timeout)
                .response_timeout(answer)
                .retries(8)
                .min_retry_wait(20)
                .max_retry_wait(200)
                .tcp_settings(tcp())
                .build()
                .map_err(|_| ConnectError::Url)?;
            return Ok(Server::Cluster(self.in_time(client.get_async_connection()).await?));
        }
        let client = Client::open(nodes.pop().ok_or(ConnectError::Url)?).map_err(|_| ConnectError::Url)?;
        // One try, then an answer: the next request tries again.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(20))
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(answer));
        Ok(Server::Single(self.in_time(client.get_connection_manager_with_config(config)).await?))
    }

    async fn in_time<T>(&self, connected: impl Future<Output = Result<T, RedisError>>) -> Result<T, ConnectError> {
        match timeout(self.timeout.saturating_mul(2), connected).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(unavailable(error.into())),
            Err(_) => Err(unavailable(Failed::unknown("no connection in time"))),
        }
    }
}

fn unavailable(failed: Failed) -> ConnectError {
    ConnectError::Unavailable(failed.harmless())
}

/// Asks every server what a store must know. `INFO` is allowed where `CONFIG` is not.
async fn check(connection: &Connection) -> Result<(), ConnectError> {
    let ask = async |section: &str| {
        let mut info = redis::cmd("INFO");
        info.arg(section);
        // A node of a cluster may be down at this time, and the store works without it.
        let answers = match connection.ask_all(&info).await {
            Ok(answers) => answers,
            Err(_) => connection.ask_masters(&info).await.map_err(unavailable)?,
        };
        let text = |(_, value)| redis::from_redis_value::<String>(value).map_err(|error| unavailable(strange(error)));
        answers.into_iter().map(text).collect::<Result<Vec<_>, ConnectError>>()
    };
    for info in ask("server").await? {
        let version = entry(&info, "redis_version");
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Err(ConnectError::TooOld(version.to_owned()));
        }
    }
    for info in ask("memory").await? {
        let policy = entry(&info, "maxmemory_policy");
        if policy != "noeviction" {
            return Err(ConnectError::Evicts(policy.to_owned()));
        }
    }
    if connection.durable.files.is_some() {
        let mut wait = redis::cmd("WAITAOF");
        if connection.ask_masters(wait.arg(1).arg(0).arg(1)).await.is_err() {
            return Err(ConnectError::NoWaitAof);
        }
    }
    Ok(())
}

/// Notes the mark of the store's index key, or compares it with the one that is noted: records of another index key have
/// other names, so their requests would run again.
async fn check_index(connection: &Connection, prefix: &str, sealer: &Sealer) -> Result<(), ConnectError> {
    let (key, mark) = (format!("{prefix}:index"), sealer.mark().map_or_else(|| "none".to_owned(), |mark| mark.id()));
    let noted = connection.ask_by_key(redis::cmd("SET").arg(&key).arg(&mark).arg("NX").arg("GET")).await;
    let noted = redis::from_redis_value::<Option<String>>(noted.map_err(unavailable)?);
    match noted.map_err(|error| unavailable(strange(error)))? {
        Some(noted) if noted != mark => Err(ConnectError::OtherIndex),
        _ => Ok(()),
    }
}

fn strange(error: impl Into<RedisError>) -> Failed {
    Failed::from(error.into())
}

/// The value of this name in what `INFO` answers.
fn entry<'i>(info: &'i str, name: &str) -> &'i str {
    let value = |line: &'i str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).unwrap_or("").trim()
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unavailable(error) => error,
            other => Error::new(Kind::DeploymentBroken).caused_by(other),
        }
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
