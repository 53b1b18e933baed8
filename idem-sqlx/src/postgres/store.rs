//! The store and its builder.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use idem_core::store::{Runs, Store};
use idem_core::{Error, Kind};
use sqlx::{Executor, PgConnection, PgPool};

use super::records::Records;
use super::schema::Schema;
use super::session::{Begin, begin};
use super::statements::Statements;
use crate::error::into_idem_error;
use crate::recent::RecentlyFinished;

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
/// A cheap handle: clones share everything. Give the router's state one, and let `PgStore: FromRef<State>`.
///
/// # Rules
/// - The pool leads to the primary. A replica answers from the past, and a decision taken there runs twice.
/// - One request uses one connection; a duplicate that waits uses none. A pool of one works.
/// - Its tables are in one schema: the one that the [builder](PgStoreBuilder::schema) names, or else the
///   `current_schema()` when it is used first. Each statement names it, so a `SET search_path`, or a temporary table,
///   changes nothing.
/// - A transaction that somebody else has left open on a pooled connection is rolled back, and nothing of it is inherited.
/// - Postgres 14 and newer are tested.
///
/// # Limitations
/// Advisory locks spare duplicates the wait on each other. Where they are missing or belong to one node (some
/// distributed Postgres), duplicates wait for the running one instead, and the outcome is the same.
///
/// Each transaction of the store adds one to `xact_rollback` in `pg_stat_database`, also if it commits: it first rolls back
/// whatever was left open on its connection.
#[derive(Clone)]
pub struct PgStore(Arc<Inner>);

pub(super) struct Inner {
    pub(super) pool: PgPool,
    pub(super) unnamed_statements: bool,
    /// As soon as it is known which schema has the tables.
    statements: OnceLock<&'static Statements>,
    /// The statement that begins a handler's transaction.
    pub(super) begin: Begin,
    pub(super) commit_deadline: Duration,
    pub(super) recent: RecentlyFinished,
    /// Whether the server has refused to sweep many scopes in one statement.
    pub(super) sweeps_by_scope: AtomicBool,
    reply_limit: usize,
    runs: Runs,
}

/// The isolation level of the transaction that a handler gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// One snapshot for each statement.
    ReadCommitted,
    /// One snapshot for the whole transaction.
    RepeatableRead,
    /// As if transactions ran one after another; some are refused and asked to come again.
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
            reply_limit: 1024 * 1024,
            isolation: None,
            commit_deadline: Duration::from_secs(10),
            unnamed_statements: false,
            schema: None,
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// Waits until no run is going on: call it when the server has stopped to accept requests.
    ///
    /// # Cancel safety
    /// Safe: put it under a timeout to wait for a limited time.
    pub async fn drain(&self) {
        self.0.runs.drained().await;
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// The statements. Where the application has named no schema, the first connections are asked for it, each by its own
    /// user: nobody waits for another's, and the first answer counts.
    pub(super) async fn records(&self, connection: &mut PgConnection) -> Result<Records, Error> {
        let sql = match self.statements.get() {
            Some(sql) => sql,
            None => {
                let schema = Box::pin(current_schema(connection)).await?;
                *self.statements.get_or_init(|| Statements::of(&schema))
            }
        };
        Ok(Records { sql, unnamed: self.unnamed_statements })
    }
}

/// The schema of the tables, where none was named.
///
/// A connection comes from the pool with whatever `search_path` somebody has SET on it, and two processes must not take two
/// schemas that both have the tables. So the path that connections begin with is asked first: by the role, the database
/// and the connection's options. The connection's own is for those that `after_connect` has set, and whose tables are there.
async fn current_schema(connection: &mut PgConnection) -> Result<Schema, Error> {
    connection.execute("SAVEPOINT idem_schema; SET LOCAL search_path TO DEFAULT").await.map_err(into_idem_error)?;
    let (first, has_tables) = schema_in_path(connection).await?;
    connection.execute("ROLLBACK TO SAVEPOINT idem_schema; RELEASE idem_schema").await.map_err(into_idem_error)?;
    let name = if has_tables { first } else { schema_in_path(connection).await?.0 };
    // The names of the server's own begin so, and those of schemas for temporary tables.
    let name = name.filter(|name| !name.starts_with("pg_"));
    name.and_then(Schema::new).ok_or_else(|| {
        Error::new(Kind::StoreFailed).because(
            "the store has no schema for its tables: name one by `PgStoreBuilder::schema`, or set `search_path`",
        )
    })
}

/// The first schema of the path, and whether it has the tables.
async fn schema_in_path(connection: &mut PgConnection) -> Result<(Option<String>, bool), Error> {
    let query = "
        SELECT current_schema()::text, EXISTS (
            SELECT 1
            FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = current_schema()
                AND relname = 'idem_records'
        )";
    sqlx::query_as(query).persistent(false).fetch_one(connection).await.map_err(into_idem_error)
}

impl Store for PgStore {
    fn reply_limit(&self) -> usize {
        self.0.reply_limit
    }

    fn runs(&self) -> &Runs {
        &self.0.runs
    }
}

impl fmt::Debug for PgStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStore").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

/// Configures a [`PgStore`].
#[derive(Debug)]
pub struct PgStoreBuilder {
    pool: PgPool,
    reply_limit: usize,
    isolation: Option<Isolation>,
    commit_deadline: Duration,
    unnamed_statements: bool,
    schema: Option<Schema>,
}

impl PgStoreBuilder {
    /// The longest reply that is stored, in bytes of its headers and body. Default: 1 MiB.
    ///
    /// A longer one goes to its caller and leaves a tombstone: a retry gets 410 and does not run.
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

    /// How long to wait for the answer to a COMMIT, and again for the look-up that finds out what became of one that
    /// did not answer. Default: 10 seconds. After both, the caller gets `outcome_unknown`.
    #[must_use]
    pub fn commit_deadline(mut self, deadline: Duration) -> Self {
        self.commit_deadline = deadline;
        self
    }

    /// Whether the store's own statements go without a name. Default: no.
    ///
    /// Needed behind a pooler in transaction mode (`PgBouncer` and the like). The application's own statements need
    /// `persistent(false)` there, too.
    #[must_use]
    pub fn unnamed_statements(mut self, unnamed: bool) -> Self {
        self.unnamed_statements = unnamed;
        self
    }

    /// The schema that has the store's tables. Default: `current_schema()` when the store is used first, be it to migrate or
    /// to run something. That is asked by the `search_path` with which connections begin, or, where that schema does not have
    /// the tables, by the connection's own.
    ///
    /// ```
    /// # fn example(pool: sqlx::PgPool) {
    /// use idem_sqlx::PgStore;
    ///
    /// let store = PgStore::builder(pool).schema("payments").build();
    /// # }
    /// ```
    ///
    /// Name it where two schemas of a `search_path` have such tables. [`migrate`](PgStore::migrate) creates it where it is
    /// missing. The name is taken as it is, capitals included.
    ///
    /// # Panics
    /// The name is no identifier of Postgres: it has 1 to 63 bytes, and none of them is NUL.
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
        PgStore(Arc::new(Inner {
            pool: self.pool,
            unnamed_statements: self.unnamed_statements,
            statements: self.schema.map_or_else(OnceLock::new, |schema| Statements::of(&schema).into()),
            begin: self.isolation.map_or(begin!(""), Isolation::begin),
            commit_deadline: self.commit_deadline,
            recent: RecentlyFinished::new(),
            sweeps_by_scope: AtomicBool::new(false),
            reply_limit: self.reply_limit,
            runs: Runs::default(),
        }))
    }
}
