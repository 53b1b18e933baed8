//! The commands that only read.

use crate::support::{COMPLETED, LEASED, OPERATION, Record, hash_of, of};

both! {
    async fn r37_explain_says_what_a_retry_gets_and_takes_the_key_from_a_pipe_or_a_file(db) {
        db.insert(&Record::default()).await;
        let before = db.stored().await;
        let explained = db.idem_with(&of("explain", "ada", &["--json"]), "k\n").expect(0).json();
        assert_eq!((explained["expected"].as_str(), explained["record"]["status"].as_i64()), (Some("replay"), Some(201)));
        let text = db.idem_with(&of("explain", "ada", &[]), "k").expect(0).out;
        assert!(text.contains("a retry gets  the stored reply\n"), "{text}");
        assert!(text.contains("record        completed: "), "{text}");

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        std::fs::write(&file, "k\r\n").expect("a file");
        let file = file.to_str().expect("a path");
        let hash = hash_of("k");
        for which in [["--key-file", file], ["--key-hash", &hash]] {
            let again = db.idem_with(&of("explain", "ada", &[&["--json"][..], &which].concat()), "").expect(0).json();
            assert_eq!(again["expected"], "replay", "{which:?}");
        }

        // Blanks belong to a key, its last line's end does not.
        for (scope, key) in [("ada", "k "), ("ada", "other"), ("bob", "k")] {
            let other = db.idem_with(&of("explain", scope, &["--json"]), key).expect(0).json();
            assert_eq!((other["expected"].as_str(), &other["record"]), (Some("run"), &serde_json::Value::Null));
        }
        assert_eq!(db.stored().await, before);
    }

    async fn r37_explain_counts_the_attempts_of_a_leased_run(db) {
        db.insert(&Record { state: LEASED, lease: Some(-600), ..Record::default() }).await;
        db.insert_entry(0, 1, "reserve").await;
        db.insert_entry(1, 6, "charge").await;
        let resumed = db.idem(&of("explain", "ada", &["--json"])).expect(0).json();
        assert_eq!((resumed["expected"].as_str(), resumed["steps"].as_array().map(Vec::len)), (Some("resume"), Some(2)));
        assert_eq!((resumed["steps"][1]["kind"].as_str(), resumed["steps"][1]["name"].as_str()), (Some("call_started"), Some("charge")));
        let refused = db.idem(&of("explain", "ada", &["--json", "--attempts", "1"])).expect(0).json();
        assert_eq!((refused["expected"].as_str(), refused["code"].as_str()), (Some("refuse"), Some("attempts_exhausted")));
        let text = db.idem(&of("explain", "ada", &[])).expect(0).out;
        assert!(text.contains("attempts      1 counted, 0 released"), "{text}");
        assert!(text.contains("\n1     call_started  charge"), "{text}");
    }

    async fn r37_explain_says_whether_a_request_was_first_sent_in_time(db) {
        // 2022-02-22 19:22:22 UTC.
        let key = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let explained = |key: &str, more: &[&str]| {
            db.idem_with(&of("explain", "ada", &[&["--json", "--first-sent"], more].concat()), key).expect(0).json()
        };
        for (key, more, code) in [
            ("k", &["2022-02-22T19:22:22Z"][..], "first_sent_too_old"),
            ("k", &["Tue, 22 Feb 2022 19:22:22 GMT"], "first_sent_too_old"),
            ("k", &["2022-02-22 19:22:22", "--ttl", "7days"], "first_sent_too_old"),
            ("k", &["2150-01-01T00:00:00Z"], "first_sent_invalid"),
            (key, &["key"], "first_sent_too_old"),
            (key, &["2150-01-01T00:00:00Z"], "first_sent_too_old"),
        ] {
            let explained = explained(key, more);
            assert_eq!((&explained["expected"], &explained["code"]), (&"refuse".into(), &code.into()), "{more:?}");
        }
        let long = explained("k", &["2022-02-22T19:22:22Z", "--ttl", "3650days"]);
        assert_eq!(long["expected"], "run");
        let begin = (&long["may_begin"]["from"], &long["may_begin"]["until"]);
        assert_eq!(begin, (&"2022-02-22T19:17:22Z".into(), &"2032-02-20T19:22:21Z".into()));
        let text = db.idem_with(&of("explain", "ada", &["--first-sent", "key"]), key).expect(0).out;
        assert!(text.contains("may begin     from 2022-02-22T19:17:22Z until 2022-02-23T19:22:21Z\n"), "{text}");
        // A record answers, whenever the request was first sent.
        db.insert(&Record::default()).await;
        assert_eq!(explained("k", &["2022-02-22T19:22:22Z"])["expected"], "replay");
        for wrong in [&["--first-sent", "yesterday"][..], &["--first-sent", "key"], &["--ttl", "1h"]] {
            db.idem_with(&of("explain", "ada", wrong), "k").expect(2);
        }
    }

    async fn r37_explain_of_a_sealed_reply_needs_the_id_of_its_key_and_no_key(db) {
        db.insert(&Record::default()).await;
        let sealed = db.bytes(&format!("0100000007{}", "aa".repeat(32)));
        db.execute(&format!("UPDATE idem_records SET format = 257, body = {sealed}")).await;
        for (ids, expected, is_assumed) in [
            (&[][..], "replay", true),
            (&["--key-id", "7", "--key-id", "8"][..], "replay", false),
            (&["--key-id", "8"][..], "refuse", false),
        ] {
            let explained = db.idem(&of("explain", "ada", &[&["--json"], ids].concat())).expect(0).json();
            assert_eq!((&explained["expected"], &explained["assumes_keys"]), (&expected.into(), &is_assumed.into()));
            let is_refused = explained["code"] == "record_unreadable";
            assert_eq!(is_refused, expected == "refuse", "{explained}");
        }
        assert!(db.idem(&of("explain", "ada", &[])).expect(0).out.contains("--key-id"));
        db.execute("UPDATE idem_records SET state = -1, reason = '\u{1}0100000007aaaa'").await;
        let given_up = db.idem(&of("explain", "ada", &["--json"])).expect(0).json();
        assert_eq!((&given_up["reason"], &given_up["is_reason_sealed"]), (&serde_json::Value::Null, &true.into()));
        assert!(db.idem(&of("explain", "ada", &[])).expect(0).out.contains("reason        sealed; "));
    }

    async fn r37_list_chooses_and_shows_no_control_character(db) {
        db.insert(&Record { scope: "ada\u{1b}]0;pwned\u{7}\u{202e}", ..Record::default() }).await;
        for key in ["k1", "k2", "k3"] {
            db.insert(&Record { scope: "bob", key, ..Record::default() }).await;
        }
        db.insert(&Record { scope: "bob", key: "held", state: LEASED, lease: Some(600), ..Record::default() }).await;
        db.insert(&Record { scope: "bob", key: "cut off", state: LEASED, lease: Some(-1), ..Record::default() }).await;
        let text = db.idem(&["list"]).expect(0).out;
        assert!(text.starts_with("state      began "), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']) && text.contains("ada\\u{1b}]0;pwned"), "{text:?}");
        assert_eq!(text.lines().count(), 7);

        let listed = |more: &[&str]| {
            let lines = db.idem(&[&["list", "--json"], more].concat()).expect(0).out;
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<serde_json::Value>>()
        };
        assert_eq!(listed(&[]).len(), 6);
        assert_eq!(listed(&["--scope", "bob"]).len(), 5);
        assert_eq!(listed(&["--scope", "bob", "--limit", "2"]).len(), 2);
        assert_eq!(listed(&["--state", "completed", "--state", "held"]).len(), 5);
        assert_eq!(listed(&["--operation", "other"]).len(), 0);
        assert_eq!((listed(&["--older-than", "30s"]).len(), listed(&["--older-than", "1h"]).len()), (6, 0));
        let stuck = listed(&["--stuck"]);
        assert_eq!((stuck.len(), &stuck[0]["state"], &stuck[0]["key_hash"]), (1, &"abandoned".into(), &hash_of("cut off").into()));
        let more = db.idem(&["list", "--limit", "2"]).expect(0).out;
        assert!(more.ends_with("there may be more: raise --limit\n"), "{more}");
        db.idem(&["list", "--state", "wrong"]).expect(2);
    }

    async fn r37_watch_counts(db) {
        let empty = db.idem(&["watch", "--once", "--json"]).expect(0).json();
        assert_eq!((empty["counts"].as_array().map(Vec::len), &empty["expired"]), (Some(0), &0.into()));
        assert!(!empty["now"].as_str().expect("a time").starts_with("1970"), "{empty}");
        for (key, expires) in [("k1", 600), ("k2", 600), ("k3", -600)] {
            db.insert(&Record { key, expires, state: COMPLETED, ..Record::default() }).await;
        }
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        db.insert_entry(0, 1, "reserve").await;
        let counted = db.idem(&["watch", "--once", "--json"]).expect(0).json();
        let of = |state: &str| {
            let counts = counted["counts"].as_array().expect("counts").iter();
            counts.filter(|count| count["state"] == state && count["operation"] == OPERATION).map(|count| count["records"].as_u64()).collect::<Vec<_>>()
        };
        assert_eq!((of("completed"), of("expired"), of("abandoned")), (vec![Some(2)], vec![Some(1)], vec![Some(1)]));
        assert_eq!((&counted["expired"], &counted["abandoned"]), (&1.into(), &1.into()));
        let text = db.idem(&["watch", "--once"]).expect(0).out;
        assert!(text.contains("expired, not swept: 1, the oldest for 10m"), "{text}");
        assert!(!text.contains('\u{1b}'), "no screen, no control characters: {text:?}");
    }
}
