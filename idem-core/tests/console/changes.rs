//! What an operator changes on the console.

use http::HeaderValue;
use idem_core::console::Changed;
use idem_core::operate::{Change, Condition, Cursor, Forgotten};

use super::*;

fn with_changes(store: Arc<dyn Operate>) -> Router {
    Router::new().nest("/operators/{team}/idem", console::router_with_changes(store))
}

/// A form as a browser sends it from a page of the console.
async fn submit(app: &Router, path: &str, fields: &[(String, String)]) -> Shown {
    send(app, own_form(path, fields)).await
}

fn own_form(path: &str, fields: &[(String, String)]) -> Http<Body> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut form = form(path, &fields);
    form.headers_mut().insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    form
}

/// Where the form leads to at which this text stands.
fn action(page: &str, mark: &str) -> String {
    let form = page.split("<form").find(|form| form.contains(mark)).expect("the form");
    form.split("action=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an action").to_owned()
}

/// Sends the form at which this text stands, with what was typed.
async fn press(app: &Router, page: &Shown, mark: &str, typed: &[(&str, &str)]) -> Shown {
    let mut fields = fields(&page.text, mark);
    fields.extend(typed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    submit(app, &action(&page.text, mark), &fields).await
}

async fn conditions(store: &MemoryStore) -> Vec<Condition> {
    let page = Inspect::list(store, &Query::default()).await.expect("a page");
    page.records.iter().map(|record| record.seen.condition).collect()
}

/// Every path that changes something, or asks whether to.
const PATHS: [&str; 6] =
    ["/reset", "/reset/confirmed", "/give-up", "/give-up/confirmed", "/forget", "/forget/confirmed"];

/// The fields of each of these forms, for one abandoned run.
fn every_field() -> Vec<(String, String)> {
    let Cursor { scope, operation, key_hash } = Cursor::of(&request("ada", "pay", "abandoned").identity);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [
        ("at_scope", hex(scope.as_bytes())),
        ("at_operation", hex(operation.as_bytes())),
        ("at_key", hex(&key_hash)),
        ("reason", "refunded by hand".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[tokio::test]
async fn r37_a_run_is_given_up_on_a_page_that_asks_first() {
    let store = store("ada", "pay", "charge", "").await;
    let app = with_changes(Arc::new(store.clone()));
    let before = conditions(&store).await;
    let explained = look_up(&app, "ada", "pay", "abandoned", "").await;
    let asked = press(&app, &explained, "Give it up…", &[]).await;
    assert_eq!(asked.status, StatusCode::OK, "{}", asked.text);
    for words in ["Give a run up?", "Nothing is undone", "charge", "ada", "name=\"reason\""] {
        assert!(asked.text.contains(words), "{words}: {}", asked.text);
    }
    assert_eq!(conditions(&store).await, before, "it only asks");
    for reason in [" ", &"r".repeat(501)] {
        let refused = press(&app, &asked, ">Give it up<", &[("reason", reason)]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(refused.text.contains("The reason is blank, or longer"), "{}", refused.text);
    }
    assert_eq!(conditions(&store).await, before, "no reason was given");
    let done = press(&app, &asked, ">Give it up<", &[("reason", "refunded <by> ada")]).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text);
    assert!(done.text.contains("The run is given up."), "{}", done.text);
    guards(&done);
    let again = press(&app, &done, "Look at it", &[]).await;
    for words in ["given_up: an operator has given this request up", "refunded &lt;by&gt; ada"] {
        assert!(again.text.contains(words), "{words}: {}", again.text);
    }
    assert!(!again.text.contains("Give it up…") && !again.text.contains("Reset its attempts"), "{}", again.text);
    // A browser sends the form once more when the page is loaded again.
    let reloaded = press(&app, &asked, ">Give it up<", &[("reason", "again")]).await;
    assert_eq!(reloaded.status, StatusCode::CONFLICT);
    assert!(reloaded.text.contains("There is no leased run of this key"), "{}", reloaded.text);
    let asked_again = submit(&app, &format!("{HOME}/give-up"), &every_field()).await;
    assert_eq!(asked_again.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn r37_the_attempts_of_a_run_are_reset_and_a_run_that_is_held_is_left_alone() {
    let store = MemoryStore::<()>::default();
    let asked = request("", "pay", "k");
    let terms = LeaseTerms::DEFAULT.attempts(1);
    let claimed = MemoryLease::claim(&store, &asked, &terms, Intent::Run).await;
    let Ok(Claimed::Run(attempt)) = claimed else { panic!("a free key") };
    let app = with_changes(Arc::new(store.clone()));
    let held = look_up(&app, "", "pay", "k", "1").await;
    assert!(!held.text.contains("Reset its attempts"), "{}", held.text);
    let fields = fields(&look_up(&app, "", "pay", "k", "1").await.text, "Forget its scope");
    assert_eq!(fields, [("at_scope".to_owned(), String::new())], "the global scope");
    store.advance(Duration::from_secs(60));
    let explained = look_up(&app, "", "pay", "k", "1").await;
    assert!(explained.text.contains("attempts_exhausted"), "{}", explained.text);
    let confirm = press(&app, &explained, "Reset its attempts…", &[]).await;
    assert!(confirm.text.contains("The next retry resumes the run at once"), "{}", confirm.text);
    assert!(look_up(&app, "", "pay", "k", "1").await.text.contains("attempts_exhausted"), "it only asks");
    // A retry comes before the operator confirms.
    assert_eq!(Operate::reset_attempts(&store, &asked.identity).await.expect("an answer"), Change::Made);
    let claimed = MemoryLease::claim(&store, &asked, &terms, Intent::Run).await;
    let Ok(Claimed::Run(second)) = claimed else { panic!("it resumes") };
    let refused = press(&app, &confirm, ">Reset its attempts<", &[]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("A process holds the run until"), "{}", refused.text);
    store.advance(Duration::from_secs(60));
    let done = press(&app, &confirm, ">Reset its attempts<", &[]).await;
    assert!(done.text.contains("The attempts are reset."), "{}", done.text);
    assert!(look_up(&app, "", "pay", "k", "1").await.text.contains("It resumes"));
    drop((attempt, second));
}

#[tokio::test]
async fn r37_a_scope_is_forgotten_after_a_page_with_the_numbers() {
    let store = store("a\nb", "pay", "charge", "refunded").await;
    let app = with_changes(Arc::new(store.clone()));
    let before = conditions(&store).await;
    let overview = get(&app, HOME).await;
    assert!(!overview.text.contains("This page only reads"), "{}", overview.text);
    let typed = press(&app, &overview, "Count…", &[("scope", "nobody")]).await;
    assert!(typed.text.contains("<dt>Removed</dt><dd>0</dd>"), "{}", typed.text);
    let global = press(&app, &overview, "Count…", &[("scope", ""), ("global", "yes")]).await;
    assert!(global.text.contains("(global)"), "{}", global.text);
    for unclear in [vec![("scope", "")], vec![("scope", "ada"), ("global", "yes")]] {
        let refused = press(&app, &overview, "Count…", &unclear).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{unclear:?}");
    }
    let records = post(&app, &format!("{HOME}/records"), &[("condition", "completed")]).await;
    let explained = press(&app, &records, ">Explain<", &[]).await;
    let asked = press(&app, &explained, "Forget its scope…", &[]).await;
    let numbers =
        ["<dt>Removed</dt><dd>1</dd>", "reason, they go on refusing retries</dt><dd>1</dd>", "already</dt><dd>1</dd>"];
    for words in numbers.into_iter().chain(["a\\u{a}b", "runs again"]) {
        assert!(asked.text.contains(words), "{words}: {}", asked.text);
    }
    assert_eq!(conditions(&store).await, before, "it only counts");
    let done = press(&app, &asked, "Forget the scope", &[]).await;
    for words in numbers {
        assert!(done.text.contains(words), "{words}: {}", done.text);
    }
    assert_eq!(conditions(&store).await, [Condition::Abandoned, Condition::GivenUp]);
}

#[tokio::test]
async fn r37_a_form_of_another_site_changes_nothing() {
    let store = store("ada", "pay", "charge", "").await;
    let app = with_changes(Arc::new(store.clone()));
    let before = conditions(&store).await;
    let forgeries: [&[(&'static str, &'static str)]; 6] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("host", "ops.example"), ("origin", "https://evil.example")],
        &[("host", "ops.example"), ("origin", "null")],
    ];
    for path in PATHS {
        for headers in forgeries {
            let mut request = own_form(&format!("{HOME}{path}"), &every_field());
            request.headers_mut().remove("sec-fetch-site");
            for (name, value) in headers {
                request.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            let refused = send(&app, request).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert!(refused.text.contains("was not sent from a page of this console"), "{}", refused.text);
            guards(&refused);
        }
        let link = Http::get(format!("{HOME}{path}")).header("sec-fetch-site", "same-origin");
        let read = send(&app, link.body(Body::empty()).expect("a request")).await;
        assert_eq!(read.status, StatusCode::METHOD_NOT_ALLOWED, "{path}: no link changes anything");
    }
    assert_eq!(conditions(&store).await, before);
    let mut own = own_form(&format!("{HOME}/give-up/confirmed"), &every_field());
    own.headers_mut().remove("sec-fetch-site");
    own.headers_mut().insert("host", HeaderValue::from_static("ops.example"));
    own.headers_mut().insert("origin", HeaderValue::from_static("https://ops.example"));
    assert_eq!(send(&app, own).await.status, StatusCode::OK, "without encryption the origin says it");
}

#[tokio::test]
async fn r37_a_console_that_only_reads_has_no_route_that_writes() {
    let store = store("ada", "pay", "charge", "").await;
    let app = app(Arc::new(store.clone()));
    let before = Inspect::list(&store, &Query::default()).await.expect("a page").records;
    for path in PATHS {
        let answer = submit(&app, &format!("{HOME}{path}"), &every_field()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let pages = [
        get(&app, HOME).await,
        look_up(&app, "ada", "pay", "abandoned", "").await,
        look_up(&app, "ada", "pay", "done", "").await,
    ];
    for page in pages {
        for action in page.text.split("action=\"").skip(1) {
            let action = action.split('"').next().expect("an action");
            assert!(action.ends_with("/key") || action.ends_with("/records"), "{action}");
        }
    }
    assert_eq!(Inspect::list(&store, &Query::default()).await.expect("a page").records, before);
}

#[tokio::test]
async fn r37_the_application_learns_what_was_changed() {
    let store = store("ada", "pay", "charge", "").await;
    let app = with_changes(Arc::new(store));
    let at = Cursor::of(&request("ada", "pay", "abandoned").identity);
    let reason = Reason::new("refunded by hand").expect("a reason");
    let forgotten = Forgotten::new(1, 1, 1);
    for (path, changed) in [
        ("/reset", None),
        ("/reset/confirmed", Some(Changed::Reset(at.clone()))),
        ("/give-up", None),
        ("/give-up/confirmed", Some(Changed::GivenUp(at, reason))),
        ("/give-up/confirmed", None),
        ("/forget", None),
        ("/forget/confirmed", Some(Changed::Forgotten("ada".to_owned(), forgotten))),
    ] {
        let fields = match path.starts_with("/forget") {
            true => vec![("scope".to_owned(), "ada".to_owned())],
            false => every_field(),
        };
        let answer = app.clone().oneshot(own_form(&format!("{HOME}{path}"), &fields)).await.expect("an answer");
        let told = answer.extensions().get::<Changed>();
        assert_eq!(told, changed.as_ref(), "{path}: {}", answer.status());
        assert!(!format!("{told:?}").contains("ada"), "{told:?}");
    }
}

#[tokio::test]
async fn r37_bad_input_changes_nothing() {
    let store = store("ada", "pay", "charge", "").await;
    let app = with_changes(Arc::new(store.clone()));
    let before = conditions(&store).await;
    for path in PATHS {
        for fields in [
            vec![],
            vec![("at_key", "zz"), ("at_scope", "zz"), ("reason", "r")],
            vec![("at_scope", "00"), ("at_operation", "706179"), ("at_key", "00"), ("reason", "r")],
            vec![("scope", "a\0b")],
        ] {
            let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let refused = submit(&app, &format!("{HOME}{path}"), &fields).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path} {fields:?}");
        }
    }
    assert_eq!(conditions(&store).await, before);
}
