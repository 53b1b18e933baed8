//! The store and its builder.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use idem_core::hint::{Hint, Hinted};
use idem_core::observer::Observer;
use idem_core::seal::{Seal, Sealer};
use idem_core::store::{DEFAULT_DEADLINE, Runs, Store};
use idem_core::{Error, Kind, Request};
use sqlx::{Executor, PgPool, Postgres};

use super::far::Distance;
use super::in_time::InTime;
use super::intents::BEGIN;
use super::leases::Leases;
use super::records::{Records, Secret};
use super::schema::Schema;
use super::session::{Begin, begin, limited_waits};
use super::statements::Statements;
use crate::error::store_error;
use crate::hints::{self, Hints};
use crate::recent::RecentlyFinished;
use crate::running::Running;
use crate::spare::Spare;

/// Keeps records in Postgres, beside the application's own tables.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use idem_sqlx::PgStore;
///
/// let pool = sqlx::PgPool::connect("postgres://localhost/shop").await?;
/// let store = PgStore::new(pool);
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// A cheap handle: clones share everything. Put a clone into the router's state, and implement
/// `PgStore: FromRef<State>`.
///
/// # Rules
/// - The pool must connect to the primary. A replica may lag, and a decision taken on old data runs a request twice.
/// - One request uses one connection, and a waiting duplicate uses none. A pool with one connection works. The renewals of
///   leased runs may open one more beside the pool.
/// - A duplicate of a run of this store and its clones needs no connection if the pool is exhausted.
/// - Its tables are in one schema: the schema that the [builder](PgStoreBuilder::schema) names, or else the
///   `current_schema()` at the store's first use. Each statement names this schema, so a `SET search_path` or a
///   temporary table changes nothing.
/// - If a pooled connection still has an open transaction of an earlier user, that transaction is rolled back. The
///   store inherits nothing from it.
/// - A connection that cannot do the work is closed instead of going back to the pool: it only reads, its role lacks a
///   right, its prepared statements are gone or out of date, or a time limit has ended a statement. The next request gets
///   another connection.
/// - Postgres 15 and 18 are tested.
///
/// # Limitations
/// Advisory locks spare duplicates a wait for each other. On a distributed Postgres without advisory locks, or with
/// locks that belong to one node, choose [`Locks::None`]: duplicates wait then for the running request, for half a second
/// at most. Which request runs is the same.
///
/// Each transaction of the store adds one to `xact_rollback` in `pg_stat_database`, even if it commits: it begins with
/// a ROLLBACK of any transaction left open on its connection.
#[derive(Clone)]
pub struct PgStore(Arc<Inner>);

pub(super) struct Inner {
    pub(super) pool: PgPool,
    /// Whether the pool asks a connection for a sign of life, and calls its hook.
    pub(super) ping: bool,
    pub(super) unnamed_statements: bool,
    pub(super) locks: Locks,
    pub(super) distance: Distance,
    /// Set as soon as the schema of the tables is known.
    statements: OnceLock<&'static Statements>,
    /// Set when a request has read it.
    secret: OnceLock<Secret>,
    /// The statement that begins a handler's transaction.
    pub(super) begin: Begin,
    /// Without advisory locks, the statement that begins a handler's transaction with its claim.
    pub(super) begin_waiting: Option<Begin>,
    /// The statement that begins a transaction of the store's own.
    pub(super) begin_own: Begin,
    pub(super) commit_deadline: Duration,
    pub(super) statement_deadline: Duration,
    pub(super) recent: RecentlyFinished,
    pub(super) running: Running,
    pub(super) sealer: Sealer,
    pub(super) hints: Hints,
    pub(super) spare: Spare<Postgres>,
    /// True once the server has refused to tell the system's part of its epoch.
    pub(super) epoch_is_row: AtomicBool,
    /// True once the server has refused to sweep many scopes in one statement.
    pub(super) sweeps_by_scope: AtomicBool,
    reply_limit: usize,
    deadline: Duration,
    runs: Runs,
    observer: Option<Arc<dyn Observer>>,
}

