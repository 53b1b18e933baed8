//! `idem doctor` on either database.

use crate::support::{COMPLETED, Db, LEASED, Postgres, REJECTED, Record, Sqlite, idem_on};

both! {
    async fn r37a_a_healthy_database_has_no_fail(db) {
        db.insert(&Record::default()).await;
        let before = db.stored().await;
        let report = db.idem(&["doctor", "--json", "--key-id", "1"]).expect(0);
        assert_eq!(report.json()["fail"], 0, "{report:?}");
        assert!(report.json()["ok"].as_u64().expect("a number") >= 9, "{report:?}");
        let text = db.idem(&["doctor"]).expect(0).out;
        assert!(text.contains("\nok    migrations") && text.ends_with(" 0 fail\n"), "{text}");
        assert_eq!(db.stored().await, before);
    }

    async fn r37a_doctor_names_migrations_that_are_missing_or_later(db) {
        db.execute("INSERT INTO idem_migrations (name) VALUES ('20990101000001_later')").await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(0).check("migrations");
        assert!(level == "warn" && found.contains("20990101000001_later"), "{level} {found}");
        db.execute("DELETE FROM idem_migrations WHERE name LIKE '%journal'").await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(10).check("migrations");
        assert!(level == "fail" && found.contains("20261122000002") && found.contains("idem migrate"), "{level} {found}");
    }

    async fn r37a_doctor_names_statements_that_the_database_refuses(db) {
        db.execute("ALTER TABLE idem_journal RENAME COLUMN undoes TO undone").await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(10).check("statements");
        assert!(level == "fail" && found.contains("entries") && found.contains("record_entry"), "{level} {found}");
    }

    async fn r37a_doctor_names_a_backlog(db) {
        db.insert(&Record { expires: -30 * 60, ..Record::default() }).await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(0).check("backlog");
        assert!(level == "warn" && found.contains("the oldest for 30m"), "{level} {found}");
        db.insert(&Record { key: "k2", expires: -25 * 60 * 60, ..Record::default() }).await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(10).check("backlog");
        assert!(level == "fail" && found.contains("no sweep runs"), "{level} {found}");
    }

    async fn r37a_doctor_names_abandoned_and_owed_work(db) {
        db.insert(&Record { state: LEASED, lease: Some(600), ..Record::default() }).await;
        db.insert_entry(0, 6, "charge").await;
        let report = db.idem(&["doctor", "--json"]).expect(0);
        assert_eq!((report.check("abandoned").0, report.check("owed").0), ("ok".into(), "ok".into()), "it is held");
        db.execute(&format!("UPDATE idem_records SET lease_until = {}", db.time(-1))).await;
        let report = db.idem(&["doctor", "--json"]).expect(0);
        assert!(report.check("abandoned").1.starts_with("1 leased runs are not over"), "{report:?}");
        assert!(report.check("owed").1.starts_with("0 rejected runs are not undone, 1 started call is"), "{report:?}");
        db.execute(&format!("UPDATE idem_records SET state = {REJECTED}; UPDATE idem_journal SET kind = 3")).await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(0).check("owed");
        assert!(level == "warn" && found.starts_with("1 rejected run is not undone, 0 started"), "{level} {found}");
    }

    async fn r37a_doctor_names_poisoned_keys_and_unreadable_records(db) {
        db.insert(&Record { state: 1, ..Record::default() }).await;
        db.insert(&Record { key: "k2", state: 77, ..Record::default() }).await;
        let (level, found) = db.idem(&["doctor", "--json"]).expect(0).check("stuck");
        assert!(level == "warn" && found.starts_with("1 keys are poisoned") && found.contains("; 1 records"), "{level} {found}");
    }

    async fn r37a_doctor_names_the_key_that_the_ring_lacks(db) {
        db.insert(&Record { state: COMPLETED, ..Record::default() }).await;
        // Format, the version of the seal, the id of the key, and what is sealed.
        let sealed = db.bytes(&format!("0100000007{}", "aa".repeat(32)));
        db.execute(&format!("UPDATE idem_records SET format = 257, body = {sealed}")).await;
        assert_eq!(db.idem(&["doctor", "--json"]).expect(0).check("sealed").0, "ok", "nobody has named a ring");
        assert_eq!(db.idem(&["doctor", "--json", "--key-id", "8", "--key-id", "7"]).expect(0).check("sealed").0, "ok");
        let (level, found) = db.idem(&["doctor", "--json", "--key-id", "8"]).expect(10).check("sealed");
        assert!(level == "fail" && found.contains("lacks keys: 7 (1 content)"), "{level} {found}");
    }

    async fn r37a_doctor_names_the_keys_of_sealed_inputs_and_steps_that_the_ring_lacks(db) {
        db.insert(&Record { state: LEASED, lease: Some(600), ..Record::default() }).await;
        db.insert_entry(-1, 5, "").await;
        db.insert_entry(0, 1, "charge").await;
        let json = db.bytes("7b226120223a317d");
        db.execute(&format!("UPDATE idem_journal SET body = {json}")).await;
        assert_eq!(db.idem(&["doctor", "--json", "--key-id", "8"]).expect(0).check("sealed").0, "ok", "nothing is sealed");
        // The byte before a sealed input, and then as above.
        let input = db.bytes(&format!("010100000007{}", "aa".repeat(32)));
        db.execute(&format!("UPDATE idem_journal SET body = {input} WHERE position = -1")).await;
        let step = db.bytes(&format!("0100000009{}", "aa".repeat(32)));
        db.execute(&format!("UPDATE idem_journal SET format = 257, body = {step} WHERE position = 0")).await;
        let (level, found) = db.idem(&["doctor", "--json", "--key-id", "8"]).expect(10).check("sealed");
        assert!(level == "fail" && found.contains("lacks keys: 7 (1 content), 9 (1 content)"), "{level} {found}");
        assert_eq!(db.idem(&["doctor", "--json", "--key-id", "7", "--key-id", "9"]).expect(0).check("sealed").0, "ok");
    }
}

