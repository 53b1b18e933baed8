//! The statements on records, and nothing else.

use std::time::Duration;

use crate::database::Found;
use crate::error::store_error;
use idem_core::store::{Claim, Outcome, Record, Timestamp};
use idem_core::{Error, Identity, Request};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

use super::error::is_gone;
use super::in_time::InTime;
use super::schema::{Schema, Template, statements};
use crate::recent::word;
use crate::row::{self, Columns};

statements! {
    /// The statements on records, with the schema in them.
    RecordSql:
    insert: INSERT,
    replace: REPLACE,
    find: FIND,
    find_or_holder: FIND_OR_HOLDER,
    complete: COMPLETE,
    probe: PROBE,
    locked: LOCKED,
    secret: SECRET,
}

/// The advisory locks of a request. The transaction that runs the request holds all three until it ends.
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
pub(super) struct Locks {
    asked: i64,
    identity: i64,
    running: i64,
}

impl Locks {
    pub(super) fn of(request: &Request, secret: Secret) -> Self {
        let identity = Sha256::new().chain_update(secret).chain_update(request.identity.digest());
        let asked = identity.clone().chain_update(request.fingerprint.as_bytes()).finalize();
        let word = |digest: &[u8]| word(digest).cast_signed();
        Self { asked: word(&asked), identity: word(&identity.finalize()), running: word(&asked[8..]) }
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
    /// No transaction: the last holder has ended.
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
    /// True to send statements without names. A pooler in transaction mode gives every transaction another server
    /// connection. A statement that was prepared by name on one connection is missing on the next, or is another
    /// client's there.
    pub(super) unnamed: bool,
}

impl Records {
    pub(super) fn query(self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(!self.unnamed)
    }

