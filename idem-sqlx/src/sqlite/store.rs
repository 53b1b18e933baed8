//! The store and its builder.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use idem_core::hint::{Hint, Hinted};
use idem_core::observer::Observer;
use idem_core::seal::{Seal, Sealer};
use idem_core::store::{DEFAULT_DEADLINE, Runs, Store};
use idem_core::{Error, Kind, Request};
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool};

use super::records::Records;
use crate::error::not_begun;
use crate::hints::{self, Hints};
use crate::recent::RecentlyFinished;
use crate::running::{Asked, Running};
use crate::spare::Spare;

/// Keeps records in an SQLite file, beside the application's own tables.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use idem_sqlx::SqliteStore;
///
/// let pool = sqlx::SqlitePool::connect("sqlite://shop.db").await?;
/// let store = SqliteStore::new(pool);
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// A cheap handle: clones share everything. Put a clone into the router's state, and implement
/// `SqliteStore: FromRef<State>`.
///
/// # Rules
/// - SQLite has one writer at a time, and a recorded handler is a writer from its start. So requests with different
///   keys run one after another. `PRAGMA journal_mode = WAL` lets replays and other readers continue meanwhile.
/// - One request uses one connection, and a waiting duplicate uses none. A pool with one connection works. The renewals of
///   leased runs may open one more beside the pool.
/// - If a pooled connection still has an open transaction of an earlier user, that transaction is rolled back. The
///   store inherits nothing from it.
///
/// # Limitations
/// A duplicate of a running request is answered at once in the store that runs it. In any other store or process it
/// queues for the write lock for up to the pool's `busy_timeout`, then gets the reply or `retry_later`.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

pub(super) struct Inner {
    pub(super) pool: SqlitePool,
    /// Whether the pool asks a connection for a sign of life, and calls its hook.
    ping: bool,
    pub(super) records: Records,
    pub(super) running: Running,
    pub(super) sealer: Sealer,
    pub(super) hints: Hints,
    pub(super) recent: RecentlyFinished,
    pub(super) spare: Spare<Sqlite>,
    pub(super) commit_deadline: Duration,
    reply_limit: usize,
    deadline: Duration,
    runs: Runs,
    observer: Option<Arc<dyn Observer>>,
}

impl SqliteStore {
    /// A store over this pool, with the builder's defaults.
    #[must_use]
    pub fn new(pool: SqlitePool) -> Self {
        Self::builder(pool).build()
    }

    /// A store over this pool, to be configured.
    #[must_use]
    pub fn builder(pool: SqlitePool) -> SqliteStoreBuilder {
        SqliteStoreBuilder {
            pool,
            sealer: Sealer::default(),
            hints: Vec::new(),
            reply_limit: 1024 * 1024,
            observer: None,
            deadline: DEFAULT_DEADLINE,
            commit_deadline: Duration::from_secs(10),
            ping: true,
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        &self.0.pool
    }

    /// Waits until no run is active, but no longer than the limit. Returns false if runs were still active then. Call
    /// it after the server has stopped accepting requests.
    ///
    /// A run ends at its [deadline](Self::builder) at the latest. If the process ends before that, the run is rolled
    /// back, and its retry runs.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.runs.drain(limit).await
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// A connection of the pool.
    pub(super) async fn connection(&self) -> Result<PoolConnection<Sqlite>, Error> {
        match self.idle_connection() {
            Some(connection) => Ok(connection),
            None => self.pool().acquire().await.map_err(not_begun),
        }
    }

    /// A connection for a request, or what an active run of this process means for it.
    pub(super) async fn connection_for(
        &self,
        asked: Asked<'_>,
    ) -> Result<ControlFlow<Kind, PoolConnection<Sqlite>>, Error> {
        if let Some(kind) = self.0.running.answer(self.pool(), asked) {
            return Ok(ControlFlow::Break(kind));
        }
        match self.idle_connection() {
            Some(connection) => Ok(ControlFlow::Continue(connection)),
            None => self.0.running.acquire(self.pool(), asked).await,
        }
    }

    /// A connection that does not queue behind the work of requests.
    pub(super) async fn connection_beside_work(&self) -> Result<PoolConnection<Sqlite>, Error> {
        // Another connection to this name is another database, and an empty one.
        let is_alone = self.pool().connect_options().get_filename() == Path::new(":memory:");
        if is_alone {
            Box::pin(self.pool().acquire()).await.map_err(not_begun)
        } else {
            self.0.spare.acquire(self.pool()).await
        }
    }

    /// An idle connection that was not asked for a sign of life.
    fn idle_connection(&self) -> Option<PoolConnection<Sqlite>> {
        if self.0.ping { None } else { self.0.pool.try_acquire() }
    }
}

impl Store for SqliteStore {
    fn reply_limit(&self) -> usize {
        self.0.reply_limit
    }

    fn runs(&self) -> &Runs {
        &self.0.runs
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.0.observer.as_ref()
    }

    async fn hinted(&self, request: &Request) -> Hinted {
        if !self.0.hints.are_there() {
            return Hinted::Ask(None);
        }
        // In a box, so that the future of every request does not grow by it.
        Box::pin(hints::hinted(self, request)).await
    }

