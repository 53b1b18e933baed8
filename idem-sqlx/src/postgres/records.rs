//! The statements on records, and nothing else.

use std::time::Duration;

use crate::database::Found;
use crate::error::store_error;
use idem_core::machine::{Session as HeldBy, lateness};
use idem_core::store::{Claim, Outcome, Record, Timestamp};
use idem_core::{Error, Fingerprint, Identity, Kind, Request};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

use super::error::is_gone;
use super::in_time::InTime;
use super::schema::{Schema, Template, statements};
use super::store::Locks;
use crate::recent::word;
use crate::row::{self, Columns};
use crate::running::Digest;

statements! {
    /// The statements on records, with the schema in them.
    RecordSql:
    insert: INSERT,
    insert_and_wait: INSERT_AND_WAIT,
    insert_within_and_wait: INSERT_WITHIN_AND_WAIT,
    replace: REPLACE,
    replace_and_wait: REPLACE_AND_WAIT,
    find: FIND,
    holder: HOLDER,
    complete: COMPLETE,
    locked: LOCKED,
    secret: SECRET,
    cancel: CANCEL,
    is_run: IS_RUN,
    holder_of: HOLDER_OF,
}

/// The numbers of the advisory locks of a request. The transaction that runs the request holds all three until it ends.
///
/// They are taken twice: by the message that begins the transaction, in front of the savepoint, and by the claim, which
/// asks whether it got them. So a handler's failed statement, or a rejection, undoes the claim and keeps the locks, and
/// no duplicate runs meanwhile.
///
/// They are taken in this order, so a holder of `identity` always holds the `asked` of the request that it runs. A
/// duplicate that can share `asked` while `identity` is held therefore knows that another request runs under its key
/// (422). A duplicate that cannot share `asked` has met the running request, or only another claimant that is about to
/// give up. `running` tells the two apart: it is taken only after `identity`.
///
/// Any role that may connect can take any advisory lock. So nothing final is said because of a lock alone: see
/// [`Records::is_run`]. The numbers are made with the secret of the database, so that such a role cannot keep a request
/// from running by taking its locks first.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockWords {
    pub(super) asked: i64,
    pub(super) identity: i64,
    pub(super) running: i64,
}

impl LockWords {
    pub(super) fn of(request: &Request, secret: Secret) -> Self {
        Self::of_asked(&request.identity.digest(), &request.fingerprint, secret)
    }

    /// `identity` is its [digest](Identity::digest).
    pub(super) fn of_asked(identity: &Digest, asked: &Fingerprint, secret: Secret) -> Self {
        let digest = Sha256::new().chain_update(secret).chain_update(identity);
        let asked = digest.clone().chain_update(asked.as_bytes()).finalize();
        let word = |digest: &[u8]| word(digest).cast_signed();
        Self { asked: word(&asked), identity: word(&digest.finalize()), running: word(&asked[8..]) }
    }

    fn of_identity(identity: &Identity, secret: Secret) -> i64 {
        let digest = Sha256::new().chain_update(secret).chain_update(identity.digest());
        word(&digest.finalize()).cast_signed()
    }

    /// The statements that take them, and then mark the place where the claim begins.
    pub(super) fn taken(self) -> String {
        let Self { asked, identity, running } = self;
        format!(
            "SELECT CASE WHEN NOT pg_try_advisory_xact_lock({asked}) THEN false \
             WHEN NOT pg_try_advisory_xact_lock({identity}) THEN false \
             ELSE pg_try_advisory_xact_lock({running}) END; SAVEPOINT idem_claimed"
        )
    }
}

/// The random value in `idem_secret`.
pub(super) type Secret = [u8; 16];

/// Who holds the locks of a request that has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// No transaction: the last holder has ended. Without advisory locks there is never a holder that is known.
    Nobody,
    /// The same request is running.
    Same,
    /// Another request is running under the key.
    Other,
    /// A claimant that may not have won. Look again.
    Claimant,
}

