//! The epoch of the database.

use std::sync::LazyLock;

use idem_core::Error;
use idem_core::hint::{Confirmed, Epoch, Moment};
use idem_core::store::Timestamp;
use sqlx::FromRow;
use sqlx::sqlite::SqliteConnection;

use super::session::{Reader, Session, alone};
use super::store::SqliteStore;
use crate::error::{no_epoch, store_error};

impl SqliteStore {
    pub(super) async fn ask_for_epoch(&self) -> Result<Confirmed, Error> {
        static EPOCH_ALONE: LazyLock<String> = LazyLock::new(|| alone(EPOCH));
        let mut reader = Reader::on(self.connection_beside_work().await?);
        let asked = Moment::now();
        let rows = reader.fetch_all(|| sqlx::query(EPOCH_ALONE.as_str())).await.map_err(store_error)?;
        let (epoch, now): (Vec<u8>, i64) = match rows.first() {
            Some(row) => FromRow::from_row(row).map_err(store_error)?,
            None => return Err(no_epoch()),
        };
        Ok(Confirmed::new(Epoch::of(&[&epoch]), Timestamp(now), asked))
    }

    pub(super) async fn begin_epoch(&self) -> Result<(), Error> {
        let mut session = Session::begin(self.pool()).await?;
        begin_epoch(session.connection()).await.map_err(store_error)?;
        Ok(session.commit().await?)
    }
}

/// With the commit of the transaction.
pub(super) async fn begin_epoch(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query(NEW_EPOCH).execute(connection).await?;
    Ok(())
}

const EPOCH: &str = "
SELECT epoch, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
FROM main.idem_epoch";

/// A random value: after a restore, a number could come to a value that it had before.
const NEW_EPOCH: &str = "
INSERT INTO main.idem_epoch (one, epoch)
VALUES (1, randomblob(16))
ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch";

/// Every text with its name.
pub(super) const ALL: &[(&str, &str)] = &[("epoch", EPOCH), ("new_epoch", NEW_EPOCH)];