    fn deadline(&self) -> Duration {
        self.0.deadline
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

/// Configures a [`SqliteStore`].
pub struct SqliteStoreBuilder {
    pool: SqlitePool,
    sealer: Sealer,
    hints: Vec<Arc<dyn Hint>>,
    reply_limit: usize,
    observer: Option<Arc<dyn Observer>>,
    deadline: Duration,
    commit_deadline: Duration,
    ping: bool,
}

impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl SqliteStoreBuilder {
    /// Encrypts what is stored: replies, final errors, results of steps and recorded inputs. Default: nothing is
    /// encrypted.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    /// use idem_core::seal::{Keyring, SealKey};
    /// use idem_sqlx::SqliteStore;
    ///
    /// let key = SealKey::from_base64(&std::env::var("IDEM_KEY_1")?)?;
    /// let store = SqliteStore::builder(pool).seal(Keyring::new(1, key)).build();
    /// # Ok(()) }
    /// ```
    ///
    /// # Rules
    /// - A record that is not encrypted is refused, unless the keyring
    ///   [reads such records](idem_core::seal::Seal::reads_plain): say so while encryption is switched on.
    /// - A record whose key is missing, or that was moved or changed, is refused as `record_unreadable` and does not
    ///   run again.
    /// - With an index key, names of records are HMACs. Call [`migrate`](SqliteStore::migrate) before the first request: until then
    ///   the database refuses each claim.
    /// - The page [`encryption`](idem_core::docs::encryption) has what is not encrypted, and how keys are rotated.
    #[must_use]
    pub fn seal(mut self, seal: impl Seal) -> Self {
        self.sealer = Sealer::new(seal);
        self
    }

    /// Answers retries from memory or from Redis, without a connection. Default: no hint. May be called for several: they
    /// are asked in their order.
    ///
    /// ```
    /// # fn example(pool: sqlx::SqlitePool) {
    /// use idem_core::hint::Memory;
    /// use idem_sqlx::SqliteStore;
    ///
    /// let store = SqliteStore::builder(pool).hint(Memory::new(64 * 1024 * 1024)).build();
    /// # }
    /// ```
    ///
    /// A hint answers only what the database would answer, too. The page [`hints`](idem_core::docs::hints) has the rules.
    #[must_use]
    pub fn hint(mut self, hint: impl Hint) -> Self {
        self.hints.push(Arc::new(hint));
        self
    }

    /// Who is told what happens to requests. Default: nobody.
    ///
    /// ```
    /// # fn example(pool: sqlx::SqlitePool) {
    /// use idem_core::observer::{Event, Observer};
    /// use idem_sqlx::SqliteStore;
    ///
    /// struct Printed;
    ///
    /// impl Observer for Printed {
    ///     fn observe(&self, event: &Event<'_>) {
    ///         println!("{event:?}");
    ///     }
    /// }
    ///
    /// let store = SqliteStore::builder(pool).observer(Printed).build();
    /// # }
    /// ```
    ///
    /// With the feature `metrics` of `idem-core`, `Metrics` counts the events: see
    /// [`observability`](idem_core::docs::observability).
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The longest reply that is stored, in bytes of its headers and body. Default: 1 MiB.
    ///
    /// A longer reply goes to its caller and leaves a tombstone: a retry gets 410 and does not run.
    #[must_use]
    pub fn reply_limit(mut self, bytes: usize) -> Self {
        self.reply_limit = bytes;
        self
    }

    /// How long a run may take, unless its handler says otherwise by `deadline = "…"`. Default: 60 seconds.
    ///
    /// At its deadline the run is dropped and rolled back, its key is free, and its caller gets `deadline_exceeded`.
    /// Without an end, a handler that hangs would keep all other writers waiting.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long to look up the outcome of a COMMIT that got no answer. Default: 10 seconds. After that, the caller gets
    /// `outcome_unknown`.
    #[must_use]
    pub fn commit_deadline(mut self, deadline: Duration) -> Self {
        self.commit_deadline = deadline;
        self
    }

    /// Whether a pooled connection is asked for a sign of life before it is used. Default: as the pool is set.
    ///
    /// ```
    /// # fn example(pool: sqlx::SqlitePool) {
    /// use idem_sqlx::SqliteStore;
    ///
    /// let store = SqliteStore::builder(pool).ping(false).build();
    /// # }
    /// ```
    ///
    /// A connection to SQLite is a thread of this process, and each statement is a message to that thread. So is the
    /// ping: with `false` a request sends three messages of its own instead of four. If the thread has ended, which
    /// takes a panic in sqlx, the request gets `store_unavailable` and its connection is closed.
    ///
    /// Do not set it if the pool has a `before_acquire` hook: an idle connection is taken by `Pool::try_acquire`, which
    /// does not call the hook. The store cannot see whether there is a hook, so this is not the default. A pool with
    /// `test_before_acquire(false)` keeps its hook and saves the same message, for your own statements, too.
    #[must_use]
    pub fn ping(mut self, ping: bool) -> Self {
        self.ping = ping;
        self
    }

    /// The store.
    #[must_use]
    pub fn build(self) -> SqliteStore {
        SqliteStore(Arc::new(Inner {
            pool: self.pool,
            ping: self.ping,
            records: Records,
            running: Running::default(),
            sealer: self.sealer,
            hints: Hints::new(self.hints),
            recent: RecentlyFinished::new(),
            spare: Spare::new(),
            commit_deadline: self.commit_deadline,
            reply_limit: self.reply_limit,
            deadline: self.deadline,
            runs: Runs::default(),
            observer: self.observer,
        }))
    }
}
