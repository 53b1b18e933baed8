//! The mark of the index key under which this database accepts claims.
//!
//! It is a check of the table `idem_records`, and the check's name says which. The server asks the check for every row
//! that is written, whatever the snapshot of the transaction that writes it, so no claim under another mark comes after
//! the change of the check.

use idem_core::Error;
use idem_core::seal::Mark;
use sqlx::{AssertSqlSafe, PgConnection};

use super::schema::Schema;
use super::session::Session;
use super::store::{Isolation, PgStore};
use crate::accepted::Naming;
use crate::error::store_error;

/// What the check's name begins with. Its end is the id of the mark, or [`NONE`].
pub(crate) const CHECK: &str = "idem_index_";

const NONE: &str = "none";

impl PgStore {
    pub(super) async fn look_at_naming(&self) -> Result<Naming, Error> {
        let mut session = Session::begin(self, &Isolation::ReadCommitted.begin()).await?;
        let naming = self.read_naming(&mut session).await?;
        session.rollback().await;
        Ok(naming)
    }

    pub(super) async fn read_naming(&self, session: &mut Session) -> Result<Naming, Error> {
        let schema = &self.inner().statements(&mut session.in_time()).await?.schema;
        let checks = checks(session.connection(), schema).await.map_err(store_error)?;
        let [check] = checks.as_slice() else { return Ok(Naming::Unguarded) };
        Ok(match check.strip_prefix(CHECK) {
            Some(NONE) => Naming::Plain,
            id => id.and_then(Mark::from_id).map_or(Naming::Unguarded, Naming::Indexed),
        })
    }

    pub(super) async fn name_by(&self, session: &mut Session, mark: Option<Mark>) -> Result<bool, Error> {
        let schema = &self.inner().statements(&mut session.in_time()).await?.schema;
        let checks = checks(session.connection(), schema).await.map_err(store_error)?;
        let drops = checks.iter().map(|check| format!("DROP CONSTRAINT \"{}\", ", check.replace('"', "\"\"")));
        let (id, condition) = condition(mark);
        let other = format!(
            "SELECT EXISTS (SELECT 1 FROM {{schema}}.idem_records WHERE (expires_at > now() OR kept_until > now()) AND \
             NOT ({condition}))"
        );
        let other = schema.qualify(&other);
        let others = async |session: &mut Session| {
            let others = sqlx::query_scalar(AssertSqlSafe(other.clone())).persistent(false);
            others.fetch_one(session.connection()).await.map_err(store_error)
        };
        // ALTER TABLE stands in everybody's way, so it is tried only where it may succeed.
        if others(session).await? {
            return Ok(false);
        }
        // It waits for the transactions that have a claim, and all others wait for it. What has expired need not pass the
        // new check.
        let change = format!(
            "SET LOCAL lock_timeout = '2s'; ALTER TABLE {{schema}}.idem_records {}ADD CONSTRAINT {CHECK}{id} CHECK \
             ({condition}) NOT VALID",
            drops.collect::<String>()
        );
        let change = AssertSqlSafe(schema.qualify(&change));
        sqlx::raw_sql(change).execute(session.connection()).await.map_err(store_error)?;
        others(session).await.map(|are_there: bool| !are_there)
    }
}

/// The id of a mark, and the condition that fingerprints of this mark meet.
fn condition(mark: Option<Mark>) -> (String, String) {
    match mark {
        None => (NONE.to_owned(), r"substr(fingerprint, 1, 1) < '\x80'::bytea".to_owned()),
        Some(mark) => {
            let (id, first) = (mark.id(), Mark::INDEXED);
            let condition = format!(r"substr(fingerprint, 1, {}) = '\x{first:02x}{id}'::bytea", Mark::LEN);
            (id, condition)
        }
    }
}

/// The names of the checks for a mark. There is one, unless somebody has changed the table.
async fn checks(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<Vec<String>> {
    let checks = sqlx::query_scalar(CHECKS).persistent(false).bind(schema.name()).bind(CHECK);
    checks.fetch_all(connection).await
}

pub(super) const CHECKS: &str = "
SELECT conname::text
FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class ON pg_class.oid = conrelid
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1::name
    AND relname = 'idem_records'
    AND contype = 'c'
    AND left(conname::text, length($2::text)) = $2::text";
