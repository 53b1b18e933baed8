//! Set-ups of a Postgres that `idem doctor` names, one test each.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Db, Postgres, Record, idem, idem_on, run};

#[tokio::test]
async fn r37a_postgres_a_role_that_lacks_rights() {
    let db = Postgres::create().await;
    let role = db.role().await;
    let (level, found) = db.doctor(&["--role", &role]).expect(10).check("grants");
    assert_eq!(level, "fail");
    let (_, advice) = found.split_once(" -> ").expect("what to do");
    assert!(advice.contains("DELETE ON \"public\".idem_records"), "{advice}");
    // What it says is what helps.
    db.execute(advice).await;
    assert_eq!(db.doctor(&["--role", &role]).expect(0).check("grants").0, "ok");
    // The role itself is told the same.
    assert_eq!(idem_on(&db.url_as(&role), &["doctor", "--json"], "").expect(0).check("grants").0, "ok");
    db.execute(&format!("REVOKE DELETE ON idem_journal FROM {role}; REVOKE SELECT ON idem_migrations FROM {role}"))
        .await;
    let report = idem_on(&db.url_as(&role), &["doctor", "--json"], "").expect(10);
    let (level, found) = report.check("grants");
    assert!(level == "fail" && found.contains("GRANT DELETE ON \"public\".idem_journal"), "{level} {found}");
    assert_eq!(report.check("migrations").0, "fail", "{report:?}");
    db.execute(&format!("DROP OWNED BY {role}")).await;
    assert_eq!(db.doctor(&["--role", "nobody_of_that_name"]).expect(10).check("grants").0, "fail");
}

#[tokio::test]
async fn r37a_postgres_a_secret_that_is_lost() {
    let db = Postgres::create().await;
    db.execute("DELETE FROM idem_secret").await;
    let (level, found) = db.doctor(&[]).expect(10).check("secret");
    assert!(level == "fail" && found.contains("INSERT INTO \"public\".idem_secret"), "{level} {found}");
}

#[tokio::test]
async fn r37a_postgres_a_role_that_only_reads() {
    let db = Postgres::create().await;
    db.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", db.name())).await;
    let (level, found) = db.doctor(&[]).expect(10).check("primary");
    assert!(level == "fail" && found.contains("default_transaction_read_only"), "{level} {found}");
}

#[tokio::test]
async fn r37a_postgres_commits_that_are_not_on_the_disk() {
    let db = Postgres::create().await;
    let role = db.role().await;
    // For the role in this database alone, and another level for the role elsewhere.
    db.execute(&format!("ALTER ROLE {role} SET synchronous_commit = on")).await;
    db.execute(&format!("ALTER ROLE {role} IN DATABASE {} SET synchronous_commit = off", db.name())).await;
    let (level, found) = db.doctor(&["--role", &role]).expect(10).check("commits");
    assert!(level == "fail" && found.contains("SET synchronous_commit = on"), "{level} {found}");
    assert_ne!(db.doctor(&[]).check("commits").0, "fail", "another role");
    assert_eq!(idem_on(&db.url_as(&role), &["doctor", "--json"], "").check("commits").0, "fail", "the role itself");
}

#[tokio::test]
async fn r37a_postgres_an_isolation_by_default() {
    let db = Postgres::create().await;
    db.execute(&format!("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", db.name())).await;
    let (level, found) = db.doctor(&[]).expect(0).check("isolation");
    assert!(level == "warn" && found.contains("serializable"), "{level} {found}");
}

#[tokio::test]
async fn r37a_postgres_no_limit_for_dead_hosts() {
    let db = Postgres::create().await;
    let role = db.role().await;
    for (check, setting) in [
        ("idle_transactions", "idle_in_transaction_session_timeout"),
        ("dead_hosts", "tcp_keepalives_idle"),
        ("dead_hosts", "client_connection_check_interval"),
    ] {
        let (level, found) = db.doctor(&["--role", &role]).check(check);
        assert!(level == "warn" && found.contains(setting), "{level} {found}");
        let (_, advice) = found.split_once(" -> ").expect("what to do");
        let advice = advice.split(',').next().expect("a statement");
        db.execute(advice).await;
    }
    let report = db.doctor(&["--role", &role]);
    assert_eq!((report.check("idle_transactions").0, report.check("dead_hosts").0), ("ok".into(), "ok".into()));
}

#[tokio::test]
async fn r37a_postgres_a_table_without_autovacuum() {
    let db = Postgres::create().await;
    db.execute("ALTER TABLE idem_journal SET (autovacuum_enabled = false)").await;
    let (level, found) = db.doctor(&[]).expect(10).check("autovacuum");
    assert!(level == "fail" && found.contains("idem_journal RESET (autovacuum_enabled)"), "{level} {found}");
}

#[tokio::test]
async fn r37a_postgres_updates_that_are_not_heap_only() {
    let db = Db::Postgres(Postgres::create().await);
    let Db::Postgres(postgres) = &db else { unreachable!("it is Postgres") };
    db.insert(&Record::default()).await;
    db.execute("CREATE INDEX by_attempt ON idem_records (attempt)").await;
    let updates = "DO $$ BEGIN FOR n IN 1..1100 LOOP UPDATE idem_records SET attempt = n; END LOOP; END $$";
    // The numbers are told at the end of the statement after.
    db.execute(&format!("{updates}; SELECT pg_stat_force_next_flush(); SELECT 1")).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (level, found) = postgres.doctor(&[]).expect(0).check("hot_updates");
        if level == "warn" {
            assert!(found.contains("drop indexes"), "{found}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{level} {found}");
    }
}

/// Behind PgBouncer in transaction mode where there is one, and straight to the server otherwise.
#[tokio::test]
async fn r37a_through_a_pooler_to_postgres_without_its_option() {
    let db = Postgres::create().await;
    let Some(url) = db.pooled_url() else {
        assert_eq!(db.doctor(&[]).expect(0).check("pooler").0, "ok");
        return;
    };
    for _ in 0..10 {
        let (level, found) = idem_on(&url, &["doctor", "--json"], "").expect(10).check("pooler");
        assert!(level == "fail" && found.contains("unnamed_statements(true)"), "{level} {found}");
        let named = idem_on(&url, &["doctor", "--json", "--unnamed-statements"], "").expect(0);
        assert_eq!(named.check("pooler").0, "warn", "{named:?}");
        let right = idem_on(&url, &["doctor", "--json", "--unnamed-statements", "--schema", "public"], "").expect(0);
        assert_eq!(right.check("pooler").0, "ok", "{right:?}");
        // The other commands work there, too.
        idem_on(&url, &["list"], "").expect(0);
        idem_on(&url, &["sweep", "--yes"], "").expect(0);
    }
}

/// The command's own clock is ten minutes ahead.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn r37a_postgres_a_clock_that_is_wrong() {
    let db = Postgres::create().await;
    assert_eq!(db.doctor(&[]).expect(0).check("clock").0, "ok");
    let source =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/checkout/tests/checkout/clocks/ten_minutes_ahead.rs");
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ten_minutes_ahead.so");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled =
        Command::new(rustc).args(["--edition=2024", "--crate-type=cdylib", source, "-o"]).arg(&library).status();
    assert!(compiled.expect("rustc").success());
    let mut command = idem();
    command.env("LD_PRELOAD", &library).env("DATABASE_URL", db.url());
    let (level, found) = run(command, &["doctor", "--json"], "").expect(10).check("clock");
    assert!(level == "fail" && found.contains("s behind ours -> synchronise"), "{level} {found}");
}