    /// Inserts the running record. If a row was inserted, the claimant runs: the primary key is the arbiter.
    pub(super) async fn insert(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
        claim: Claim,
    ) -> sqlx::Result<bool> {
        let locks = Locks::of(request, self.secret);
        let query = self.query(&self.sql.insert).bind(locks.asked).bind(locks.identity).bind(locks.running);
        let query = bind_identity(query, &request.identity)
            .bind(request.fingerprint.as_bytes().as_slice())
            .bind(row::RUNNING)
            .bind(claim.as_bytes().as_slice())
            .bind(request.ttl.as_secs_f64());
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
        let locks = Locks::of(request, self.secret);
        let query = self.query(&self.sql.replace).bind(locks.asked).bind(locks.identity).bind(locks.running);
        let query = bind_identity(query, &request.identity)
            .bind(request.fingerprint.as_bytes().as_slice())
            .bind(row::RUNNING)
            .bind(claim.as_bytes().as_slice())
            .bind(request.ttl.as_secs_f64())
            .bind(expired.as_bytes().as_slice());
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
    pub(super) async fn find_or_holder(
        self,
        connection: &mut InTime<'_>,
        request: &Request,
    ) -> Result<(Option<Record>, Timestamp, Holder), Error> {
        let locks = Locks::of(request, self.secret);
        let query = bind_identity(self.query(&self.sql.find_or_holder), &request.identity)
            .bind(locks.asked)
            .bind(locks.identity)
            .bind(locks.running);
        let row = query.fetch_one(connection).await.map_err(store_error)?;
        let holder = match row.try_get::<Option<i32>, _>("holder").map_err(store_error)? {
            None | Some(0) => Holder::Nobody,
            Some(1) => Holder::Other,
            Some(2) => Holder::Claimant,
            Some(_) => Holder::Same,
        };
        let (record, now) = read(&row)?;
        Ok((record, now, holder))
    }

    /// Whether the lock on the identity is held by a role that may insert records, so that its holder runs a request
    /// under the key. Any other role may hold the lock to get the request refused.
    pub(super) async fn is_run(self, connection: &mut InTime<'_>, request: &Request) -> sqlx::Result<bool> {
        let Locks { identity, .. } = Locks::of(request, self.secret);
        let query = self.query(IS_RUN).bind(identity).bind(self.schema.name()).bind("idem_records");
        query.fetch_one(connection).await?.try_get(0)
    }

    /// Cancels the statement of the transaction that holds the lock on the identity.
    pub(super) async fn cancel(self, connection: &mut InTime<'_>, request: &Request) -> sqlx::Result<()> {
        let Locks { identity, .. } = Locks::of(request, self.secret);
        self.query(CANCEL).bind(identity).fetch_all(connection).await.map(|_| ())
    }

    /// Completes the record that this transaction claimed. Returns false if this is no longer that transaction.
    pub(super) async fn complete(
        self,
        connection: &mut InTime<'_>,
        identity: &Identity,
        claim: Claim,
        outcome: &Outcome,
        elapsed: Duration,
        late: Duration,
    ) -> sqlx::Result<bool> {
        let (state, format, status, headers, body) = row::written(outcome);
        let query = bind_identity(self.query(&self.sql.complete), identity)
            .bind(claim.as_bytes().as_slice())
            .bind(state)
            .bind(format)
            .bind(status)
            .bind(headers)
            .bind(body)
            .bind(elapsed.as_secs_f64())
            .bind(late.as_secs_f64());
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
        let query = bind_identity(self.query(&self.sql.probe), &request.identity)
            .bind(request.fingerprint.as_bytes().as_slice())
            .bind(row::RUNNING)
            .bind(claim.as_bytes().as_slice());
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

fn read(row: &PgRow) -> Result<(Option<Record>, Timestamp), Error> {
    row::read(Columns::from_row(row).map_err(store_error)?)
}

/// `CASE` keeps the order of the locks. The last lock is only taken for others to see: with `IS NOT NULL` it decides
/// nothing.
const INSERT: Template = Template(
    "
INSERT INTO {schema}.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
SELECT $4, $5, $6, $7, $8, $9, 1, 0, now(), now() + $10 * interval '1 second'
WHERE CASE
    WHEN NOT pg_try_advisory_xact_lock($1) THEN false
    WHEN NOT pg_try_advisory_xact_lock($2) THEN false
    ELSE pg_try_advisory_xact_lock($3) IS NOT NULL
END
ON CONFLICT (scope, operation, key_hash) DO NOTHING",
);

/// The replaced record may be leased, if an earlier release of the handler was. So its journal is removed.
const REPLACE: Template = Template(
    "
WITH replaced AS (
    UPDATE {schema}.idem_records
    SET fingerprint = $7,
        state = $8,
        claim = $9,
        attempt = 1,
        released = 0,
        lease_until = NULL,
        format = 0,
        status = NULL,
        headers = NULL,
        body = NULL,
        created_at = now(),
        completed_at = NULL,
        expires_at = now() + $10 * interval '1 second'
    WHERE scope = $4
        AND operation = $5
        AND key_hash = $6
        AND claim = $11
        AND expires_at <= now()
        AND CASE
            WHEN NOT pg_try_advisory_xact_lock($1) THEN false
            WHEN NOT pg_try_advisory_xact_lock($2) THEN false
            ELSE pg_try_advisory_xact_lock($3) IS NOT NULL
        END
    RETURNING 1
), forgotten AS (
    DELETE FROM {schema}.idem_journal
    WHERE scope = $4
        AND operation = $5
        AND key_hash = $6
        AND EXISTS (SELECT 1 FROM replaced)
)
SELECT 1 FROM replaced",
);

/// The columns of a record, and the database's time. Times are cut to what a bigint holds: an operator may have let a
/// record expire at `-infinity`, or never, at `infinity`.
macro_rules! columns {
    () => {
        "record.fingerprint, record.state, record.claim, record.format, record.status, record.headers, record.body,
    CASE WHEN record.expires_at IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.expires_at), 9000000000000), 0) * 1000000)::bigint
    END AS expires_at,
    CASE WHEN record.lease_until IS NOT NULL THEN
        (greatest(least(extract(epoch FROM record.lease_until), 9000000000000), 0) * 1000000)::bigint
    END AS lease_until,
    record.attempt,
    record.released,
    (extract(epoch FROM now()) * 1000000)::bigint AS now"
    };
}

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
    ON record.scope = $1
    AND record.operation = $2
    AND record.key_hash = $3",
));

