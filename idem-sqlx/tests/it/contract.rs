//! The contract that every store keeps, on both databases.

use std::time::{Duration, SystemTime};

use idem_sqlx::{PgLease, PgStore, PgTx, SqliteLease, SqliteStore, SqliteTx, Sweep};
use idem_testkit::Subject;

use crate::support::{Database, Postgres, Sqlite};

/// A database, and a store over it.
struct Over<D, S> {
    db: D,
    store: S,
}

macro_rules! subject {
    ($database:ty, $store:ty, $tx:ty, $lease:ty, $pass:expr) => {
        impl Subject for Over<$database, $store> {
            type Store = $store;
            type Tx = $tx;
            type Lease = $lease;

            async fn create() -> Self {
                let db = <$database>::create().await;
                let store = db.store(8).await;
                Self { db, store }
            }

            fn store(&self) -> &$store {
                &self.store
            }

            async fn write(tx: &mut $tx) {
                let insert = sqlx::query("INSERT INTO effects VALUES ('test', 'contract')");
                insert.execute(tx).await.expect("a row");
            }

            async fn written(&self) -> u64 {
                self.db.effects().await.cast_unsigned()
            }

            async fn now(&self) -> SystemTime {
                self.db.clock().await
            }

            /// What is as far in the past as this is, is as if the time had passed.
            async fn pass(&self, time: Duration) {
                self.db.execute(&$pass(time)).await;
            }

            async fn sweep(&self) -> u64 {
                self.store.sweep(&Sweep::default()).await.expect("a sweep")
            }
        }
    };
}

subject!(Postgres, PgStore, PgTx, PgLease, |time: Duration| {
    let back = format!("interval '{} microseconds'", time.as_micros());
    format!(
        "UPDATE idem_records
        SET lease_until = lease_until - {back}, expires_at = expires_at - {back}, kept_until = kept_until - {back}"
    )
});

subject!(Sqlite, SqliteStore, SqliteTx, SqliteLease, |time: Duration| {
    let back = time.as_micros();
    format!(
        "UPDATE idem_records
        SET lease_until = lease_until - {back}, expires_at = expires_at - {back}, kept_until = kept_until - {back}"
    )
});

mod postgres {
    idem_testkit::contract!(super::Over<super::Postgres, super::PgStore>);
}

mod sqlite {
    idem_testkit::contract!(super::Over<super::Sqlite, super::SqliteStore>);
}
