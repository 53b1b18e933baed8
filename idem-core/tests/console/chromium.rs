//! The console as a person with a keyboard and a browser meets it.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::net::TcpListener;

use super::browser::Browser;
use super::*;

/// Serves the routes on a port of their own.
async fn served(routes: Router) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}

const OF_FORMS: &str = "a[href], button, select, input[type=checkbox], input:not([type]), input[type=radio]:checked";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r37_in_chromium_the_console_works_by_keyboard_and_without_script() {
    let store = store("ada", "pay", "charge", "").await;
    let port = served(Router::new().nest("/ops", console::router_with_changes(Arc::new(store.clone())))).await;
    let home = format!("http://127.0.0.1:{port}/ops");
    let mut browser = Browser::without_script().await;

    browser.open(&home).await;
    let root = browser.root().await;
    let fields: BTreeSet<_> = browser.all(&root, OF_FORMS).await.iter().map(Value::to_string).collect();
    assert!(fields.len() > 15, "{fields:?}");
    let mut reached = BTreeSet::new();
    for _ in 0..fields.len() {
        browser.tab().await;
        let focused = browser.all(&root, ":focus").await;
        reached.extend(focused.iter().map(Value::to_string));
    }
    assert_eq!(reached, fields, "Tab reaches each of them, once");

    // A key is looked up, and its run is given up.
    browser.open(&home).await;
    for (field, text) in [("#scope", "ada"), ("#operation", "pay"), ("#key", "abandoned")] {
        browser.tab_to(field).await;
        browser.write(text).await;
    }
    browser.enter().await;
    let explained = browser.html().await;
    assert!(explained.contains("It resumes after its finished steps, as attempt 2."), "{explained}");
    browser.tab_to("form[action$='/give-up'] button").await;
    browser.enter().await;
    browser.tab_to("#reason").await;
    browser.write("refunded <b>by</b> ada").await;
    browser.enter().await;
    let done = browser.html().await;
    assert!(done.contains("The run is given up."), "{done}");
    browser.tab_to("form button").await;
    browser.enter().await;
    let given_up = browser.html().await;
    assert!(given_up.contains("refunded &lt;b&gt;by&lt;/b&gt; ada"), "{given_up}");

    let own = format!("http://127.0.0.1:{port}/");
    assert!(browser.requested.len() > 6, "{:?}", browser.requested);
    for address in &browser.requested {
        assert!(address.starts_with(&own) && !address.contains("abandoned"), "{address}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r37_in_chromium_a_form_of_another_site_changes_nothing() {
    let store = store("ada", "pay", "charge", "").await;
    let console = served(console::router_with_changes(Arc::new(store.clone()))).await;
    let forged = format!(
        "<!DOCTYPE html><form method=post action='http://127.0.0.1:{console}/forget/confirmed'>
        <input type=hidden name=scope value=ada><button>A prize</button></form>"
    );
    let other = served(Router::new().route("/", axum::routing::get(async || axum::response::Html(forged)))).await;
    let before = Inspect::list(&store, &Query::default()).await.expect("a page").records;
    let mut browser = Browser::without_script().await;
    // Another port is another origin of the same site, and another name is another site.
    for host in ["127.0.0.1", "localhost"] {
        browser.open(&format!("http://{host}:{other}/")).await;
        browser.tab_to("button").await;
        browser.enter().await;
        let refused = browser.html().await;
        assert!(refused.contains("was not sent from a page of this console"), "{host}: {refused}");
    }
    assert_eq!(Inspect::list(&store, &Query::default()).await.expect("a page").records, before);
}