/// The answer to a look-up without a BEGIN.
pub(super) enum Alone {
    Found(Found),
    /// An earlier user may have left a transaction open on the connection. The answer would be as old as that
    /// transaction, or the statement fails in it, so only a new transaction can answer.
    Inherited,
    /// The connection is gone.
    Gone,
}

/// The statements on the tables of one schema, sent with or without names, as the application chose.
#[derive(Clone, Copy)]
pub(super) struct Records {
    pub(super) sql: &'static RecordSql,
    pub(super) schema: &'static Schema,
    pub(super) secret: Secret,
    pub(super) locks: Locks,
    /// True to send statements without names. A pooler in transaction mode gives every transaction another server
    /// connection. A statement that was prepared by name on one connection is missing on the next, or is another
    /// client's there.
    pub(super) unnamed: bool,
}

impl Records {
    pub(super) fn query(self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(!self.unnamed)
    }

    /// The numbers of a request's locks, if the store takes locks.
    pub(super) fn lock_words(self, request: &Request) -> Option<LockWords> {
        (self.locks == Locks::Advisory).then(|| LockWords::of(request, self.secret))
    }

    /// Inserts the running record, if the request may begin now. If a row was inserted, the claimant runs: the primary
    /// key is the arbiter. Without advisory locks it waits for another transaction that has inserted the record.
    pub(super) async fn insert(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        locks: Option<LockWords>,
    ) -> sqlx::Result<bool> {
        let (query, has_window) = match locks {
            Some(LockWords { asked, identity, running }) => {
                (self.query(&self.sql.insert).bind(asked).bind(identity).bind(running), true)
            }
            None if request.first_sent.is_some() => (self.query(&self.sql.insert_within_and_wait), true),
            None => (self.query(&self.sql.insert_and_wait), false),
        };
        let query = bind_running(query, request, claim).bind(request.ttl.as_secs_f64());
        let query = if has_window { bind_window(query, request) } else { query };
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Replaces an expired record, if it is still the record that was seen.
    pub(super) async fn replace(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> sqlx::Result<bool> {
        let locks = self.lock_words(request);
        let sql = if locks.is_some() { &self.sql.replace } else { &self.sql.replace_and_wait };
        let mut query = bind_running(self.query(sql), request, claim)
            .bind(request.ttl.as_secs_f64())
            .bind(expired.as_bytes().as_slice());
        if let Some(locks) = locks {
            query = query.bind(locks.asked).bind(locks.identity).bind(locks.running);
        }
        Ok(query.fetch_optional(connection).await?.is_some())
    }

    /// The record of an identity and the database's time.
    pub(super) async fn find(
        self,
        connection: &mut InTime<'_>,
        identity: &Identity,
    ) -> Result<(Option<Record>, Timestamp), Error> {
        let query = bind_identity(self.query(&self.sql.find), identity);
        read(&query.fetch_one(connection).await.map_err(store_error)?)
    }

    /// The same in one statement without a BEGIN, on a connection from the pool.
    pub(super) async fn find_alone(self, connection: &mut InTime<'_>, identity: &Identity) -> Result<Alone, Error> {
        let row = match bind_identity(self.query(&self.sql.find), identity).fetch_one(connection).await {
            Ok(row) => row,
            Err(error) if is_gone(&error) => return Ok(Alone::Gone),
            // The open transaction has failed, or its settings are in the way. An error with another cause occurs again
            // in the new transaction.
            Err(sqlx::Error::Database(_)) => return Ok(Alone::Inherited),
            Err(error) => return Err(store_error(error)),
        };
        if !row.try_get("is_alone").map_err(store_error)? {
            return Ok(Alone::Inherited);
        }
        read(&row).map(Alone::Found)
    }

    /// The record of a request, the database's time, and the holder of the request's locks if no record is in force.
    ///
    /// Two statements: on a distributed Postgres a statement on a table runs where the row is, and takes its locks there.
    /// A claim takes them where the client is connected.
    pub(super) async fn find_or_holder(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
    ) -> Result<(Option<Record>, Timestamp, Holder), Error> {
        let (record, now) = self.find(&mut *connection, &request.identity).await?;
        let holder = match &record {
            Some(record) if !record.has_expired(now) => Holder::Nobody,
            _ if self.locks == Locks::None => Holder::Nobody,
            record => self.holder(connection, request, record.is_some()).await.map_err(store_error)?,
        };
        Ok((record, now, holder))
    }

    /// Who holds the locks of a request that has no record in force. Tries the locks, and keeps those that are free.
    async fn holder(self, connection: &mut InTime<'_>, request: &Request, is_replaced: bool) -> sqlx::Result<Holder> {
        let locks = LockWords::of(request, self.secret);
        let query =
            self.query(&self.sql.holder).bind(locks.asked).bind(locks.identity).bind(locks.running).bind(is_replaced);
        Ok(match query.fetch_one(connection).await?.try_get::<i32, _>(0)? {
            0 => Holder::Nobody,
            1 => Holder::Other,
            2 => Holder::Claimant,
            _ => Holder::Same,
        })
    }

    /// Whether the lock on the identity is held by a role that may insert records, so that its holder runs a request
    /// under the key. Any other role may hold the lock to get the request refused.
    pub(super) async fn is_run(self, connection: &mut InTime<'_>, request: &Request) -> sqlx::Result<bool> {
        let LockWords { identity, .. } = LockWords::of(request, self.secret);
        self.is_held(connection, identity).await
    }

    /// The refusal by the transaction that runs an identity, and the session of that transaction. Takes no lock of the
    /// request: a claim must not meet one of an operator. `asked`: `None` if the same is asked.
    pub(super) async fn in_flight(
        self,
        connection: &mut InTime<'_>,
        identity: &Identity,
        asked: Option<Fingerprint>,
    ) -> sqlx::Result<Option<(Kind, HeldBy)>> {
        if self.locks == Locks::None {
            return Ok(None);
        }
        let word = LockWords::of_identity(identity, self.secret);
        let query = self.query(&self.sql.holder_of).bind(word).bind(self.schema.name()).bind("idem_records");
        let Some(row) = query.fetch_optional(&mut *connection).await? else { return Ok(None) };
        let held_by = HeldBy {
            pid: row.try_get("pid")?,
            application: row.try_get("application_name")?,
            since: row.try_get::<Option<i64>, _>("since")?.map(Timestamp),
        };
        let is_same = match asked.map(|asked| LockWords::of_asked(&identity.digest(), &asked, self.secret)) {
            Some(words) => self.is_held(connection, words.asked).await?,
            None => true,
        };
        Ok(Some((if is_same { Kind::KeyInFlight } else { Kind::KeyReused }, held_by)))
    }

    async fn is_held(self, connection: &mut InTime<'_>, word: i64) -> sqlx::Result<bool> {
        let query = self.query(&self.sql.is_run).bind(word).bind(self.schema.name()).bind("idem_records");
        query.fetch_one(connection).await?.try_get(0)
    }

    /// Cancels the statement of the transaction that holds a lock.
    pub(super) async fn cancel(self, connection: &mut InTime<'_>, lock: i64) -> sqlx::Result<()> {
        self.query(&self.sql.cancel).bind(lock).fetch_all(connection).await.map(|_| ())
    }

    /// Completes the record that this transaction claimed. Returns false if this is no longer that transaction.
    pub(super) async fn complete(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
        outcome: &Outcome,
        elapsed: Duration,
    ) -> sqlx::Result<bool> {
        let (state, format, status, headers, body) = row::written(outcome);
        // Without lateness it is the number that the claim has bound, so `expires_at` keeps its value to the bit.
        let ttl = request.ttl.saturating_add(lateness(request.ttl, elapsed));
        let query = bind_identity(self.query(&self.sql.complete), &request.identity)
            .bind(claim.as_bytes().as_slice())
            .bind(state)
            .bind(format)
            .bind(status)
            .bind(headers)
            .bind(body)
            .bind(elapsed.as_secs_f64())
            .bind(ttl.as_secs_f64())
            .bind(request.refused_for().map(|time| ttl.saturating_add(time).as_secs_f64()));
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Waits for the transaction that holds the record's row, and returns the record as that transaction left it.
    pub(super) async fn find_settled(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
    ) -> Result<Option<Record>, Error> {
        // A missing record cannot be locked, but its place in the primary key can: the insert waits for a transaction
        // that has inserted the record and has not ended.
        // The inserted record is never committed.
        let query = bind_running(self.query(&self.sql.insert_and_wait), request, claim).bind(0.0);
        if query.execute(&mut *connection).await.map_err(store_error)?.rows_affected() == 1 {
            return Ok(None);
        }
        let query = bind_identity(self.query(&self.sql.locked), &request.identity);
        let row = query.fetch_optional(connection).await.map_err(store_error)?;
        row.map(|row| read(&row)).transpose().map(|read| read.and_then(|(record, _)| record))
    }
}

pub(super) fn bind_identity<'q>(
    query: Query<'q, Postgres, PgArguments>,
    identity: &Identity,
) -> Query<'q, Postgres, PgArguments> {
    query.bind(identity.scope.as_str()).bind(identity.operation.as_str()).bind(identity.key.hash().as_slice())
}

/// The identity, the fingerprint, the state and the claim of a running record.
fn bind_running<'q>(
    query: Query<'q, Postgres, PgArguments>,
    request: &Request,
    claim: Claim,
) -> Query<'q, Postgres, PgArguments> {
    bind_identity(query, &request.identity)
        .bind(request.fingerprint.as_bytes().as_slice())
        .bind(row::RUNNING)
        .bind(claim.as_bytes().as_slice())
}

