//! Rule 37: the console shows everything as text, and no request of it changes a record unless it was built so.
#![cfg(all(feature = "console", feature = "memory"))]

mod browser;
mod changes;
mod chromium;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, Request as Http, StatusCode};
use idem_core::machine::{Explanation, Retry};
use idem_core::memory::{MemoryLease, MemoryStore, MemoryTx};
use idem_core::observer::Backlog;
use idem_core::operate::{Answer, Counts, Inspect, Operate, Page, Query, Reason};
use idem_core::store::{Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply};
use idem_core::{Error, Fingerprint, Identity, Kind, Operation, Request, Scope, console};
use proptest::prelude::*;
use tower::ServiceExt;

fn request(scope: &str, operation: &str, key: &str) -> Request {
    let identity = Identity {
        scope: Scope::from_stored(scope).expect("a scope"),
        operation: Operation::named(operation).expect("an operation"),
        key: idem_core::Key::of(key).expect("valid").expect("a key"),
    };
    Request::new(identity, Fingerprint::none(), Duration::from_secs(3600)).expect("a request")
}

fn reply() -> Outcome {
    let body = Bytes::from_static(b"the reply's body");
    Outcome::Reply(Reply { format: Format::HTTP, status: Some(201), headers: Bytes::new(), body })
}

/// A store with a finished record, a run that was given up for this reason, and an abandoned run with this step.
async fn store(scope: &str, operation: &str, step: &str, reason: &str) -> MemoryStore {
    let store = MemoryStore::<()>::default();
    let claimed = <MemoryTx<()> as Context>::claim(&store, &request(scope, operation, "done")).await;
    let Ok(Claimed::Run(tx)) = claimed else { panic!("a free key") };
    tx.complete(&reply()).await.expect("completed");
    for key in ["given-up", "abandoned"] {
        let request = request(scope, operation, key);
        let claimed = MemoryLease::claim(&store, &request, &LeaseTerms::DEFAULT, Intent::Run).await;
        let Ok(Claimed::Run(attempt)) = claimed else { panic!("a free key") };
        attempt.lease.record(None, &Entry::new(0, EntryKind::CALL_STARTED, step)).await.expect("recorded");
        attempt.lease.release().await.expect("released");
    }
    if let Some(reason) = Reason::new(reason) {
        let identity = request(scope, operation, "given-up").identity;
        store.give_up(&identity, &reason).await.expect("given up");
    }
    store
}

fn app(store: Arc<dyn Inspect>) -> Router {
    Router::new().nest("/operators/{team}/idem", console::router(store))
}

