//! The statements on records, and nothing else.

use std::time::Duration;

use crate::error::into_idem_error;
use idem_core::store::{Claim, Outcome, Record, Timestamp};
use idem_core::{Error, Identity, Request};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};

use super::schema::Template;
use super::statements::Statements;
use crate::recent::word;
use crate::row::{self, Columns};

/// The advisory locks of a request. Whoever runs it holds all three until its transaction ends.
///
/// They are taken in this order, so a holder of `identity` always holds the `asked` of what it runs. A duplicate
/// that can share `asked` while `identity` is held therefore knows that another request runs under its key (422).
/// One that cannot share `asked` may have met the runner, or only another claimant on its way out: `running`, which
/// nobody takes without `identity`, tells the two apart.
#[derive(Clone, Copy)]
pub(super) struct Locks {
    asked: i64,
    identity: i64,
    running: i64,
}

impl Locks {
    pub(super) fn of(request: &Request) -> Self {
        let identity = request.identity.digest();
        let asked = Sha256::new().chain_update(identity).chain_update(request.fingerprint.as_bytes()).finalize();
        let word = |digest: &[u8]| word(digest).cast_signed();
        Self { asked: word(&asked), identity: word(&identity), running: word(&asked[8..]) }
    }
}

/// Who holds the locks of a request that has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody: whoever held them is gone.
    Nobody,
    /// The same request is running.
    Same,
    /// Another request is running under the key.
    Other,
    /// A claimant that may not have won. Look again.
    Claimant,
}

/// The statements on the tables of one schema, in the one of two ways to send them that the application chose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records {
    pub(super) sql: &'static Statements,
    /// Without names: a transaction-mode pooler gives every transaction another server connection, and a statement
    /// prepared by name on one is missing, or somebody else's, on the next.
    pub(super) unnamed: bool,
}

impl Records {
    pub(super) fn query(self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(!self.unnamed)
    }

