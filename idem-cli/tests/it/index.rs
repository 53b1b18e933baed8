//! A database whose records are named by an index key.

use std::time::Duration;

use idem_core::seal::{Keyring, SealKey};
use idem_core::store::{Claimed, Context, Format, Outcome, Reply};
use idem_core::{Fingerprint, Identity, Request};
use idem_sqlx::{PgStore, PgTx, SqliteStore, SqliteTx};

use crate::support::{Db, OPERATION, of};

/// 32 times the byte 7, and 32 times the byte 8.
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
const OTHER: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

async fn run<T: Context>(store: &T::Store) {
    let identity = Identity::new("ada", OPERATION, "k").expect("an identity");
    let request = Request::new(identity, Fingerprint::none(), Duration::from_secs(3600)).expect("a request");
    let Ok(Claimed::Run(tx)) = T::claim(store, &request).await else { panic!("it runs") };
    let reply = Reply { format: Format::HTTP, status: Some(201), headers: "".into(), body: "paid".into() };
    tx.complete(&Outcome::Reply(reply)).await.expect("completed");
}

/// A request that the application has run.
async fn application(db: &Db) {
    let ring = Keyring::new(1, SealKey::from_bytes([1; 32])).index(SealKey::from_bytes([7; 32]));
    match db {
        Db::Postgres(db) => run::<PgTx>(&PgStore::builder(db.pool.clone()).seal(ring).build()).await,
        Db::Sqlite(db) => run::<SqliteTx>(&SqliteStore::builder(db.pool.clone()).seal(ring).build()).await,
    }
}

both! {
    async fn r35_the_command_needs_the_index_key_where_it_names_a_record(db) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (right, wrong, none) = (file("right", KEY), file("wrong", OTHER), file("none", "a password"));
        db.idem(&["list", "--index-key-file", "/nowhere"]).says(2, "cannot be read");
        db.idem(&["list", "--index-key-file", &none]).says(2, "base64");

        db.idem(&["migrate", "--yes", "--index-key-file", &right]).expect(0);
        application(&db).await;
        let migrate = |file: &[&str]| db.idem(&[&["migrate", "--yes"], file].concat());
        migrate(&[]).says(14, "--index-key-file");
        migrate(&["--index-key-file", &wrong]).says(14, "--index-key-file");
        migrate(&["--index-key-file", &right]).expect(0);

        let explain = |more: &[&str]| db.idem(&of("explain", "ada", more));
        explain(&[]).says(14, "--index-key-file");
        explain(&["--index-key-file", &wrong]).says(14, "--index-key-file");
        let explained = explain(&["--json", "--index-key-file", &right]).expect(0).json();
        assert_eq!(explained["expected"], "replay");
        for change in [of("reset", "ada", &["--yes"]), of("give-up", "ada", &["--yes", "--reason", "by hand"])] {
            db.idem(&change).says(14, "--index-key-file");
            db.idem(&[change, vec!["--index-key-file", &right]].concat()).says(9, "no leased run");
        }

        // A record that was listed needs no key.
        let listed = db.idem(&["list", "--json"]).expect(0).json();
        let hash = listed["key_hash"].as_str().expect("a hash");
        assert_eq!(explain(&["--json", "--key-hash", hash]).expect(0).json()["expected"], "replay");

        let check = |more: &[&str], exit| db.idem(&[&["doctor", "--json"], more].concat()).expect(exit).check("index");
        assert_eq!(check(&[], 0).0, "ok");
        assert_eq!(check(&["--index-key-file", &right], 0).0, "ok");
        let (level, found) = check(&["--index-key-file", &wrong], 10);
        assert!(level == "fail" && found.contains("and not by"), "{level} {found}");
        db.execute(match &db {
            Db::Postgres(_) => "DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE idem_records DROP CONSTRAINT ' || conname
                FROM pg_constraint WHERE conname LIKE 'idem\\_index\\_%'); END $$",
            Db::Sqlite(_) => "DELETE FROM idem_index",
        })
        .await;
        let (level, found) = check(&[], 10);
        assert!(level == "fail" && found.contains("could run twice"), "{level} {found}");
        migrate(&[]).says(1, "in force");
        migrate(&["--index-key-file", &right]).expect(0);
        assert_eq!(check(&["--index-key-file", &right], 0).0, "ok");
    }
}
