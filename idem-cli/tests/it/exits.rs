//! Bad input: one line that says what to do, an exit code of its own, and nothing has changed.

use crate::support::{Db, LEASED, Postgres, Record, Sqlite, idem, idem_on, of, run};

const PASSWORD: &str = "pa55word";

/// Each command, in a form that would change something if it could.
fn commands() -> Vec<Vec<&'static str>> {
    vec![
        of("explain", "ada", &[]),
        vec!["list"],
        vec!["forget", "--scope", "ada", "--yes"],
        of("reset", "ada", &["--yes"]),
        of("give-up", "ada", &["--reason", "by hand", "--yes"]),
        vec!["sweep", "--yes"],
        vec!["watch", "--once"],
    ]
}

#[test]
fn r37a_an_unreachable_database_is_3() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("postgres://app:{PASSWORD}@{closed}/shop");
    for command in commands().into_iter().chain([vec!["migrate", "--yes"], vec!["doctor"]]) {
        for more in [&[][..], &["--json"]] {
            let ended = idem_on(&url, &[&command, more].concat(), "k").says(3, "check DATABASE_URL");
            assert!(!ended.err.contains(PASSWORD), "{ended:?}");
        }
    }
    idem_on("sqlite:///nowhere/shop.db", &["list"], "").says(3, "cannot be opened");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.db");
    std::fs::write(&file, "this is a text, and no database at all".repeat(100)).expect("a file");
    idem_on(&format!("sqlite://{}", file.display()), &["list"], "").says(3, "no SQLite database");
}

#[test]
fn r37a_a_wrong_argument_is_2() {
    run(idem(), &["list"], "").says(2, "DATABASE_URL names no database");
    for url in [format!("postgres://app:{PASSWORD}@[:1/x"), format!("mysql://app:{PASSWORD}@localhost/x")] {
        let ended = idem_on(&url, &["list"], "").says(2, "DATABASE_URL");
        assert!(!ended.err.contains(PASSWORD), "{ended:?}");
    }
    idem_on("sqlite::memory:", &["list", "--schema", "x"], "").says(2, "--schema");
    idem_on("sqlite::memory:", &["explain", "--operation", "o"], "k").says(2, "--scope");
    idem_on("sqlite::memory:", &of("explain", "", &[]), "k").says(2, "--scope");
    idem_on("sqlite::memory:", &of("explain", "ada", &[]), "\n").says(2, "the key is empty");
    idem_on("sqlite::memory:", &of("explain", "ada", &["--key-hash", "12"]), "").says(2, "64 hexadecimal digits");
    idem_on("sqlite::memory:", &of("explain", "ada", &["--key-file", "/nowhere"]), "").says(2, "cannot be read");
    idem_on("sqlite::memory:", &of("give-up", "ada", &["--reason", " ", "--yes"]), "k").says(2, "--reason");
    let key_as_argument = idem_on("sqlite::memory:", &of("explain", "ada", &["k"]), "").expect(2);
    assert!(key_as_argument.err.contains("unexpected argument"), "{key_as_argument:?}");
}