struct Shown {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

async fn send(app: &Router, request: Http<Body>) -> Shown {
    let answer = app.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    Shown { status: parts.status, headers: parts.headers, text: String::from_utf8(body.to_vec()).expect("UTF-8") }
}

async fn get(app: &Router, path: &str) -> Shown {
    send(app, Http::get(path).body(Body::empty()).expect("a request")).await
}

async fn post(app: &Router, path: &str, fields: &[(&str, &str)]) -> Shown {
    send(app, form(path, fields)).await
}

fn form(path: &str, fields: &[(&str, &str)]) -> Http<Body> {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let form = Http::post(path).header("content-type", "application/x-www-form-urlencoded");
    form.body(Body::from(body.join("&"))).expect("a request")
}

const HOME: &str = "/operators/red/idem";

async fn look_up(app: &Router, scope: &str, operation: &str, key: &str, attempts: &str) -> Shown {
    let fields = [("scope", scope), ("operation", operation), ("key", key), ("attempts", attempts)];
    post(app, &format!("{HOME}/key"), &fields).await
}

/// The names of the tags, in their order.
fn tags(page: &str) -> Vec<&str> {
    page.split('<').skip(1).map(|rest| rest.split(['>', ' ', '\n']).next().expect("a name")).collect()
}

/// The hidden fields of the form at which this text stands.
fn fields(page: &str, mark: &str) -> Vec<(String, String)> {
    let form = page.split("<form").find(|form| form.contains(mark)).expect("the form");
    let hidden = form.split("type=\"hidden\" name=\"").skip(1);
    hidden
        .map(|field| {
            let mut parts = field.split('"');
            (parts.next().expect("a name").to_owned(), parts.nth(1).expect("a value").to_owned())
        })
        .collect()
}

#[tokio::test]
async fn r37_a_key_is_looked_up_and_explained() {
    let store = store("ada", "payments.create", "charge", "refunded by hand").await;
    let app = app(Arc::new(store));
    let replayed = look_up(&app, "ada", "payments.create", "done", "").await;
    assert_eq!(replayed.status, StatusCode::OK);
    for words in ["It gets the stored reply.", "completed: it has run", "Status 201", "ada", "payments.create"] {
        assert!(replayed.text.contains(words), "{words}: {}", replayed.text);
    }
    assert!(!replayed.text.contains("the reply's body"), "nothing of the reply");
    assert!(!replayed.text.contains("done"), "nothing of the key");
    let free = look_up(&app, "ada", "payments.create", "unknown", "").await;
    assert!(free.text.contains("It runs, from the beginning."), "{}", free.text);
    let given_up = look_up(&app, "ada", "payments.create", "given-up", "10").await;
    for words in ["given_up: an operator has given this request up", "refunded by hand"] {
        assert!(given_up.text.contains(words), "{words}: {}", given_up.text);
    }
    let abandoned = look_up(&app, "ada", "payments.create", "abandoned", "").await;
    for words in ["as attempt 2", "with 10 attempts", "charge", "call, started: its answer is not recorded"] {
        assert!(abandoned.text.contains(words), "{words}: {}", abandoned.text);
    }
    let few = look_up(&app, "ada", "payments.create", "abandoned", "3").await;
    assert!(few.text.contains("of a leased handler with 3 attempts"), "{}", few.text);
}

#[tokio::test]
async fn r37_the_page_of_a_key_says_whether_it_was_first_sent_in_time() {
    let app = app(Arc::new(store("ada", "pay", "charge", "").await));
    let ask = async |key: &str, first_sent: &str, ttl: &str| {
        let fields = [("scope", "ada"), ("operation", "pay"), ("key", key), ("first_sent", first_sent), ("ttl", ttl)];
        post(&app, &format!("{HOME}/key"), &fields).await.text
    };
    // 2022-02-22 19:22:22 UTC.
    let dated = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    for (key, first_sent, ttl, words) in [
        ("k", "2022-02-22T19:22:22Z", "", "first_sent_too_old: "),
        ("k", "Tue, 22 Feb 2022 19:22:22 GMT", "7days", "first_sent_too_old: "),
        ("k", "2150-01-01 00:00:00", "", "first_sent_invalid: "),
        (dated, "key", "", "from 2022-02-22 19:17:22 UTC until 2022-02-23 19:22:21 UTC"),
        (dated, "2150-01-01 00:00:00", "", "first_sent_too_old: "),
        (dated, "key", "3650days", "It runs, from the beginning."),
        (dated, "", "", "It runs, from the beginning."),
        ("done", "2022-02-22T19:22:22Z", "", "It gets the stored reply."),
        ("k", "yesterday", "", "The time of the first request cannot be read."),
        ("k", "key", "", "The key has no time"),
        ("k", "2022-02-22T19:22:22Z", "24", "The ttl is no duration"),
    ] {
        let shown = ask(key, first_sent, ttl).await;
        assert!(shown.contains(words), "{key} {first_sent} {ttl}: {words}: {shown}");
    }
}

#[tokio::test]
async fn r37_the_overview_shows_what_is_stuck_and_leads_to_its_explanation() {
    let app = app(Arc::new(store("a\nb", "pay", "charge", "").await));
    let overview = get(&app, HOME).await;
    assert_eq!(overview.status, StatusCode::OK);
    for words in
        ["a\\u{a}b", "abandoned: it was cut off or has failed", "attempts: 1, of which released: 1", "<td>completed"]
    {
        assert!(overview.text.contains(words), "{words}: {}", overview.text);
    }
    let fields = fields(&overview.text, ">Explain<");
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let explained = post(&app, &format!("{HOME}/key"), &fields).await;
    assert!(explained.text.contains("as attempt 2"), "{}", explained.text);
    // Where the application has nested it.
    assert!(overview.text.contains("action=\"/operators/red/idem/key\""), "{}", overview.text);
    assert!(overview.text.contains("href=\"/operators/red/idem/style.css\""), "{}", overview.text);
    assert!(explained.text.contains("href=\"/operators/red/idem\""), "{}", explained.text);
    assert!(get(&app, "/operators/red/idem/style.css").await.text.contains(":focus-visible"));
    let alone = get(&console::router(Arc::new(MemoryStore::<()>::default())), "/").await;
    for words in ["action=\"/key\"", "href=\"/\"", "There is no record."] {
        assert!(alone.text.contains(words), "{words}: {}", alone.text);
    }
}

#[tokio::test]
async fn r37_a_list_goes_on_where_its_page_ended() {
    let store = MemoryStore::<()>::default();
    for n in 0..120 {
        let claimed = <MemoryTx<()> as Context>::claim(&store, &request("s\"1", "pay", &format!("k{n}"))).await;
        let Ok(Claimed::Run(tx)) = claimed else { panic!("a free key") };
        tx.complete(&reply()).await.expect("completed");
    }
    let app = app(Arc::new(store));
    let path = format!("{HOME}/records");
    let mut asked = vec![("scopes".to_owned(), "one".to_owned()), ("scope".to_owned(), "s\"1".to_owned())];
    asked.extend([("condition".to_owned(), "completed".to_owned()), ("older_than".to_owned(), "0".to_owned())]);
    let mut sizes = Vec::new();
    loop {
        let form: Vec<_> = asked.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let page = post(&app, &path, &form).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        sizes.push(page.text.matches(">Explain<").count());
        if !page.text.contains("Look further") {
            break;
        }
        asked = fields(&page.text, "Look further");
    }
    assert_eq!(sizes, [50, 50, 20]);
    let none = post(&app, &path, &[("scopes", "one"), ("scope", "s\"1"), ("condition", "late")]).await;
    assert!(none.text.contains("<p>None.</p>"), "{}", none.text);
}

#[tokio::test]
async fn r37_bad_input_and_a_store_that_is_down_are_pages_that_say_so() {
    let app = app(Arc::new(store("ada", "pay", "charge", "").await));
    let key = format!("{HOME}/key");
    let records = format!("{HOME}/records");
    for (path, fields, words) in [
        (&key, vec![("operation", "pay"), ("key", " ")], "The key is blank"),
        (&key, vec![("operation", ""), ("key", "k")], "The operation is empty"),
        (&key, vec![("operation", "pay"), ("key", "k"), ("scope", "a\0b")], "The scope is longer"),
        (&key, vec![("operation", "pay"), ("key", "k"), ("attempts", "0")], "The attempts are not"),
        (&key, vec![("at_key", "zz")], "That place is of no record"),
        (&key, vec![("at_key", "00"), ("at_operation", "ff")], "That place is of no record"),
        (&records, vec![("condition", "<script>")], "There is no such condition"),
        (&records, vec![("older_than", "-1")], "The age is not"),
        (&records, vec![("after_key", "0")], "That place is of no record"),
    ] {
        let page = post(&app, path, &fields).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{words}");
        assert!(page.text.contains(words), "{words}: {}", page.text);
        guards(&page);
    }
    let down = console::router(Arc::new(Down));
    for page in [get(&down, "/").await, post(&down, "/key", &[("operation", "pay"), ("key", "k")]).await] {
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.text.contains("store_unavailable: "), "{}", page.text);
        guards(&page);
    }
}