/// The isolation level of the transaction that a handler gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// One snapshot for each statement.
    ReadCommitted,
    /// One snapshot for the whole transaction.
    RepeatableRead,
    /// As if transactions ran one after another. Some transactions are refused and have to be retried.
    Serializable,
}

impl Isolation {
    pub(super) const fn begin(self) -> Begin {
        match self {
            Self::ReadCommitted => begin!(" ISOLATION LEVEL READ COMMITTED"),
            Self::RepeatableRead => begin!(" ISOLATION LEVEL REPEATABLE READ"),
            Self::Serializable => begin!(" ISOLATION LEVEL SERIALIZABLE"),
        }
    }
}

/// What the store uses beside the primary key, so that a duplicate is told at once that its request runs.
///
/// ```
/// # fn example(pool: sqlx::PgPool) {
/// use idem_sqlx::{Locks, PgStore};
///
/// let store = PgStore::builder(pool).locks(Locks::None).build();
/// # }
/// ```
///
/// The primary key alone decides which request runs. So both choices keep the same promise.
///
/// # Rules
/// With [`Locks::None`]:
/// - A duplicate of a run of the same process is answered at once, as with locks: 409, or 422 for another request.
/// - A duplicate of a run of another process waits on the primary key, for half a second at most. Then it gets 409
///   `key_in_flight`.
/// - It keeps a connection of the pool while it waits.
///
/// # Limitations
/// With [`Locks::None`]:
/// - Another request under the key of a run of another process gets 409 until that run has ended, and only then 422
///   `key_reused`.
/// - The statement of a run that was given up, at its deadline for example, is not cancelled. It keeps the key until it
///   ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// Advisory locks that end with their transaction.
    Advisory,
    /// None: for a Postgres whose advisory locks are missing, do nothing, or belong to one node. The page
    /// [`production`](idem_core::docs::production#distributed-postgres) has a table of products.
    None,
}

/// How long a claim waits without advisory locks. A longer wait would keep the connection from other requests, and most
/// runs are shorter.
const PATIENCE: Duration = Duration::from_millis(500);

