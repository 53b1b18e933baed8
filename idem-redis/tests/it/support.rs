//! The servers of the tests, and stores that nobody else knows.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem_redis::{RedisStore, RedisStoreBuilder};
use idem_testkit::redis::{Cluster, Redis};
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;

/// A server, or several that are one.
pub(crate) trait Server: Sized + Send + Sync + 'static {
    /// The masters.
    async fn masters() -> Vec<String>;

    fn builder(urls: &[String]) -> RedisStoreBuilder;
}

/// One server for all tests.
#[derive(Debug)]
pub(crate) struct Single;

/// One cluster for all tests.
#[derive(Debug)]
pub(crate) struct Clustered;

impl Server for Single {
    async fn masters() -> Vec<String> {
        static SERVER: OnceCell<Redis> = OnceCell::const_new();
        vec![SERVER.get_or_init(|| Redis::start(&[])).await.url()]
    }

    fn builder(urls: &[String]) -> RedisStoreBuilder {
        RedisStore::builder(&urls[0])
    }
}

impl Server for Clustered {
    async fn masters() -> Vec<String> {
        static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
        let cluster = CLUSTER.get_or_init(|| Cluster::start(&[])).await;
        cluster.urls()[..3].to_vec()
    }

    fn builder(urls: &[String]) -> RedisStoreBuilder {
        RedisStore::cluster(urls)
    }
}

/// A store with a prefix of its own, and direct connections to its servers.
pub(crate) struct Fresh {
    pub(crate) store: RedisStore,
    pub(crate) prefix: String,
    urls: Vec<String>,
    /// The names of records that Redis has removed since the last sweep.
    removed: Mutex<BTreeSet<String>>,
}

/// A prefix that no other test has.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What is as far in the past as this is, is as if the time had passed.
const AGE: &str = "
for _, field in ipairs({ 'lease_until', 'expires_at', 'kept_until' }) do
    local at = redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HGET', KEYS[1], field)
    if at then
        redis.call('HSET', KEYS[1], field, string.format('%.0f', at - ARGV[1]))
    end
end
local at = redis.call('PEXPIRETIME', KEYS[1])
if at > 0 then
    redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', at - math.floor(ARGV[1] / 1000)))
end
return redis.call('EXISTS', KEYS[1])";

impl Fresh {
    pub(crate) async fn on<S: Server>() -> Self {
        Self::with::<S>(|builder| builder).await
    }

    pub(crate) async fn with<S: Server>(set: impl FnOnce(RedisStoreBuilder) -> RedisStoreBuilder) -> Self {
        let (urls, prefix) = (S::masters().await, prefix());
        // The tests of both kinds share two cores.
        let builder = S::builder(&urls).prefix(&prefix).timeout(Duration::from_secs(10));
        let store = set(builder).build().await.expect("a store");
        Self { store, prefix, urls, removed: Mutex::default() }
    }

    /// A connection to each server.
    pub(crate) async fn connections(&self) -> Vec<MultiplexedConnection> {
        let mut connections = Vec::new();
        for url in &self.urls {
            let client = redis::Client::open(url.as_str()).expect("a URL");
            connections.push(client.get_multiplexed_async_connection().await.expect("a connection"));
        }
        connections
    }

    /// The names of all keys of this store, each with the connection to its server.
    pub(crate) async fn names(&self) -> Vec<(MultiplexedConnection, String)> {
        let mut names = Vec::new();
        for mut connection in self.connections().await {
            let mut keys = redis::cmd("KEYS");
            let found: Vec<String> =
                keys.arg(format!("{}:*", self.prefix)).query_async(&mut connection).await.expect("names");
            // The mark of the index key is no part of a record.
            let found = found.into_iter().filter(|name| !name.ends_with(":index"));
            names.extend(found.map(|name| (connection.clone(), name)));
        }
        names
    }

    /// The name of the only record.
    pub(crate) async fn record(&self) -> (MultiplexedConnection, String) {
        let is_record = |name: &str| !name.ends_with(":reply") && !name.ends_with(":runs");
        let mut names: Vec<_> = self.names().await.into_iter().filter(|(_, name)| is_record(name)).collect();
        assert_eq!(names.len(), 1, "{:?}", names.iter().map(|(_, name)| name).collect::<Vec<_>>());
        names.remove(0)
    }

    pub(crate) async fn pass(&self, time: Duration) {
        for (mut connection, name) in self.names().await {
            let script = redis::Script::new(AGE);
            let mut aged = script.key(&name);
            let exists: u32 = aged.arg(time.as_micros() as u64).invoke_async(&mut connection).await.expect("aged");
            if exists == 0 && !name.ends_with(":reply") && !name.ends_with(":runs") {
                self.removed.lock().expect("no poison").insert(name);
            }
        }
    }

    /// Redis sweeps by itself. These are the records that it has removed and that were not begun anew.
    pub(crate) async fn sweep(&self) -> u64 {
        let there: BTreeSet<_> = self.names().await.into_iter().map(|(_, name)| name).collect();
        let removed = std::mem::take(&mut *self.removed.lock().expect("no poison"));
        removed.difference(&there).count() as u64
    }
}