#[tokio::test]
async fn r37_every_answer_forbids_scripts_frames_and_caches() {
    let app = app(Arc::new(store("ada", "pay", "charge", "").await));
    for page in [
        get(&app, HOME).await,
        get(&app, &format!("{HOME}/style.css")).await,
        get(&app, &format!("{HOME}/key")).await,
        look_up(&app, "ada", "pay", "done", "").await,
        post(&app, &format!("{HOME}/records"), &[]).await,
    ] {
        guards(&page);
    }
}

fn guards(page: &Shown) {
    let header = |name: &str| page.headers[name].to_str().expect("text").to_owned();
    let policy = header("content-security-policy");
    for rule in
        ["default-src 'none'", "style-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split("; ").any(|said| said == rule), "{policy}");
    }
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("referrer-policy"), "same-origin");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("x-frame-options"), "DENY");
}

/// Text as somebody would choose it who wants to be more than text.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<script>alert(1)</script>".to_owned()),
        Just("\"><img src=x onerror=alert(1)>".to_owned()),
        Just("' onfocus=alert(1) autofocus='".to_owned()),
        Just("</td></table>&lt;b&gt;&#60;".to_owned()),
        Just("<!--".to_owned()),
        Just("\u{202e}\u{200b}\r\n\t\u{1b}[31m\u{7f}".to_owned()),
        "[^\0]{1,8}",
        "[a-z]{1,8}",
    ];
    proptest::collection::vec(piece, 1..4).prop_map(|pieces| {
        let text = pieces.concat();
        let end = (0..=80).rev().find(|end| text.is_char_boundary(*end)).expect("a boundary");
        format!("x{}", &text[..end.min(text.len())])
    })
}

