//! The mark of the index key under which this database accepts claims.
//!
//! It is the row of the table `idem_index`. Triggers compare each new fingerprint with it. A transaction that writes
//! sees all earlier ones, so no claim under another mark comes after the change of the row.

use idem_core::Error;
use idem_core::seal::Mark;

use super::session::Session;
use super::store::SqliteStore;
use crate::accepted::Naming;
use crate::error::store_error;

impl SqliteStore {
    pub(super) async fn look_at_naming(&self) -> Result<Naming, Error> {
        let mut reading = Session::begin_reading(self.pool()).await?;
        let naming = self.read_naming(&mut reading).await?;
        reading.rollback().await;
        Ok(naming)
    }

    pub(super) async fn read_naming(&self, session: &mut Session) -> Result<Naming, Error> {
        let is_there = sqlx::query_scalar(IS_THERE).persistent(false).fetch_one(session.connection());
        if !is_there.await.map_err(store_error)? {
            return Ok(Naming::Unguarded);
        }
        let noted = sqlx::query_scalar(NOTED).persistent(false).fetch_optional(session.connection());
        let noted: Option<Option<Vec<u8>>> = noted.await.map_err(store_error)?;
        Ok(match noted {
            Some(None) => Naming::Plain,
            Some(Some(bytes)) => Mark::from_bytes(&bytes).map_or(Naming::Unguarded, Naming::Indexed),
            None => Naming::Unguarded,
        })
    }

    pub(super) async fn name_by(&self, session: &mut Session, mark: Option<Mark>) -> Result<bool, Error> {
        let bytes = mark.as_ref().map(|mark| mark.as_bytes().as_slice());
        let write = sqlx::query(WRITE).persistent(false).bind(bytes).execute(session.connection());
        write.await.map_err(store_error)?;
        let others = sqlx::query_scalar(OTHERS).persistent(false).fetch_one(session.connection());
        if others.await.map_err(store_error)? {
            return Ok(false);
        }
        // What is left of another name has expired. A process that still holds such a run must not complete it beside a
        // run of the new name.
        sqlx::query(END_CLAIMS).persistent(false).execute(session.connection()).await.map_err(store_error)?;
        Ok(true)
    }
}

const IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'idem_index')";

const NOTED: &str = "SELECT mark FROM main.idem_index WHERE one = 1";

const WRITE: &str =
    "INSERT INTO main.idem_index (one, mark) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET mark = excluded.mark";

/// The claims of all records of another mark than the one that is noted.
const END_CLAIMS: &str = "
UPDATE main.idem_records
SET claim = randomblob(16)
WHERE (
    SELECT CASE
        WHEN mark IS NULL THEN substr(fingerprint, 1, 1) < x'80'
        ELSE substr(fingerprint, 1, 5) = mark
    END
    FROM main.idem_index
    WHERE one = 1
) IS NOT 1";

/// Whether a record in force is of another mark than the one that is noted.
const OTHERS: &str = "
SELECT EXISTS (
    SELECT 1
    FROM main.idem_records, main.idem_index,
        (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now) AS time
    WHERE (expires_at > time.now OR kept_until > time.now)
        AND CASE
            WHEN mark IS NULL THEN substr(fingerprint, 1, 1) < x'80'
            ELSE substr(fingerprint, 1, 5) = mark
        END IS NOT 1
)";
