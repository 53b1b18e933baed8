//! The commands that change something.

use crate::support::{Db, LEASED, Record, of};

both! {
    async fn r37a_forget_counts_first_and_then_removes_what_is_finished(db) {
        for key in ["k1", "k2"] {
            db.insert(&Record { key, ..Record::default() }).await;
            db.insert(&Record { key, scope: "bob", ..Record::default() }).await;
        }
        db.insert(&Record { state: LEASED, lease: Some(600), ..Record::default() }).await;
        let before = db.stored().await;
        let forget = ["forget", "--scope", "ada", "--json"];
        let planned = db.idem(&[&forget[..], &["--dry-run"]].concat()).expect(0).json();
        assert_eq!((&planned["removed"], &planned["kept"], &planned["is_dry"]), (&2.into(), &1.into(), &true.into()));
        assert_eq!(db.stored().await, before, "a dry run changes nothing");
        let done = db.idem(&[&forget[..], &["--yes"]].concat()).expect(0).json();
        assert_eq!((&done["removed"], &done["kept"], &done["is_dry"]), (&2.into(), &1.into(), &false.into()));
        assert_eq!(db.records().await, 3);
        let left = db.number("SELECT count(*) FROM idem_records WHERE scope = 'bob'").await;
        assert_eq!(left, 2, "others are untouched");
        let text = db.idem(&["forget", "--scope", "ada", "--dry-run"]).expect(0).out;
        assert_eq!(text, "nothing has changed; this would be done:\nremoved  0\nemptied  0\nkept     1\n");
    }

    async fn r37a_reset_lets_a_run_be_resumed_and_give_up_ends_it(db) {
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        db.insert_entry(0, 1, "reserve").await;
        let asked = of("explain", "ada", &["--json", "--attempts", "1"]);
        assert_eq!(db.idem(&asked).expect(0).json()["code"], "attempts_exhausted");
        assert_eq!(db.idem(&of("reset", "ada", &["--yes"])).expect(0).out, "the next retry resumes the run\n");
        assert_eq!(db.idem(&asked).expect(0).json()["expected"], "resume");

        let reason = "refunded by hand, see TICKET-12";
        let given_up = db.idem(&of("give-up", "ada", &["--reason", reason, "--yes", "--json"])).expect(0).json();
        assert_eq!(given_up["is_changed"], true);
        let explained = db.idem(&asked).expect(0).json();
        assert_eq!((explained["code"].as_str(), explained["reason"].as_str()), (Some("given_up"), Some(reason)));
        let text = db.idem(&of("explain", "ada", &[])).expect(0).out;
        assert!(text.contains(&format!("reason        {reason}\n")), "{text}");
        db.idem(&of("reset", "ada", &["--yes"])).says(9, "nothing has changed");
    }

    async fn r37a_give_up_says_before_it_stores_a_reason_in_clear_beside_sealed_steps(db) {
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        db.insert_entry(0, 1, "reserve").await;
        let sealed = db.bytes(&format!("0100000007{}", "aa".repeat(32)));
        db.execute(&format!("UPDATE idem_journal SET format = 257, headers = {}, body = {sealed}", db.bytes(""))).await;
        let before = db.stored().await;
        for ids in [&[][..], &["--key-id", "7"], &["--key-id", "8"]] {
            let asked = of("give-up", "ada", &[&["--reason", "by hand", "--yes"], ids].concat());
            db.idem(&asked).says(2, "--in-clear");
        }
        assert_eq!(db.stored().await, before);
        db.idem(&of("give-up", "ada", &["--reason", "by hand", "--yes", "--in-clear"])).expect(0);
        assert_eq!(db.idem(&of("explain", "ada", &["--json"])).expect(0).json()["reason"], "by hand");
    }

    async fn r37a_sweep_removes_what_has_expired_or_moves_it(db) {
        for (key, expires) in [("k1", -600), ("k2", -600), ("k3", -600), ("k4", 600)] {
            db.insert(&Record { key, expires, ..Record::default() }).await;
        }
        let missing = db.idem(&["sweep", "--yes", "--archive", "old_records"]);
        missing.says(2, "--archive");
        assert_eq!(db.records().await, 4);
        db.execute("CREATE TABLE old_records AS SELECT * FROM idem_records WHERE false").await;
        let swept = db.idem(&["sweep", "--yes", "--archive", "old_records", "--batch", "2", "--json"]).expect(0).json();
        assert_eq!(swept["removed"], 3);
        assert_eq!((db.records().await, db.number("SELECT count(*) FROM old_records").await), (1, 3));
        assert_eq!(db.idem(&["sweep", "--yes"]).expect(0).out, "removed  0\n");
    }

    async fn r38_an_operator_ends_the_epoch_of_the_hints(db) {
        db.execute("CREATE TABLE was AS SELECT epoch FROM idem_epoch").await;
        let is_as_it_was = "SELECT count(*) FROM idem_epoch, was WHERE idem_epoch.epoch = was.epoch";
        assert_eq!(db.number(is_as_it_was).await, 1);
        let done = db.idem(&["new-epoch", "--yes"]).expect(0).out;
        assert!(done.contains("two seconds"), "{done}");
        assert_eq!(db.number(is_as_it_was).await, 0);
        db.idem(&["new-epoch"]).says(8, "--yes");
    }

    async fn r37a_migrate_makes_the_tables_once(db) {
        db.execute(match &db {
            Db::Postgres(_) => "DROP TABLE idem_records, idem_journal, idem_migrations, idem_secret, idem_epoch",
            Db::Sqlite(_) => "DROP TABLE idem_records; DROP TABLE idem_journal; DROP TABLE idem_migrations; DROP TABLE idem_epoch",
        })
        .await;
        let made = db.idem(&["migrate", "--yes"]).expect(0).out;
        assert!(made.lines().count() == 2 && made.starts_with("done  2"), "{made}");
        assert_eq!(db.records().await, 0);
        assert_eq!(db.idem(&["migrate", "--yes"]).expect(0).out, "nothing is to be done\n");
    }
}
