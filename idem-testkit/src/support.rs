//! What the contracts share.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use idem_core::store::{
    Attempt, Claimed, Context, Entry, EntryKind, Format, Intent, Lease, LeaseTerms, Outcome, Reply,
};
use idem_core::{Fingerprint, FirstSent, Identity, Kind, Request};

use crate::logs::CANARY;
use crate::{Leases, Subject};

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A minute's lease, and three attempts.
pub(crate) const TERMS: LeaseTerms = LeaseTerms::DEFAULT.lasting(MINUTE).attempts(3);

/// A request by this key, whose record lives for an hour.
pub(crate) fn request(key: &str) -> Request {
    asking(key, "this")
}

pub(crate) fn asking(key: &str, what: &str) -> Request {
    let identity = Identity::new(("scope", CANARY), "contract", &format!("{key} {CANARY}")).expect("an identity");
    Request::new(identity, Fingerprint::of_value(&(what, CANARY)).expect("a fingerprint"), HOUR).expect("a request")
}

pub(crate) fn reply(body: &'static str) -> Reply {
    Reply {
        format: Format::VALUE,
        status: None,
        headers: Bytes::from_static(b"tag"),
        body: format!("{body} {CANARY}").into(),
    }
}

pub(crate) fn outcome(body: &'static str) -> Outcome {
    Outcome::Reply(reply(body))
}

/// A transaction that was claimed. A request that was answered a moment ago may still be giving its locks back.
pub(crate) async fn claimed<S: Subject>(subject: &S, request: &Request) -> S::Tx {
    let began = Instant::now();
    loop {
        match S::Tx::claim(subject.store(), request).await.expect("an answer") {
            Claimed::Run(tx) => return tx,
            Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
            Claimed::Refuse(Kind::KeyInFlight) if began.elapsed() < Duration::from_secs(10) => {}
            Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
            Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same request, first sent so many seconds ago.
pub(crate) async fn sent_ago<S: Leases>(subject: &S, request: &Request, seconds: i64) -> Request {
    let (now, time) = (subject.now().await, Duration::from_secs(seconds.unsigned_abs()));
    let sent: SystemTime = if seconds < 0 { now + time } else { now - time };
    request.clone().with_first_sent(Some(FirstSent::at(sent)))
}

/// What became of a request that was sent within a second from when the time was read: the edges are that narrow.
pub(crate) async fn in_a_second<T, F: Future<Output = T>>(send: impl Fn() -> F) -> T {
    for _ in 0..100 {
        let began = Instant::now();
        let answer = send().await;
        if began.elapsed() < SECOND {
            return answer;
        }
    }
    panic!("the machine is too slow for this test");
}

/// The reply that a request gets.
pub(crate) async fn replayed<S: Subject>(subject: &S, request: &Request) -> Reply {
    match S::Tx::claim(subject.store(), request).await.expect("an answer") {
        Claimed::Run(_) => panic!("it runs"),
        Claimed::Replay(reply, _) => reply,
        Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
    }
}

/// What a request is refused with.
pub(crate) async fn refused<S: Subject>(subject: &S, request: &Request) -> Kind {
    match S::Tx::claim(subject.store(), request).await.expect("an answer") {
        Claimed::Run(_) => panic!("it runs"),
        Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
        Claimed::Refuse(kind) => kind,
        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
    }
}

pub(crate) async fn lease<S: Leases>(
    subject: &S,
    request: &Request,
    terms: &LeaseTerms,
    intent: Intent,
) -> Claimed<Attempt<S::Lease>> {
    S::Lease::claim(subject.store(), request, terms, intent).await.expect("an answer")
}

/// An attempt that was claimed.
pub(crate) async fn leased<S: Leases>(subject: &S, request: &Request) -> Attempt<S::Lease> {
    match lease(subject, request, &TERMS, Intent::Run).await {
        Claimed::Run(attempt) => attempt,
        Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
        Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
    }
}

pub(crate) fn refusal<T>(claimed: Claimed<T>) -> Kind {
    match claimed {
        Claimed::Run(_) => panic!("it runs"),
        Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
        Claimed::Refuse(kind) => kind,
        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
    }
}

pub(crate) fn transaction(position: u32, name: &str) -> Entry {
    Entry::new(position, EntryKind::TRANSACTION, name).with_reply(reply("result"))
}

pub(crate) fn call_started(position: u32, name: &str) -> Entry {
    Entry::new(position, EntryKind::CALL_STARTED, name)
}

/// Asks until it is so, for 30 seconds at the most.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap_or_else(|_| panic!("not in 30 s: {what}"));
}
