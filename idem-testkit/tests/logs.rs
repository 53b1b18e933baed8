//! The search over everything that is logged finds what it is for.

use std::process::Command;
use std::sync::{Arc, Mutex};

use idem_testkit::logs::{self, CANARY, EXIT_CODE, Watch};
use tracing_subscriber::layer::SubscriberExt;

/// What is found in what `log` logs.
fn found(log: impl FnOnce()) -> Vec<String> {
    let leaks = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&leaks);
    let watch = Watch::new(move |leak| to.lock().expect("no poison").push(leak));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(watch), log);
    let leaks = leaks.lock().expect("no poison");
    leaks.clone()
}

#[test]
fn r34_every_way_to_log_a_word_is_found() {
    let word = format!("key-{CANARY}-1");
    let bytes = word.as_bytes();
    let (list, hex) = (bytes.to_vec(), bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>());
    let error = std::io::Error::other(std::io::Error::other(word.clone()));
    let ways: [(&str, &dyn Fn()); 11] = [
        ("a message", &|| tracing::trace!("{word}")),
        ("a string", &|| tracing::error!(word, "")),
        ("display", &|| tracing::debug!(%word, "")),
        ("debug", &|| tracing::info!(?word, "")),
        ("bytes in decimal", &|| tracing::info!(?list, "")),
        ("bytes in decimal in a message", &|| tracing::info!("{list:#?}")),
        ("bytes in hexadecimal", &|| tracing::info!(hex, "")),
        ("an error's source", &|| tracing::info!(error = &error as &dyn std::error::Error, "")),
        ("another target", &|| tracing::trace!(target: "sqlx::query", word)),
        ("a span", &|| _ = tracing::trace_span!("run", word).enter()),
        ("a span's later field", &|| {
            drop(tracing::info_span!("run", word = tracing::field::Empty).record("word", &word).clone());
        }),
    ];
    for (way, log) in ways {
        let found = found(log);
        assert_eq!(found.len(), 1, "{way}: {found:?}");
    }
    assert!(found(|| tracing::error!(length = word.len(), key = "key-1", "a request")).is_empty());
}

/// For the test below alone.
#[test]
#[ignore = "it ends the process"]
fn leak_in_a_task_of_its_own() {
    logs::watch();
    std::thread::spawn(|| tracing::debug!("{CANARY}")).join().expect("no panic");
}

/// A find must not go unseen, wherever it is logged: the test run ends with what was logged and where.
#[test]
fn r34_a_leak_ends_the_tests() {
    let this = std::env::current_exe().expect("this test");
    let run = Command::new(this).args(["--exact", "leak_in_a_task_of_its_own", "--ignored"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(EXIT_CODE), "{said}");
    assert!(said.contains("DEBUG logs (") && said.contains(CANARY), "{said}");
}