/// The locks are tried only if no record is in force. They are shared, so that two look-ups do not see each other. For
/// an expired record they are exclusive, because the look-up may go on to replace the record: with shared locks,
/// several look-ups would prevent each other's replacement.
const FIND_OR_HOLDER: Template = Template(concat!(
    "
SELECT ",
    columns!(),
    ",
    CASE
        WHEN record.expires_at > now() THEN NULL
        WHEN record.expires_at IS NOT NULL AND pg_try_advisory_xact_lock($4) THEN
            CASE WHEN pg_try_advisory_xact_lock($5) THEN 0 ELSE 1 END
        WHEN record.expires_at IS NULL AND pg_try_advisory_xact_lock_shared($4) THEN
            CASE WHEN pg_try_advisory_xact_lock_shared($5) THEN 0 ELSE 1 END
        ELSE
            CASE WHEN pg_try_advisory_xact_lock_shared($6) THEN 2 ELSE 3 END
    END AS holder
FROM (VALUES (1)) AS one (row)
LEFT JOIN {schema}.idem_records AS record
    ON record.scope = $1
    AND record.operation = $2
    AND record.key_hash = $3",
));

/// `created_at = now()` is true only in the transaction that claimed: `now()` is a transaction's start. Adding zero to
/// `expires_at` keeps its value and so its index entry.
const COMPLETE: Template = Template(
    "
UPDATE {schema}.idem_records
SET state = $5,
    format = $6,
    status = $7,
    headers = $8,
    body = $9,
    completed_at = now() + $10 * interval '1 second',
    expires_at = expires_at + $11 * interval '1 second'
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
    AND claim = $4
    AND completed_at IS NULL
    AND created_at = now()",
);

/// Never committed: it only waits.
const PROBE: Template = Template(
    "
INSERT INTO {schema}.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, 1, 0, now(), now())
ON CONFLICT (scope, operation, key_hash) DO NOTHING",
);

const LOCKED: Template = Template(concat!(
    "
SELECT ",
    columns!(),
    "
FROM {schema}.idem_records AS record
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
FOR UPDATE",
));

const SECRET: Template = Template("SELECT secret FROM {schema}.idem_secret");

const CANCEL: &str = "
SELECT pg_catalog.pg_cancel_backend(held.pid)
FROM pg_catalog.pg_locks AS held
    JOIN pg_catalog.pg_database AS database ON database.oid = held.database
WHERE held.locktype = 'advisory'
    AND held.classid::bigint = ($1::bigint >> 32) & 4294967295
    AND held.objid::bigint = $1 & 4294967295
    AND held.objsubid = 1
    AND held.mode = 'ExclusiveLock'
    AND held.granted
    AND database.datname = current_database()";

/// `pg_locks` has a bigint as two halves. `usesysid` is the role that has logged in, which no `SET ROLE` changes.
const IS_RUN: &str = "
SELECT EXISTS (
    SELECT 1
    FROM pg_catalog.pg_locks AS held
        JOIN pg_catalog.pg_stat_activity AS holder ON holder.pid = held.pid AND holder.datid = held.database
        JOIN pg_catalog.pg_namespace AS schema ON schema.nspname = $2
        JOIN pg_catalog.pg_class AS records ON records.relnamespace = schema.oid AND records.relname = $3
    WHERE held.locktype = 'advisory'
        AND held.classid::bigint = ($1::bigint >> 32) & 4294967295
        AND held.objid::bigint = $1 & 4294967295
        AND held.objsubid = 1
        AND held.mode = 'ExclusiveLock'
        AND held.granted
        AND holder.datname = current_database()
        AND has_table_privilege(holder.usesysid, records.oid, 'INSERT')
)";