/// The first and the last time at which the request may begin to run, in microseconds.
pub(super) fn bind_window<'q>(
    query: Query<'q, Postgres, PgArguments>,
    request: &Request,
) -> Query<'q, Postgres, PgArguments> {
    let (first, last) = request.may_begin();
    query.bind(first.0).bind(last.0)
}

pub(super) fn read(row: &PgRow) -> Result<(Option<Record>, Timestamp), Error> {
    row::read(Columns::from_row(row).map_err(store_error)?)
}

/// `CASE` keeps the order of the locks. The last lock is only taken for others to see: with `IS NOT NULL` it decides
/// nothing.
///
/// The last two parameters are the times between which the request may begin. A request that may not inserts nothing, as
/// one that meets a record does, and the look-up after it tells the two apart. The time is that of the statement: the
/// record that it does not meet may have been swept since the transaction began.
const INSERT: Template = Template(
    "
INSERT INTO {schema}.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
SELECT $4::text, $5::text, $6::bytea, $7::bytea, $8::smallint, $9::bytea, 1, 0,
    now(), now() + $10::double precision * interval '1 second'
WHERE CASE
    WHEN NOT pg_try_advisory_xact_lock($1::bigint) THEN false
    WHEN NOT pg_try_advisory_xact_lock($2::bigint) THEN false
    ELSE pg_try_advisory_xact_lock($3::bigint) IS NOT NULL
END
    AND (extract(epoch FROM statement_timestamp()) * 1000000)::bigint BETWEEN $11::bigint AND $12::bigint
ON CONFLICT (scope, operation, key_hash) DO NOTHING",
);

