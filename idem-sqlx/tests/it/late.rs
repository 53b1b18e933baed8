//! Rule 36: what a retry gets after the `ttl`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use idem_sqlx::Sweep;

use crate::client::Call;
use crate::support::{Database, Postgres};

/// Records that have nothing of their reply any more.
const TOMBSTONES: &str = "SELECT count(*) FROM idem_records
    WHERE state = 0 AND status IS NULL AND headers IS NULL AND body IS NULL AND kept_until IS NULL";

both! {
    async fn r36_of_64_late_retries_beside_the_sweep_none_runs(db) {
        let store = db.store(8).await;
        let (app, gauge) = db.app_over(store.clone());
        for round in 0..8 {
            let key = format!("k{round}");
            let call = Call::to("/kept", "insert").key(&key);
            call.send(&app).await.expect_fresh(201);
            db.expire().await;
            let is_over = Arc::new(AtomicBool::new(false));
            let sweepers: Vec<_> = (0..2).map(|_| {
                let (store, is_over) = (store.clone(), Arc::clone(&is_over));
                tokio::spawn(async move {
                    let mut removed = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        removed += store.sweep(&Sweep::default().batch(1)).await.expect("a sweep");
                    }
                    removed
                })
            }).collect();
            let retries = (0..64).map(|_| {
                let (call, app) = (call.clone(), app.clone());
                tokio::spawn(async move { call.send(&app).await })
            });
            for answer in join_all(retries).await {
                let answer = answer.expect("no panic");
                answer.expect(410, "retry_too_late");
                assert!(!answer.headers.contains_key("retry-after"), "it is final");
            }
            Call::to("/kept", "empty").key(&key).send(&app).await.expect(422, "key_reused");
            is_over.store(true, Ordering::SeqCst);
            for sweeper in sweepers {
                assert_eq!(sweeper.await.expect("no panic"), 0, "nothing is removed");
            }
            assert_eq!((gauge.entered(), db.effects().await), (round + 1, i64::try_from(round + 1).expect("small")));
            store.sweep(&Sweep::default()).await.expect("a sweep");
            assert_eq!((db.records().await, db.number(TOMBSTONES).await), (1, 1));
            db.execute("DELETE FROM idem_records").await;
        }
    }

    async fn r36_a_reply_is_removed_after_the_ttl_and_its_record_a_month_later(db) {
        let store = db.store(4).await;
        let (app, gauge) = db.app_over(store.clone());
        // Some are kept and some are not, in batches that have both.
        for key in 0..9 {
            let path = if key % 3 == 0 { "/kept" } else { "/act" };
            Call::to(path, "insert").key(&key.to_string()).send(&app).await.expect_fresh(201);
        }
        let kept = Call::to("/kept", "insert").key("0");
        assert!(kept.send(&app).await.replayed());
        assert_eq!(store.sweep(&Sweep::default()).await.expect("a sweep"), 0);
        assert_eq!(db.number(&D::days_left("kept_until")).await, 3 * 30);
        db.execute("CREATE TABLE old AS SELECT * FROM idem_records WHERE false").await;
        db.expire().await;
        let sweep = Sweep::default().batch(2).archive("old");
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 6);
        assert_eq!((db.records().await, db.number(TOMBSTONES).await), (3, 3));
        assert_eq!(db.number(&D::days_left("expires_at")).await, 3 * 30);
        // Each record is in the archive once, with its reply.
        let replies = "SELECT count(*) FROM old WHERE status = 201 AND body IS NOT NULL AND state <> 0";
        assert_eq!((db.number("SELECT count(*) FROM old").await, db.number(replies).await), (9, 9));
        kept.send(&app).await.expect(410, "retry_too_late");
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 0);
        // A month later.
        db.expire().await;
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 3);
        assert_eq!((db.records().await, db.number("SELECT count(*) FROM old").await), (0, 9));
        assert_eq!(gauge.entered(), 9);
        kept.send(&app).await.expect_fresh(201);
    }

    async fn r36_a_late_retry_of_a_rejected_request_is_refused(db) {
        let (app, gauge) = db.app().await;
        Call::to("/kept", "reject").send(&app).await;
        db.expire().await;
        Call::to("/kept", "reject").send(&app).await.expect(410, "retry_too_late");
        assert_eq!((gauge.entered(), db.effects().await), (1, 0));
    }
}

/// A Postgres that is swept scope by scope keeps the same records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_a_sweep_scope_by_scope_keeps_what_refuses_retries_on_postgres() {
    for archive in [false, true] {
        let db = Postgres::create().await;
        let store = db.store(4).await;
        let (app, gauge) = db.app_over(store.clone());
        for user in 0..6 {
            let path = if user % 2 == 0 { "/kept" } else { "/act" };
            Call::to(path, "insert").user(&format!("u{user}")).send(&app).await.expect_fresh(201);
        }
        db.execute(
            "CREATE TABLE old (LIKE idem_records);
            CREATE FUNCTION refuse_many() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF current_query() NOT LIKE '%scope = $1%' THEN
                    RAISE EXCEPTION 'not on several nodes' USING ERRCODE = '0A000';
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER refuse_many BEFORE DELETE ON idem_records FOR EACH STATEMENT EXECUTE FUNCTION refuse_many()",
        )
        .await;
        db.expire().await;
        let sweep = Sweep::default().batch(2);
        let sweep = if archive { sweep.archive("old") } else { sweep };
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 3);
        assert_eq!((db.records().await, db.number(TOMBSTONES).await), (3, 3));
        assert_eq!(db.number("SELECT count(*) FROM old").await, if archive { 6 } else { 0 });
        let retry = Call::to("/kept", "insert").user("u0");
        retry.send(&app).await.expect(410, "retry_too_late");
        db.expire().await;
        assert_eq!(store.sweep(&sweep).await.expect("a sweep"), 3);
        assert_eq!(db.number("SELECT count(*) FROM old").await, if archive { 6 } else { 0 });
        retry.send(&app).await.expect_fresh(201);
        assert_eq!(gauge.entered(), 7);
    }
}
