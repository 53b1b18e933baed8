//! A small HTTP client: each request has a connection of its own, and nothing is sent twice behind our back.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An order of two lamps.
pub(crate) fn order(caller: &str, key: &str, card: &str) -> Request<String> {
    post_order(caller, key, format!(r#"{{"item": "lamp", "quantity": 2, "card": "{card}"}}"#))
}

pub(crate) fn post_order(caller: &str, key: &str, body: String) -> Request<String> {
    Request::post("/orders")
        .header(AUTHORIZATION, format!("Bearer {caller}"))
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", key)
        .body(body)
        .expect("a request")
}

/// Sends a request to a server, and waits for the whole answer.
pub(crate) async fn send(address: SocketAddr, request: Request<String>) -> Result<Answer, Failure> {
    let answer = timeout(Duration::from_secs(60), exchange(address, request)).await;
    answer.map_err(|_| "the server did not answer in a minute")?
}

async fn exchange(address: SocketAddr, mut request: Request<String>) -> Result<Answer, Failure> {
    request.headers_mut().insert(HOST, HeaderValue::try_from(address.to_string())?);
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The one that reads and writes. It ends with its sender, and its failure is the sender's, too.
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().into())?;
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// This status, and not from a record.
    pub(crate) fn is_fresh(&self, status: StatusCode) -> bool {
        self.status == status && !self.headers.contains_key(REPLAYED)
    }

    /// The same answer byte for byte, marked as a replay.
    pub(crate) fn is_replay_of(&self, first: &Answer) -> bool {
        let kept = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            headers.remove(REPLAYED);
            // The moment of this answer, which the server adds.
            headers.remove(DATE);
            headers
        };
        self.headers.get(REPLAYED).is_some_and(|value| value == "true")
            && (self.status, &self.body) == (first.status, &first.body)
            && kept(self) == kept(first)
    }

    /// This status, with this code in its problem document.
    pub(crate) fn is_refusal(&self, status: StatusCode, code: &str) -> bool {
        self.status == status && self.code().as_deref() == Some(code)
    }

    fn code(&self) -> Option<String> {
        let problem = self.headers.get(CONTENT_TYPE)? == "application/problem+json";
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        body["code"].as_str().filter(|_| problem).map(str::to_owned)
    }
}

/// In a few words.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if let Some(code) = self.code() {
            write!(f, " {code}")?;
        }
        if self.headers.contains_key(REPLAYED) {
            write!(f, ", replayed")?;
        }
        Ok(())
    }
}