macro_rules! insert_and_wait {
    ($before:literal, $after:literal) => {
        concat!(
            "
INSERT INTO {schema}.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
",
            $before,
            "$1::text, $2::text, $3::bytea, $4::bytea, $5::smallint, $6::bytea, 1, 0,
    now(), now() + $7::double precision * interval '1 second'",
            $after,
            "
ON CONFLICT (scope, operation, key_hash) DO NOTHING",
        )
    };
}

/// Takes no lock of a request. It waits for a transaction that has inserted the record and has not ended.
const INSERT_AND_WAIT: Template = Template(insert_and_wait!("VALUES (", ")"));

/// The same for a request that says when it was first sent. One that may not begin now waits for nobody.
const INSERT_WITHIN_AND_WAIT: Template = Template(insert_and_wait!(
    "SELECT ",
    "
WHERE (extract(epoch FROM statement_timestamp()) * 1000000)::bigint BETWEEN $8::bigint AND $9::bigint"
));

/// The replacement of an expired record, with what comes before the update, and one more condition of it.
///
/// It has no condition on when the request was first sent: the record that it replaces was there when that was compared,
/// and still is, so nothing has run since.
///
/// The replaced record may be leased, if an earlier release of the handler was. So its journal is removed.
macro_rules! replace {
    ($before:literal, $condition:literal) => {
        concat!(
            "
WITH ",
            $before,
            "replaced AS (
    UPDATE {schema}.idem_records
    SET fingerprint = $4::bytea,
        state = $5::smallint,
        claim = $6::bytea,
        attempt = 1,
        released = 0,
        lease_until = NULL,
        format = 0,
        status = NULL,
        headers = NULL,
        body = NULL,
        created_at = now(),
        completed_at = NULL,
        expires_at = now() + $7::double precision * interval '1 second',
        kept_until = NULL,
        reason = NULL
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND claim = $8::bytea
        AND expires_at <= now()",
            $condition,
            "
    RETURNING 1
), forgotten AS (
    DELETE FROM {schema}.idem_journal
    WHERE scope = $1::text
        AND operation = $2::text
        AND key_hash = $3::bytea
        AND EXISTS (SELECT 1 FROM replaced)
)
SELECT 1 FROM replaced",
        )
    };
}

