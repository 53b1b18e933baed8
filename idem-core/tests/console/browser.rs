//! A headless Chromium that is told what to do by its DevTools protocol: over two pipes, so nothing else is needed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// `cargo xtask test` finds or installs one.
const VARIABLE: &str = "IDEM_TEST_CHROMIUM";

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Browser {
    process: Child,
    questions: ChildStdin,
    answers: UnboundedReceiver<Value>,
    profile: PathBuf,
    session: Option<String>,
    asked: u64,
    /// What the page has told and nobody has waited for.
    events: Vec<Value>,
    /// The address of each request of the page.
    pub(crate) requested: Vec<String>,
}

impl Browser {
    /// With a page that runs no script.
    pub(crate) async fn without_script() -> Self {
        let program = std::env::var(VARIABLE).ok().filter(|program| !program.is_empty());
        // Of two with one profile, the second one ends.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let profile = format!("chromium-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(profile);
        // It reads from the file descriptor 3 and answers on 4.
        let script = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1";
        let mut process = Command::new("sh")
            .args(["-c", script, program.as_deref().unwrap_or("chromium")])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let questions = process.stdin.take().expect("a pipe");
        let mut pipe = BufReader::new(process.stdout.take().expect("a pipe"));
        let (tell, answers) = unbounded_channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            while pipe.read_until(0, &mut text).is_ok_and(|read| read > 0) {
                let answer = serde_json::from_slice(text.strip_suffix(&[0]).unwrap_or(&text)).expect("JSON");
                text.clear();
                if tell.send(answer).is_err() {
                    break;
                }
            }
        });
        let (session, events, requested) = (None, Vec::new(), Vec::new());
        let mut browser = Self { process, questions, answers, profile, session, asked: 0, events, requested };
        let page = browser.ask("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for (domain, with) in [
            ("Page.enable", json!({})),
            ("Network.enable", json!({})),
            ("DOM.enable", json!({})),
            ("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })),
            ("Emulation.setScriptExecutionDisabled", json!({ "value": true })),
        ] {
            browser.ask(domain, with).await;
        }
        browser
    }

    pub(crate) async fn open(&mut self, address: &str) {
        self.events.clear();
        self.ask("Page.navigate", json!({ "url": address })).await;
        self.loaded().await;
    }

    /// Waits until the page that was asked for is there.
    async fn loaded(&mut self) {
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let message = self.next("a page").await;
            self.note(message);
        }
        self.events.clear();
    }

    /// The text of the page, with its tags.
    pub(crate) async fn html(&mut self) -> String {
        let root = self.root().await;
        self.html_of(&root).await
    }

    /// The elements that the selector finds. They are known until the page is asked for its root again.
    pub(crate) async fn all(&mut self, root: &Value, selector: &str) -> Vec<Value> {
        let found = self.ask("DOM.querySelectorAll", json!({ "nodeId": root, "selector": selector })).await;
        found["nodeIds"].as_array().expect("a list").clone()
    }

    pub(crate) async fn root(&mut self) -> Value {
        self.ask("DOM.getDocument", json!({ "depth": 0 })).await["root"]["nodeId"].clone()
    }

    pub(crate) async fn html_of(&mut self, node: &Value) -> String {
        let html = self.ask("DOM.getOuterHTML", json!({ "nodeId": node })).await;
        html["outerHTML"].as_str().expect("a text").to_owned()
    }

    /// Presses Tab until the element that the selector finds has the focus.
    pub(crate) async fn tab_to(&mut self, selector: &str) {
        for _ in 0..100 {
            self.tab().await;
            let root = self.root().await;
            if !self.all(&root, &format!(":is({selector}):focus")).await.is_empty() {
                return;
            }
        }
        panic!("no Tab reaches {selector}: {}", self.html().await);
    }

    pub(crate) async fn tab(&mut self) {
        self.press(json!({ "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 })).await;
    }

    /// Presses Enter, and waits for the page that comes.
    pub(crate) async fn enter(&mut self) {
        self.events.clear();
        self.press(json!({ "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" })).await;
        self.loaded().await;
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.ask("Input.insertText", json!({ "text": text })).await;
    }

    async fn press(&mut self, mut key: Value) {
        for what in ["keyDown", "keyUp"] {
            key["type"] = what.into();
            self.ask("Input.dispatchKeyEvent", key.clone()).await;
        }
    }

    async fn ask(&mut self, method: &str, with: Value) -> Value {
        self.asked += 1;
        let mut question = json!({ "id": self.asked, "method": method, "params": with });
        if let Some(session) = &self.session {
            question["sessionId"] = session.as_str().into();
        }
        write!(self.questions, "{question}\0").and_then(|()| self.questions.flush()).expect("Chromium reads");
        loop {
            let message = self.next(method).await;
            if message["id"] == self.asked {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(message);
        }
    }

    fn note(&mut self, event: Value) {
        if event["method"] == "Network.requestWillBeSent" {
            self.requested.extend(event["params"]["request"]["url"].as_str().map(str::to_owned));
        }
        self.events.push(event);
    }

    async fn next(&mut self, awaited: &str) -> Value {
        let message = timeout(PATIENCE, self.answers.recv()).await;
        let message = message.unwrap_or_else(|_| panic!("Chromium does not answer: {awaited}"));
        message.unwrap_or_else(|| panic!("there is no Chromium: install `chromium`, or name one in {VARIABLE}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _it_may_have_ended = self.process.kill();
        let _ended = self.process.wait();
        let _it_may_write_still = std::fs::remove_dir_all(&self.profile);
    }
}