    /// Inserts the running record. Whether a row was inserted is the arbiter's word: the claimant runs.
    pub(super) async fn insert(
        self,
        connection: &mut PgConnection,
        request: &Request,
        claim: Claim,
    ) -> sqlx::Result<bool> {
        let locks = Locks::of(request);
        let query = self.query(&self.sql.insert).bind(locks.asked).bind(locks.identity).bind(locks.running);
        let query = bind_identity(query, &request.identity)
            .bind(request.fingerprint.as_bytes().as_slice())
            .bind(row::RUNNING)
            .bind(claim.as_bytes().as_slice())
            .bind(request.ttl.as_secs_f64());
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    /// Takes the place of an expired record, if it is still the one that was seen.
    pub(super) async fn replace(
        self,
        connection: &mut PgConnection,
        request: &Request,
        claim: Claim,
        expired: Claim,
    ) -> sqlx::Result<bool> {
        let locks = Locks::of(request);
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
        connection: &mut PgConnection,
        identity: &Identity,
    ) -> Result<(Option<Record>, Timestamp), Error> {
        let query = bind_identity(self.query(&self.sql.find), identity);
        read(&query.fetch_one(connection).await.map_err(into_idem_error)?)
    }

    /// The same by one statement without a BEGIN, on a connection that comes from the pool. `None` where it may have met
    /// a transaction that somebody else has left open: then the answer is as old as that, or there is none, and only a
    /// transaction of one's own tells.
    pub(super) async fn find_alone(
        self,
        connection: &mut PgConnection,
        identity: &Identity,
    ) -> Result<Option<(Option<Record>, Timestamp)>, Error> {
        let row = match bind_identity(self.query(&self.sql.find), identity).fetch_one(connection).await {
            Ok(row) => row,
            // The transaction has failed, or its settings are in the way. What is no fault of it, comes again.
            Err(sqlx::Error::Database(_)) => return Ok(None),
            Err(error) => return Err(into_idem_error(error)),
        };
        if !row.try_get("is_alone").map_err(into_idem_error)? {
            return Ok(None);
        }
        read(&row).map(Some)
    }

    /// The record of a request, the database's time, and who holds the request's locks where no record counts.
    pub(super) async fn find_or_holder(
        self,
        connection: &mut PgConnection,
        request: &Request,
    ) -> Result<(Option<Record>, Timestamp, Holder), Error> {
        let locks = Locks::of(request);
        let query = bind_identity(self.query(&self.sql.find_or_holder), &request.identity)
            .bind(locks.asked)
            .bind(locks.identity)
            .bind(locks.running);
        let row = query.fetch_one(connection).await.map_err(into_idem_error)?;
        let holder = match row.try_get::<Option<i32>, _>("holder").map_err(into_idem_error)? {
            None | Some(0) => Holder::Nobody,
            Some(1) => Holder::Other,
            Some(2) => Holder::Claimant,
            Some(_) => Holder::Same,
        };
        let (record, now) = read(&row)?;
        Ok((record, now, holder))
    }

    /// Completes the record that this transaction claimed. No row: this is not that transaction any more.
    pub(super) async fn complete(
        self,
        connection: &mut PgConnection,
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

    /// Waits for whatever transaction holds the record's row, and gives the row as that transaction left it.
    pub(super) async fn find_settled(
        self,
        connection: &mut PgConnection,
        request: &Request,
        claim: Claim,
    ) -> Result<Option<Record>, Error> {
        // A record that is not there cannot be locked, but its place in the primary key can: the insert waits for
        // a transaction that has inserted it and not ended.
        let query = bind_identity(self.query(&self.sql.probe), &request.identity)
            .bind(request.fingerprint.as_bytes().as_slice())
            .bind(row::RUNNING)
            .bind(claim.as_bytes().as_slice());
        if query.execute(&mut *connection).await.map_err(into_idem_error)?.rows_affected() == 1 {
            return Ok(None);
        }
        let query = bind_identity(self.query(&self.sql.locked), &request.identity);
        let row = query.fetch_optional(connection).await.map_err(into_idem_error)?;
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
    row::read(Columns::from_row(row).map_err(into_idem_error)?)
}

/// `CASE` keeps the order of the locks, and `IS NOT NULL` keeps the last one, which is taken for others to see,
/// from deciding anything.
pub(super) const INSERT: Template = Template(
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

/// What it replaces may have been leased, if an earlier release of the handler was.
pub(super) const REPLACE: Template = Template(
    "
WITH replaced AS (
    UPDATE {schema}.idem_records
    SET fingerprint = $7,
        state = $8,
        claim = $9,
        attempt = 1,
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

/// One row always: a record that is not there has no `expires_at`.
///
/// `is_alone`: a statement that is a transaction by itself begins it (`now()`) when it is bound and runs
/// (`statement_timestamp()`) when it is planned, some microseconds later. Where the two are further apart, the
/// transaction is probably somebody else's, and to think so in vain costs no more than time. A transaction that was left
/// open less than ten milliseconds ago passes, and so does what could be read in it then: a reply that is stored is not
/// changed before it expires.
pub(super) const FIND: Template = Template(
    "
SELECT record.fingerprint, record.state, record.claim, record.format, record.status, record.headers, record.body,
    (extract(epoch FROM record.expires_at) * 1000000)::bigint AS expires_at,
    (extract(epoch FROM record.lease_until) * 1000000)::bigint AS lease_until,
    record.attempt,
    (extract(epoch FROM now()) * 1000000)::bigint AS now,
    statement_timestamp() - now() < interval '10 milliseconds' AS is_alone
FROM (VALUES (1)) AS one (row)
LEFT JOIN {schema}.idem_records AS record
    ON record.scope = $1
    AND record.operation = $2
    AND record.key_hash = $3",
);

/// The locks are tried only where no record counts. They are shared, so that two who look do not see each other; but
/// whoever may take an expired record's place has to have them alone, or all who look at it would be in each other's
/// way.
pub(super) const FIND_OR_HOLDER: Template = Template(
    "
SELECT record.fingerprint, record.state, record.claim, record.format, record.status, record.headers, record.body,
    (extract(epoch FROM record.expires_at) * 1000000)::bigint AS expires_at,
    (extract(epoch FROM record.lease_until) * 1000000)::bigint AS lease_until,
    record.attempt,
    (extract(epoch FROM now()) * 1000000)::bigint AS now,
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
);

/// `created_at = now()` is true only in the transaction that claimed: `now()` is a transaction's start. Adding
/// nothing to `expires_at` keeps its value and so its index entry.
pub(super) const COMPLETE: Template = Template(
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
pub(super) const PROBE: Template = Template(
    "
INSERT INTO {schema}.idem_records
    (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, 1, 0, now(), now())
ON CONFLICT (scope, operation, key_hash) DO NOTHING",
);

pub(super) const LOCKED: Template = Template(
    "
SELECT fingerprint, state, claim, format, status, headers, body,
    (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at,
    (extract(epoch FROM lease_until) * 1000000)::bigint AS lease_until,
    attempt,
    (extract(epoch FROM now()) * 1000000)::bigint AS now
FROM {schema}.idem_records
WHERE scope = $1
    AND operation = $2
    AND key_hash = $3
FOR UPDATE",
);