/// The locks are taken in a part of the statement that has no table, and before the update: a distributed Postgres
/// refuses volatile functions in an update.
const REPLACE: Template = Template(replace!(
    "free AS MATERIALIZED (
    SELECT CASE
        WHEN NOT pg_try_advisory_xact_lock($9::bigint) THEN false
        WHEN NOT pg_try_advisory_xact_lock($10::bigint) THEN false
        ELSE pg_try_advisory_xact_lock($11::bigint) IS NOT NULL
    END AS got
), ",
    "
        AND EXISTS (SELECT 1 FROM free WHERE got)"
));

/// Without the locks.
const REPLACE_AND_WAIT: Template = Template(replace!("", ""));

/// The columns of a record, and the database's time. Times are cut to what a bigint holds: an operator may have let a
/// record expire at `-infinity`, or never, at `infinity`.
macro_rules! columns {
    () => {
        columns!("record.headers, record.body")
    };
    ($content:literal) => {
        concat!(
            "record.fingerprint, record.state, record.claim, record.format, record.status, ",
            $content,
            ",
    CASE WHEN record.expires_at IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.expires_at), 9000000000000), 0) * 1000000)::bigint
    END AS expires_at,
    CASE WHEN record.kept_until IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.kept_until), 9000000000000), 0) * 1000000)::bigint
    END AS kept_until,
    CASE WHEN record.completed_at IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.completed_at), 9000000000000), 0) * 1000000)::bigint
    END AS completed_at,
    CASE WHEN record.lease_until IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.lease_until), 9000000000000), 0) * 1000000)::bigint
    END AS lease_until,
    record.attempt,
    record.released,
    (extract(epoch FROM now()) * 1000000)::bigint AS now"
        )
    };
}
pub(super) use columns;

/// Always one row: without a record, `expires_at` is NULL.
///
/// `is_alone`: the transaction of a bare statement begins (`now()`) when the statement is bound. The statement runs
/// (`statement_timestamp()`) when it is planned, some microseconds later. If the two are further apart, the transaction
/// was probably left open by an earlier user; a wrong guess costs only time. A transaction that was left open less than
/// ten milliseconds ago is not detected. That does no harm: a stored reply is not changed before it expires.
const FIND: Template = Template(concat!(
    "
SELECT ",
    columns!(),
    ",
    statement_timestamp() - now() < interval '10 milliseconds' AS is_alone
FROM (VALUES (1)) AS one (row)
LEFT JOIN {schema}.idem_records AS record
    ON record.scope = $1::text
    AND record.operation = $2::text
    AND record.key_hash = $3::bytea",
));

