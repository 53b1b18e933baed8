//! The epoch of the database.

use std::sync::atomic::Ordering;

use idem_core::Error;
use idem_core::hint::{Confirmed, Epoch, Moment};
use idem_core::store::{Claim, Timestamp};
use sqlx::FromRow;

use super::error::is_no_function;
use super::schema::{Template, statements};
use super::session::Session;
use super::store::PgStore;
use crate::database::Database;
use crate::error::{no_epoch, store_error};
use crate::failure::Failure;

statements! {
    /// The statements on the epoch.
    EpochSql:
    epoch: EPOCH,
    epoch_of_row: EPOCH_OF_ROW,
    new_epoch: NEW_EPOCH,
}

/// What the epoch is made of, and the database's time.
#[derive(FromRow)]
struct Parts {
    epoch: Vec<u8>,
    system: Option<String>,
    timeline: Option<String>,
    now: i64,
}

impl PgStore {
    pub(super) async fn ask_for_epoch(&self) -> Result<Confirmed, Error> {
        let inner = self.inner();
        let of_row = || self.ask_by(|sql| &sql.epoch_of_row);
        if inner.epoch_is_row.load(Ordering::Relaxed) {
            return of_row().await.map_err(Error::from);
        }
        match self.ask_by(|sql| &sql.epoch).await {
            // A role without the right, or a Postgres without such functions. The row alone is an epoch, too.
            Err(Asked::Refused(error)) if is_no_function(&error) => {
                let confirmed = of_row().await?;
                inner.epoch_is_row.store(true, Ordering::Relaxed);
                let error = Failure(error);
                tracing::warn!(target: "idem", %error, "hints do not notice a failover: an operator has to say so");
                Ok(confirmed)
            }
            asked => asked.map_err(Error::from),
        }
    }

    async fn ask_by(&self, text: impl FnOnce(&'static EpochSql) -> &'static str) -> Result<Confirmed, Asked> {
        let inner = self.inner();
        let connection = inner.spare.acquire(self.pool()).await.map_err(Asked::Failed)?;
        // `now()` is the time of BEGIN.
        let asked = Moment::now();
        let mut session = Session::begin_on(connection, self, &inner.begin_own).await.map_err(Asked::Failed)?;
        let statements = inner.statements(&mut session.in_time()).await.map_err(Asked::Failed)?;
        let query = sqlx::query(text(&statements.epoch)).persistent(!inner.unnamed_statements);
        let row = query.fetch_optional(&mut session.in_time()).await.map_err(Asked::Refused)?;
        let parts = row.map(|row| Parts::from_row(&row)).transpose().map_err(Asked::Refused)?;
        let Parts { epoch, system, timeline, now } = parts.ok_or_else(|| Asked::Failed(no_epoch()))?;
        session.rollback().await;
        let [system, timeline] = [system, timeline].map(Option::unwrap_or_default);
        let epoch = Epoch::of(&[&epoch, system.as_bytes(), timeline.as_bytes()]);
        Ok(Confirmed::new(epoch, Timestamp(now), asked))
    }

    pub(super) async fn begin_epoch(&self) -> Result<(), Error> {
        let mut session = Database::begin(self).await?;
        self.begin_epoch_in(&mut session).await?;
        Ok(session.commit(self.inner().commit_deadline).await?)
    }

    /// With the commit of the session.
    pub(super) async fn begin_epoch_in(&self, session: &mut Session) -> Result<(), Error> {
        let sql: &'static EpochSql = &self.inner().statements(&mut session.in_time()).await?.epoch;
        let query = sqlx::query(sql.new_epoch.as_str()).persistent(!self.inner().unnamed_statements);
        let query = query.bind(Claim::random()?.as_bytes().to_vec());
        query.execute(&mut session.in_time()).await.map_err(store_error)?;
        Ok(())
    }
}

/// Why the epoch is not known.
enum Asked {
    Failed(Error),
    Refused(sqlx::Error),
}

impl From<Asked> for Error {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Failed(error) => error,
            Asked::Refused(error) => store_error(error),
        }
    }
}

/// The identifier is of the cluster, in which a database may be a copy of another one. The timeline is another one after
/// each promotion. A standby refuses to say where it writes.
const EPOCH: Template = Template(
    "
SELECT epoch,
    concat((SELECT system_identifier FROM pg_catalog.pg_control_system()), ' ', (
        SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
    )) AS system,
    left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) AS timeline,
    (extract(epoch FROM now()) * 1000000)::bigint AS now
FROM {schema}.idem_epoch",
);

const EPOCH_OF_ROW: Template = Template(
    "
SELECT epoch, NULL::text AS system, NULL::text AS timeline, (extract(epoch FROM now()) * 1000000)::bigint AS now
FROM {schema}.idem_epoch",
);

/// A random value: after a restore, a number could come to a value that it had before.
const NEW_EPOCH: Template = Template(
    "
INSERT INTO {schema}.idem_epoch (one, epoch)
VALUES (true, $1::bytea)
ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch",
);
