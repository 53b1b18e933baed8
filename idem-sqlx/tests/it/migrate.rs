//! Rule 33: migrations.

use futures_util::future::join_all;

use crate::client::Call;
use crate::support::Database;

both! {
    async fn r33_several_processes_migrate_at_once_beside_the_applications_own(db) {
        db.execute("DROP TABLE idem_steps").await;
        db.execute("DROP TABLE idem_records").await;
        db.execute("DROP TABLE idem_migrations").await;
        db.execute("CREATE TABLE _sqlx_migrations (version bigint)").await;
        db.execute("INSERT INTO _sqlx_migrations VALUES (1)").await;
        let mut stores = Vec::new();
        for _ in 0..16 {
            stores.push(db.store(1).await);
        }
        for migrated in join_all(stores.iter().map(|store| store.migrate())).await {
            migrated.expect("a migration");
        }
        stores[0].migrate().await.expect("nothing to do");
        assert_eq!(db.number("SELECT count(*) FROM _sqlx_migrations").await, 1);
        assert_eq!(db.number("SELECT count(*) FROM idem_migrations").await, 2);
        let (app, _) = db.app().await;
        let first = Call::act("insert").send(&app).await;
        Call::act("insert").send(&app).await.expect_replay_of(&first);
    }

    async fn r33_without_its_tables_the_store_says_so(db) {
        db.execute("DROP TABLE idem_steps").await;
        db.execute("DROP TABLE idem_records").await;
        let (app, gauge) = db.app().await;
        Call::act("insert").send(&app).await.expect(500, "store_failed");
        assert_eq!(gauge.entered(), 0);
    }
}