async fn pages(scope: &str, operation: &str, step: &str, reason: &str) -> Vec<Shown> {
    let app = app(Arc::new(store(scope, operation, step, reason).await));
    let records = format!("{HOME}/records");
    vec![
        get(&app, HOME).await,
        look_up(&app, scope, operation, "done", "").await,
        look_up(&app, scope, operation, "given-up", "10").await,
        look_up(&app, scope, operation, "abandoned", "10").await,
        post(&app, &records, &[("scopes", "one"), ("scope", scope), ("operation", operation)]).await,
    ]
}

#[test]
fn r37_whatever_a_scope_an_operation_a_step_and_a_reason_have_in_them_it_is_text() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let plain = runtime.block_on(pages("xa", "xa", "xa", "xa"));
    let plain: Vec<_> = plain.iter().map(|page| tags(&page.text)).collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let texts = (hostile(), hostile(), hostile(), hostile());
    let check = |(scope, operation, step, reason): (String, String, String, String)| {
        let operation = operation.trim().to_owned();
        let shown = runtime.block_on(pages(&scope, &operation, &step, &reason));
        for (page, plain) in shown.iter().zip(&plain) {
            prop_assert_eq!(page.status, StatusCode::OK, "{}", page.text);
            prop_assert_eq!(&tags(&page.text), plain, "{}", page.text);
            let is_shown = |letter: char| {
                !letter.is_control() && !matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
            };
            prop_assert!(page.text.chars().all(is_shown), "{:?}", page.text);
            // No attribute begins in a text.
            prop_assert!(!page.text.contains("\" onerror") && !page.text.contains("\"><img"), "{}", page.text);
        }
        Ok(())
    };
    runner.run(&texts, check).expect("all of it is text");
}

#[tokio::test]
async fn r37_the_key_that_is_looked_up_is_in_no_answer() {
    let app = app(Arc::new(store("ada", "pay", "charge", "").await));
    for (scope, operation) in [("ada", "pay"), ("", "pay"), ("ada", "")] {
        let page = look_up(&app, scope, operation, "secret-key-17", "x").await;
        assert!(!page.text.contains("secret-key-17"), "{}", page.text);
        let headers = format!("{:?}", page.headers);
        assert!(!headers.contains("secret-key-17"), "{headers}");
    }
}

/// A store that cannot be reached.
struct Down;

fn down<T: Send + 'static>() -> Answer<'static, T> {
    Box::pin(async { Err(Error::new(Kind::StoreUnavailable)) })
}

impl Inspect for Down {
    fn explain<'a>(&'a self, _: &'a Identity, _: &'a Retry) -> Answer<'a, Explanation> {
        down()
    }

    fn list<'a>(&'a self, _: &'a Query) -> Answer<'a, Page> {
        down()
    }

    fn counts(&self) -> Answer<'_, Counts> {
        down()
    }

    fn backlog(&self) -> Answer<'_, Backlog> {
        down()
    }
}

/// A store with no half that changes anything, which notes what it is asked.
struct Noting(MemoryStore, Mutex<Vec<&'static str>>);

impl Noting {
    fn note(&self, what: &'static str) {
        self.1.lock().expect("no panic").push(what);
    }
}

impl Inspect for Noting {
    fn explain<'a>(&'a self, identity: &'a Identity, retry: &'a Retry) -> Answer<'a, Explanation> {
        self.note("explain");
        Inspect::explain(&self.0, identity, retry)
    }

    fn list<'a>(&'a self, query: &'a Query) -> Answer<'a, Page> {
        self.note("list");
        Inspect::list(&self.0, query)
    }

    fn counts(&self) -> Answer<'_, Counts> {
        self.note("counts");
        Inspect::counts(&self.0)
    }

    fn backlog(&self) -> Answer<'_, Backlog> {
        self.note("backlog");
        Inspect::backlog(&self.0)
    }
}

#[tokio::test]
async fn r37_each_page_asks_a_bounded_number_of_questions_and_changes_nothing() {
    let memory = store("ada", "pay", "charge", "").await;
    let noting = Arc::new(Noting(memory.clone(), Mutex::default()));
    let app = app(noting.clone());
    let all = Query::default();
    let before = Inspect::list(&memory, &all).await.expect("a page").records;
    assert_eq!(before.len(), 3);
    get(&app, HOME).await;
    look_up(&app, "ada", "pay", "done", "").await;
    post(&app, &format!("{HOME}/records"), &[]).await;
    look_up(&app, "ada", "pay", "abandoned", "").await;
    assert_eq!(
        *noting.1.lock().expect("no panic"),
        ["counts", "backlog", "list", "explain", "list", "explain", "explain"]
    );
    assert_eq!(Inspect::list(&memory, &all).await.expect("a page").records, before);
}