/// The locks are shared if there is no record, so that two look-ups do not see each other. For an expired record ($4)
/// they are exclusive, because the look-up may go on to replace the record: with shared locks, several look-ups would
/// prevent each other's replacement.
const HOLDER: Template = Template(
    "
SELECT CASE
    WHEN $4::boolean AND pg_try_advisory_xact_lock($1::bigint) THEN
        CASE WHEN pg_try_advisory_xact_lock($2::bigint) THEN 0 ELSE 1 END
    WHEN NOT $4::boolean AND pg_try_advisory_xact_lock_shared($1::bigint) THEN
        CASE WHEN pg_try_advisory_xact_lock_shared($2::bigint) THEN 0 ELSE 1 END
    ELSE
        CASE WHEN pg_try_advisory_xact_lock_shared($3::bigint) THEN 2 ELSE 3 END
END",
);

/// `created_at = now()` is true only in the transaction that claimed: `now()` is a transaction's start. There
/// `now() + ttl` is the value that the claim has written, so the update does not touch the index on `expires_at`, and
/// is heap-only. A distributed Postgres refuses `expires_at + …`.
const COMPLETE: Template = Template(
    "
UPDATE {schema}.idem_records
SET state = $5::smallint,
    format = $6::smallint,
    status = $7::smallint,
    headers = $8::bytea,
    body = $9::bytea,
    completed_at = now() + $10::double precision * interval '1 second',
    expires_at = now() + $11::double precision * interval '1 second',
    kept_until = now() + $12::double precision * interval '1 second'
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
    AND claim = $4::bytea
    AND completed_at IS NULL
    AND created_at = now()",
);

const LOCKED: Template = Template(concat!(
    "
SELECT ",
    columns!(),
    "
FROM {schema}.idem_records AS record
WHERE scope = $1::text
    AND operation = $2::text
    AND key_hash = $3::bytea
FOR UPDATE",
));

const SECRET: Template = Template("SELECT secret FROM {schema}.idem_secret");

const CANCEL: Template = Template(
    "
SELECT pg_catalog.pg_cancel_backend(held.pid)
FROM pg_catalog.pg_locks AS held
    JOIN pg_catalog.pg_database AS database ON database.oid = held.database
WHERE held.locktype = 'advisory'
    AND held.classid::bigint = ($1::bigint >> 32) & 4294967295
    AND held.objid::bigint = $1::bigint & 4294967295
    AND held.objsubid = 1
    AND held.mode = 'ExclusiveLock'
    AND held.granted
    AND database.datname = current_database()",
);

/// The transaction of a role that may write records, which runs an identity. `pg_locks` has a bigint as two halves.
/// `usesysid` is the role that has logged in, which no `SET ROLE` changes.
macro_rules! runner {
    () => {
        "
FROM pg_catalog.pg_locks AS held
    JOIN pg_catalog.pg_stat_activity AS holder ON holder.pid = held.pid AND holder.datid = held.database
    JOIN pg_catalog.pg_namespace AS schema ON schema.nspname = $2::name
    JOIN pg_catalog.pg_class AS records ON records.relnamespace = schema.oid AND records.relname = $3::name
WHERE held.locktype = 'advisory'
    AND held.classid::bigint = ($1::bigint >> 32) & 4294967295
    AND held.objid::bigint = $1::bigint & 4294967295
    AND held.objsubid = 1
    AND held.mode = 'ExclusiveLock'
    AND held.granted
    AND holder.datname = current_database()
    AND has_table_privilege(holder.usesysid, records.oid, 'INSERT')"
    };
}

const IS_RUN: Template = Template(concat!("SELECT EXISTS (SELECT 1", runner!(), ")"));

/// The start of its transaction is NULL for a role that may not see the activity of the other role.
const HOLDER_OF: Template = Template(concat!(
    "
SELECT held.pid, coalesce(holder.application_name, '') AS application_name,
    (extract(epoch FROM holder.xact_start) * 1000000)::bigint AS since",
    runner!(),
    "
LIMIT 1",
));