both! {
    async fn r37a_tables_of_another_release_are_5_or_6_and_stay_as_they_are(db) {
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        db.insert(&Record { key: "old", expires: -1, ..Record::default() }).await;
        db.execute("INSERT INTO idem_migrations (name) VALUES ('20990101000001_later')").await;
        let before = db.stored().await;
        for command in commands().into_iter().chain([vec!["migrate", "--yes"]]) {
            db.idem(&command).says(6, "later release");
        }
        assert_eq!(db.stored().await, before);

        db.execute("DELETE FROM idem_migrations WHERE name LIKE '2099%' OR name LIKE '%journal'").await;
        let before = db.stored().await;
        for command in commands() {
            db.idem(&command).says(5, "run `idem migrate`");
        }
        assert_eq!(db.stored().await, before);
        db.idem(&["migrate", "--yes"]).expect(0);
        db.idem(&["list"]).expect(0);
    }

    async fn r37a_without_a_terminal_and_without_yes_a_change_is_8_and_is_not_made(db) {
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        db.insert(&Record { key: "old", expires: -1, ..Record::default() }).await;
        db.insert(&Record { key: "done", ..Record::default() }).await;
        let before = db.stored().await;
        for command in commands().into_iter().filter(|command| command.contains(&"--yes")) {
            let unconfirmed: Vec<_> = command.iter().copied().filter(|word| *word != "--yes").collect();
            db.idem(&unconfirmed).says(8, "--yes");
            // Words in a pipe confirm nothing: they are the key.
            db.idem_with(&unconfirmed, "y\ny\n").says(8, "--yes");
        }
        db.idem(&["migrate"]).says(8, "--yes");
        assert_eq!(db.stored().await, before);
    }

    async fn r37a_a_run_that_is_not_there_is_9_and_one_that_is_held_is_13(db) {
        db.insert(&Record::default()).await;
        db.insert(&Record { scope: "bob", state: LEASED, lease: Some(600), ..Record::default() }).await;
        let before = db.stored().await;
        for (scope, exit, words) in [("ada", 9, "no leased run"), ("eve", 9, "no leased run"), ("bob", 13, "holds the run")] {
            db.idem(&of("reset", scope, &["--yes"])).says(exit, words);
            db.idem(&of("give-up", scope, &["--reason", "by hand", "--yes"])).says(exit, words);
        }
        assert_eq!(db.stored().await, before);
    }

    async fn r37a_a_database_that_only_reads_is_11(db) {
        db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
        let url = match &db {
            Db::Postgres(db) => db.url_with("default_transaction_read_only=on"),
            Db::Sqlite(db) => db.url("?mode=ro"),
        };
        let before = db.stored().await;
        for command in [of("reset", "ada", &["--yes"]), of("give-up", "ada", &["--reason", "x", "--yes"])] {
            idem_on(&url, &command, "k").says(11, "only reads");
        }
        assert_eq!(db.stored().await, before);
        idem_on(&url, &["list"], "").expect(0);
    }

    async fn r37a_what_has_no_code_of_its_own_is_1(db) {
        db.insert(&Record { expires: -1, ..Record::default() }).await;
        db.execute(match &db {
            Db::Postgres(_) => {
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'not me' USING ERRCODE = 'P0001'; END $$;
                CREATE TRIGGER refuse BEFORE DELETE ON idem_records FOR EACH ROW EXECUTE FUNCTION refuse()"
            }
            Db::Sqlite(_) => {
                "CREATE TRIGGER refuse BEFORE DELETE ON idem_records BEGIN SELECT RAISE(ABORT, 'not me'); END"
            }
        })
        .await;
        let before = db.stored().await;
        let ended = db.idem(&["sweep", "--yes"]);
        assert!(!ended.err.contains("not me"), "no words of the database: {ended:?}");
        ended.says(1, "");
        assert_eq!(db.stored().await, before);
    }
}

#[tokio::test]
async fn r37a_a_schema_or_a_file_without_tables_is_4() {
    let db = Sqlite::empty().await;
    for command in commands() {
        idem_on(&db.url(""), &command, "k").says(4, "run `idem migrate`");
    }
    assert!(db.folder().exists());
}

#[tokio::test]
async fn r37a_postgres_a_schema_without_tables_is_4_and_the_one_with_tables_is_named() {
    let db = Postgres::create().await;
    for command in commands() {
        let elsewhere = [command, vec!["--schema", "shop"]].concat();
        idem_on(&db.url(), &elsewhere, "k").says(4, "say --schema public");
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'";
    let made: i64 = sqlx::query_scalar(schemas).fetch_one(&db.pool).await.expect("a number");
    assert_eq!(made, 0, "nothing was made");
    db.execute("CREATE SCHEMA shop").await;
    idem_on(&db.url(), &["migrate", "--schema", "shop", "--yes"], "").expect(0);
    idem_on(&db.url(), &["list", "--schema", "shop"], "").expect(0);
    idem_on(&db.url_with("search_path=nowhere"), &["list"], "").says(4, "--schema");
}

#[tokio::test]
async fn r37a_postgres_a_role_without_rights_is_7() {
    let db = Postgres::create().await;
    let role = db.role().await;
    for command in commands() {
        idem_on(&db.url_as(&role), &command, "k").says(7, "lacks a right");
    }
    idem_on(&db.url_as("nobody_of_that_name"), &["list"], "").says(7, "refuses the role");
    db.execute(&format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", db.name())).await;
    idem_on(&db.url_as(&role), &["list"], "").says(7, "grant CONNECT");
}

#[tokio::test]
async fn r37a_postgres_a_busy_database_is_12() {
    let db = Db::Postgres(Postgres::create().await);
    db.insert(&Record { state: LEASED, lease: Some(-1), ..Record::default() }).await;
    let Db::Postgres(postgres) = &db else { unreachable!("it is Postgres") };
    let before = db.stored().await;
    let mut other = postgres.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("LOCK TABLE idem_records IN EXCLUSIVE MODE").execute(&mut *other).await.expect("a lock");
    let url = postgres.url_with("lock_timeout=100ms");
    idem_on(&url, &of("reset", "ada", &["--yes"]), "k").says(12, "try later");
    other.rollback().await.expect("the end");
    assert_eq!(db.stored().await, before);
}