#[tokio::test]
async fn r37a_doctor_names_tables_that_are_missing() {
    let db = Sqlite::empty().await;
    let (level, found) = idem_on(&db.url(""), &["doctor", "--json"], "").expect(10).check("migrations");
    assert!(level == "fail" && found.contains("idem migrate"), "{level} {found}");
}

#[tokio::test]
async fn r37a_doctor_names_tables_that_are_missing_on_postgres_and_where_they_are() {
    let db = Postgres::create().await;
    let (level, found) = db.doctor(&["--schema", "shop"]).expect(10).check("migrations");
    assert!(level == "fail" && found.contains("say --schema public"), "{level} {found}");
    let nowhere = idem_on(&db.url_with("search_path=nowhere"), &["doctor", "--json"], "").expect(10);
    assert!(nowhere.check("migrations").1.contains("--schema"), "{nowhere:?}");
}

#[tokio::test]
async fn r37a_doctor_names_a_file_that_is_damaged_or_only_read_or_not_in_wal() {
    let db = Sqlite::create().await;
    let (level, found) = idem_on(&db.url("?mode=ro"), &["doctor", "--json"], "").expect(10).check("writable");
    assert!(level == "fail" && found.contains("cannot be written"), "{level} {found}");
    let db = Db::Sqlite(db);
    db.execute("PRAGMA journal_mode = DELETE").await;
    assert_eq!(db.idem(&["doctor", "--json"]).expect(0).check("journal_mode").0, "warn");

    db.execute("CREATE TABLE filler AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) SELECT n, hex(randomblob(100)) AS t FROM n").await;
    db.execute("CREATE INDEX filler_t ON filler (t)").await;
    let Db::Sqlite(file) = &db else { unreachable!("it is SQLite") };
    let path = file.folder().join("shop.db");
    let mut bytes = std::fs::read(&path).expect("the file");
    let length = bytes.len();
    // Pages at the end: the index and the rows no longer agree.
    bytes[length - 3 * 4096..length - 4096].fill(0);
    let copy = file.folder().join("damaged.db");
    std::fs::write(&copy, bytes).expect("a copy");
    let damaged = idem_on(&format!("sqlite://{}", copy.display()), &["doctor", "--json"], "").expect(10);
    assert_eq!(damaged.check("intact").0, "fail", "{damaged:?}");
}