impl PgStore {
    /// A store over this pool, with the builder's defaults.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self::builder(pool).build()
    }

    /// A store over this pool, to be configured.
    #[must_use]
    pub fn builder(pool: PgPool) -> PgStoreBuilder {
        PgStoreBuilder {
            pool,
            sealer: Sealer::default(),
            hints: Vec::new(),
            reply_limit: 1024 * 1024,
            observer: None,
            isolation: None,
            deadline: DEFAULT_DEADLINE,
            commit_deadline: Duration::from_secs(10),
            statement_deadline: Duration::from_secs(10),
            idle_limit: None,
            ping: true,
            unnamed_statements: false,
            locks: Locks::Advisory,
            distance: Distance::Near,
            schema: None,
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
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
}

impl Inner {
    /// The statements. If the application has named no schema, each of the first callers asks its own connection for
    /// it. No caller waits for another, and the first answer counts.
    pub(super) async fn statements(&self, connection: &mut InTime<'_>) -> Result<&'static Statements, Error> {
        match self.statements.get() {
            Some(statements) => Ok(statements),
            None => {
                let schema = Box::pin(current_schema(connection)).await?;
                Ok(self.statements.get_or_init(|| Statements::of(&schema)))
            }
        }
    }

    /// The schema of the tables, as soon as it is known.
    pub(super) fn schema(&self) -> Option<&'static Schema> {
        self.statements.get().map(|statements| &statements.schema)
    }

    /// Whether everything is known that the first request of a process asks the database for.
    pub(super) fn knows_database(&self) -> bool {
        self.schema().is_some() && (self.locks == Locks::None || self.secret.get().is_some())
    }

    /// The secret of the database, as soon as it is known.
    pub(super) fn known_secret(&self) -> Option<Secret> {
        self.secret.get().copied()
    }

    pub(super) async fn records(&self, connection: &mut InTime<'_>) -> Result<Records, Error> {
        let Statements { schema, records: sql, .. } = self.statements(connection).await?;
        let secret = match self.secret.get() {
            Some(secret) => *secret,
            None if self.locks == Locks::None => Secret::default(),
            None => {
                let secret = Box::pin(secret(connection, &sql.secret)).await?;
                *self.secret.get_or_init(|| secret)
            }
        };
        Ok(Records { sql, schema, secret, locks: self.locks, unnamed: self.unnamed_statements })
    }

    pub(super) async fn leases(&self, connection: &mut InTime<'_>) -> Result<Leases, Error> {
        let sql = &self.statements(connection).await?.leases;
        Ok(Leases { sql, unnamed: self.unnamed_statements })
    }
}

/// The schema of the tables, if the application has named none.
///
/// A pooled connection may have any `search_path`, because an earlier user may have SET one. Two processes must not
/// choose two schemas that both have the tables. So the default path decides first, as the role, the database and the
/// connection's options set it. The connection's current path decides only if that schema does not have the tables: it
/// is for a path set by `after_connect`.
async fn current_schema(connection: &mut InTime<'_>) -> Result<Schema, Error> {
    connection.execute("SAVEPOINT idem_schema; SET LOCAL search_path TO DEFAULT").await.map_err(store_error)?;
    let (first, has_tables) = schema_in_path(connection).await?;
    connection.execute("ROLLBACK TO SAVEPOINT idem_schema; RELEASE idem_schema").await.map_err(store_error)?;
    let name = if has_tables { first } else { schema_in_path(connection).await?.0 };
    // The server's own schemas begin with `pg_`, and so do the schemas of temporary tables.
    let name = name.filter(|name| !name.starts_with("pg_"));
    name.and_then(Schema::new).ok_or_else(|| {
        Error::new(Kind::DeploymentBroken).because(
            "the store has no schema for its tables: name one by `PgStoreBuilder::schema`, or set `search_path`",
        )
    })
}

/// The secret of the database. A process reads it once.
async fn secret(connection: &mut InTime<'_>, statement: &'static str) -> Result<Secret, Error> {
    let read = sqlx::query_scalar::<_, Vec<u8>>(statement).persistent(false).fetch_optional(connection);
    let secret = read.await.map_err(store_error)?.and_then(|secret| Secret::try_from(secret).ok());
    secret.ok_or_else(|| {
        Error::new(Kind::DeploymentBroken).because(
            "the store's table `idem_secret` has lost its value: \
             run `INSERT INTO idem_secret (secret) VALUES (uuid_send(gen_random_uuid()))`",
        )
    })
}

/// The first schema of the path, and whether that schema has the tables.
async fn schema_in_path(connection: &mut InTime<'_>) -> Result<(Option<String>, bool), Error> {
    let query = "
        SELECT current_schema()::text, EXISTS (
            SELECT 1
            FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = current_schema()
                AND relname = 'idem_records'
        )";
    sqlx::query_as(query).persistent(false).fetch_one(connection).await.map_err(store_error)
}

impl Store for PgStore {
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

impl fmt::Debug for PgStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStore").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

/// Configures a [`PgStore`].
pub struct PgStoreBuilder {
    pool: PgPool,
    sealer: Sealer,
    hints: Vec<Arc<dyn Hint>>,
    reply_limit: usize,
    observer: Option<Arc<dyn Observer>>,
    isolation: Option<Isolation>,
    deadline: Duration,
    commit_deadline: Duration,
    statement_deadline: Duration,
    idle_limit: Option<Duration>,
    ping: bool,
    unnamed_statements: bool,
    locks: Locks,
    distance: Distance,
    schema: Option<Schema>,
}

impl fmt::Debug for PgStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStoreBuilder").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl PgStoreBuilder {
    /// Encrypts what is stored: replies, final errors, results of steps and recorded inputs. Default: nothing is
    /// encrypted.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use idem_core::seal::{Keyring, SealKey};
    /// use idem_sqlx::PgStore;
    ///
    /// let key = SealKey::from_base64(&std::env::var("IDEM_KEY_1")?)?;
    /// let store = PgStore::builder(pool).seal(Keyring::new(1, key)).build();
    /// # Ok(()) }
    /// ```
    ///
    /// # Rules
    /// - A record that is not encrypted is refused, unless the keyring
    ///   [reads such records](idem_core::seal::Seal::reads_plain): say so while encryption is switched on.
    /// - A record whose key is missing, or that was moved or changed, is refused as `record_unreadable` and does not
    ///   run again.
    /// - With an index key, names of records are HMACs. Call [`migrate`](PgStore::migrate) before the first request: until then
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
    /// # fn example(pool: sqlx::PgPool) {
    /// use idem_core::hint::Memory;
    /// use idem_sqlx::PgStore;
    ///
    /// let store = PgStore::builder(pool).hint(Memory::new(64 * 1024 * 1024)).build();
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
    /// # fn example(pool: sqlx::PgPool) {
    /// use idem_core::observer::{Event, Observer};
    /// use idem_sqlx::PgStore;
    ///
    /// struct Printed;
    ///
    /// impl Observer for Printed {
    ///     fn observe(&self, event: &Event<'_>) {
    ///         println!("{event:?}");
    ///     }
    /// }
    ///
    /// let store = PgStore::builder(pool).observer(Printed).build();
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

    /// The isolation level of the handler's transaction. Default: the database's own, `default_transaction_isolation`.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// How long a run may take, unless its handler says otherwise by `deadline = "…"`. Default: 60 seconds.
    ///
    /// At its deadline the run is dropped and rolled back, its key is free, and its caller gets `deadline_exceeded`.
    /// Without an end, a handler that hangs would keep its connection, and its key, for ever. A minute is longer than
    /// browsers' and proxies' usual patience, and short enough that hanging handlers do not fill a pool unnoticed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long to wait for the answer to a statement of the store's own. Default: 10 seconds.
    ///
    /// A connection can fall silent without being closed. A statement without an answer in this time fails as one on a
    /// lost connection does: the caller gets `store_unavailable`, and the connection is closed. Such statements
    /// take milliseconds; a batch of the sweep that moves large replies may take longer. COMMIT has a [deadline of its own](Self::commit_deadline), and the handler's statements end
    /// with [the run](Self::deadline).
    #[must_use]
    pub fn statement_deadline(mut self, deadline: Duration) -> Self {
        self.statement_deadline = deadline;
        self
    }

    /// How long the server keeps a transaction of the store open that sends nothing. Default: as the server is set.
    ///
    /// If a host loses its power or its network, nobody tells the server: it keeps the transaction, and the key, until
    /// TCP gives up, which may take hours. With this limit (Postgres' `idle_in_transaction_session_timeout`) the server
    /// ends the transaction itself, and the retry runs. Choose more than the longest [deadline](Self::deadline) of a
    /// run: a handler may wait between two statements for as long.
    ///
    /// The limit is sent with each BEGIN. To set it once for a role, and at no cost, write
    /// `ALTER ROLE … SET idle_in_transaction_session_timeout = '90s'`.
    #[must_use]
    pub fn idle_limit(mut self, limit: Duration) -> Self {
        self.idle_limit = Some(limit);
        self
    }

    /// How long to wait for the answer to a COMMIT, and once more for the look-up of a COMMIT that got no answer.
    /// Default: 10 seconds. After both, the caller gets `outcome_unknown`.
    #[must_use]
    pub fn commit_deadline(mut self, deadline: Duration) -> Self {
        self.commit_deadline = deadline;
        self
    }

    /// Whether a pooled connection is asked for a sign of life before it is used. Default: as the pool is set.
    ///
    /// ```
    /// # fn example(pool: sqlx::PgPool) {
    /// use idem_sqlx::PgStore;
    ///
    /// let store = PgStore::builder(pool).ping(false).build();
    /// # }
    /// ```
    ///
    /// With `false` the first statement of a request is the sign of life, which saves a round trip: a request has five
    /// of its own instead of six, and a replay one instead of two. If that statement shows that its connection is gone,
    /// the connection is closed, and the next one is taken, within the pool's `acquire_timeout`. Nothing is lost by
    /// that: a BEGIN and a look-up have no effect.
    ///
    /// Do not set it if the pool has a `before_acquire` hook, for example one that sets a tenant or a role: an idle
    /// connection is taken by `Pool::try_acquire`, which does not call the hook. The store cannot see whether there is
    /// a hook, so this is not the default. A pool with `test_before_acquire(false)` keeps its hook and saves the same
    /// round trip. Then the statements that you send through the pool yourself meet connections that are gone.
    #[must_use]
    pub fn ping(mut self, ping: bool) -> Self {
        self.ping = ping;
        self
    }

    /// Whether statements are sent without a name: the store's own, and the handler's through `&mut *tx`. Default: no.
    ///
    /// A pooler in transaction mode (`PgBouncer` and the like) needs this. With such a pooler, statements through
    /// `&mut **tx`, through a savepoint or beside the transaction need `persistent(false)`.
    #[must_use]
    pub fn unnamed_statements(mut self, unnamed: bool) -> Self {
        self.unnamed_statements = unnamed;
        self
    }

    /// What the store uses so that duplicates do not wait for each other. Default: [`Locks::Advisory`].
    #[must_use]
    pub fn locks(mut self, locks: Locks) -> Self {
        self.locks = locks;
        self
    }

    /// How far away the database is. Default: [`Distance::Near`].
    ///
    /// Over a network the round trips are what a request waits for. `Far` and `Farthest` save one and two of them, and
    /// have a price: see [`Distance`].
    #[must_use]
    pub fn distance(mut self, distance: Distance) -> Self {
        self.distance = distance;
        self
    }

    /// The schema that has the store's tables. Default: `current_schema()` at the store's first use, which may be a
    /// migration or a request. The default `search_path` of a connection decides it. If that schema does not have the
    /// tables, the connection's current `search_path` decides.
    ///
    /// ```
    /// # fn example(pool: sqlx::PgPool) {
    /// use idem_sqlx::PgStore;
    ///
    /// let store = PgStore::builder(pool).schema("payments").build();
    /// # }
    /// ```
    ///
    /// Name the schema if two schemas of a `search_path` have such tables. [`migrate`](PgStore::migrate) creates a
    /// missing schema. The name is taken as it is, capitals included.
    ///
    /// # Panics
    /// The name is not a Postgres identifier, which has 1 to 63 bytes and no NUL among them.
    #[must_use]
    #[track_caller]
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        let schema = Schema::new(name.into());
        self.schema = Some(schema.expect("the name of a schema has 1 to 63 bytes, and none of them is NUL"));
        self
    }

    /// The store.
    #[must_use]
    pub fn build(self) -> PgStore {
        let limited = |begin: Begin| match self.idle_limit {
            Some(limit) => begin.limited(limit),
            None => begin,
        };
        let begin = limited(self.isolation.map_or(begin!(""), Isolation::begin));
        // Ends before our own deadline, which would not tell a wait from a silent network.
        let patience = (self.locks == Locks::None).then(|| PATIENCE.min(self.statement_deadline / 2));
        PgStore(Arc::new(Inner {
            pool: self.pool,
            ping: self.ping,
            unnamed_statements: self.unnamed_statements,
            locks: self.locks,
            distance: if self.locks == Locks::None { Distance::Near } else { self.distance },
            statements: self.schema.map_or_else(OnceLock::new, |schema| Statements::of(&schema).into()),
            secret: OnceLock::new(),
            begin_waiting: patience.map(|patience| begin.then(limited_waits(patience))),
            begin,
            begin_own: limited(BEGIN),
            commit_deadline: self.commit_deadline,
            statement_deadline: self.statement_deadline,
            recent: RecentlyFinished::new(),
            running: Running::default(),
            sealer: self.sealer,
            hints: Hints::new(self.hints),
            spare: Spare::new(),
            epoch_is_row: AtomicBool::new(false),
            sweeps_by_scope: AtomicBool::new(false),
            reply_limit: self.reply_limit,
            deadline: self.deadline,
            runs: Runs::default(),
            observer: self.observer,
        }))
    }
}
