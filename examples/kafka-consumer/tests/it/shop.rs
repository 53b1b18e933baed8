//! The warehouses' database.

use std::path::PathBuf;
use std::time::Duration;

use idem_sqlx::SqliteStore;
use kafka_consumer::orders::Order;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

pub(crate) struct Shop {
    folder: TempDir,
    pub(crate) pool: SqlitePool,
    pub(crate) store: SqliteStore,
}

impl Shop {
    /// Each of the warehouses has this many lamps.
    pub(crate) async fn open(warehouses: &[&str], lamps: i64) -> Self {
        Self::open_with(warehouses, lamps, Duration::from_secs(5)).await
    }

    /// Where somebody else writes, this shop waits for `patience`.
    pub(crate) async fn open_with(warehouses: &[&str], lamps: i64, patience: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteConnectOptions::new().filename(folder.path().join("stock.db")).busy_timeout(patience);
        let pool = kafka_consumer::open(options).await.expect("a database");
        let store = SqliteStore::new(pool.clone());
        store.migrate().await.expect("the store's tables");
        for warehouse in warehouses {
            let stock = "INSERT INTO stock (warehouse, item, on_hand) VALUES ($1, 'lamp', $2)";
            sqlx::query(stock).bind(warehouse).bind(lamps).execute(&pool).await.expect("stock");
        }
        Self { folder, pool, store }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("stock.db")
    }

    pub(crate) async fn on_hand(&self, warehouse: &str) -> i64 {
        let query = sqlx::query_scalar("SELECT on_hand FROM stock WHERE warehouse = $1").bind(warehouse);
        query.fetch_one(&self.pool).await.expect("stock")
    }

    pub(crate) async fn reservations(&self) -> i64 {
        let query = sqlx::query_scalar("SELECT count(*) FROM reservations");
        query.fetch_one(&self.pool).await.expect("reservations")
    }
}

/// Orders this many lamps.
pub(crate) fn order(id: impl ToString, quantity: i64) -> String {
    let order = Order { id: id.to_string(), item: "lamp".to_owned(), quantity };
    serde_json::to_string(&order).expect("JSON")
}
