//! The way to a connection for signs of life.

use std::sync::OnceLock;
use std::time::Duration;

use idem_core::Error;
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{Database, Pool};
use tokio::time::timeout;

use crate::error::not_begun;

/// How long a renewal waits for a connection of the application's pool. The shortest lease lasts a second.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the spare connection stays open after its last use.
const IDLE: Duration = Duration::from_secs(60);

/// One connection beside the application's pool. Renewals use it while the pool is full of the work that they keep
/// alive: queued behind that work they would come too late (rule 25a).
///
/// It is opened when it is needed, in the way in which the pool opens its own.
pub(crate) struct Spare<DB: Database>(OnceLock<Pool<DB>>);

impl<DB: Database> Spare<DB> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// A connection of the pool, or the spare one if the pool has none to give at once.
    pub(crate) async fn acquire(&self, pool: &Pool<DB>) -> Result<PoolConnection<DB>, Error>
    where
        PoolOptions<DB>: Clone,
    {
        if let Ok(acquired) = timeout(PATIENCE, Box::pin(pool.acquire())).await {
            return acquired.map_err(not_begun);
        }
        let spare = self.0.get_or_init(|| {
            let options = pool.options().clone().max_connections(1).min_connections(0).idle_timeout(IDLE);
            options.connect_lazy_with((*pool.connect_options()).clone())
        });
        Box::pin(spare.acquire()).await.map_err(not_begun)
    }
}
