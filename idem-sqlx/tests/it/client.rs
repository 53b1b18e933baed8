//! A client of the application, without sockets.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use idem_testkit::logs::CANARY;
use serde_json::Value;
use tower::ServiceExt;

/// One request, to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    pub fn new(method: Method, path: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("u1"));
        Self { method, path: path.to_owned(), headers, body: Vec::new() }
    }

    /// User `u1` asks `/act` to do this, under the key `k1`.
    pub fn act(what: &str) -> Self {
        Self::to("/act", what)
    }

    pub fn to(path: &str, what: &str) -> Self {
        Self::new(Method::POST, path).key("k1").json(&format!(r#"{{"act":"{what}","note":"{CANARY}"}}"#))
    }

    pub fn key(self, key: &str) -> Self {
        // Before the quote that ends a key in quotes.
        let key = key.strip_suffix('"').map_or(format!("{key}-{CANARY}"), |key| format!("{key}-{CANARY}\""));
        self.header("idempotency-key", key.as_bytes())
    }

    pub fn user(self, user: &str) -> Self {
        self.header("x-user", user.as_bytes())
    }

    pub fn json(mut self, body: &str) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = body.as_bytes().to_vec();
        self
    }

    pub fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    pub fn also(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse().expect("a path");
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// It as it goes over a connection that is for nothing else.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n", self.method, self.path);
        bytes += &format!("content-length: {}\r\n", self.body.len());
        for (name, value) in &self.headers {
            bytes += &format!("{name}: {}\r\n", value.to_str().expect("visible characters"));
        }
        [bytes.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Sends it, and gives up after a time that no test needs.
    pub async fn send(&self, app: &Router) -> Answer {
        let answer = async {
            let response = app.clone().oneshot(self.request()).await.expect("a router does not fail");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes().to_vec();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer in time")
    }
}

impl Answer {
    /// What came over such a connection.
    pub fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let head = str::from_utf8(&bytes[..end]).expect("visible characters");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a status");
        let headers = head.lines().skip(1).map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.parse().expect("a name"), value.parse().expect("a value"))
        });
        Self {
            status,
            headers: headers.collect::<Vec<(HeaderName, HeaderValue)>>().into_iter().collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn replayed(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    /// The stable code of a refusal, checked to be one.
    pub fn code(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{self:?}");
        let problem: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem["code"].as_str().expect("a code").to_owned()
    }

    #[track_caller]
    pub fn expect(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{self:?}");
    }

    /// A first answer with this status.
    #[track_caller]
    pub fn expect_fresh(&self, status: u16) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert!(!self.replayed(), "{self:?}");
    }

    /// The same answer again, marked as such.
    #[track_caller]
    pub fn expect_replay_of(&self, first: &Self) {
        let mut expected = first.clone();
        for name in ["set-cookie", "date"] {
            expected.headers.remove(name);
        }
        expected.headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        assert_eq!(*self, expected);
    }
}

/// Waits until the condition holds, for as long as no test needs.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
