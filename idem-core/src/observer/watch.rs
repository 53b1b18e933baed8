//! Watches one request from its beginning until it is settled.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;

use super::{Event, Observer, Outcome, Settled, Source, TraceParent, log, tell_to};
use crate::disposition::Disposition;
use crate::error::{Error, Kind};
use crate::identity::Operation;
use crate::record;
use crate::runs::Runs;
use crate::store::{Reply, Store};

/// One request that is not settled yet. A request that is dropped is told as such.
///
/// Boxed, so that the future of every request, which is moved several times, does not grow by it.
pub(crate) struct Watch(Box<Request>);

struct Request {
    observer: Option<Arc<dyn Observer>>,
    runs: Runs,
    operation: Operation,
    source: Source,
    began: Instant,
    span: Span,
    /// The span in which the request was made, which may be none.
    callers_span: Span,
    /// The trace of this request, which only HTTP has.
    #[cfg(feature = "axum")]
    traceparent: Option<TraceParent>,
    claimed: Option<Claimed>,
    replay_size: Option<u64>,
    /// The trace of the run that is replayed.
    first_traceparent: Option<TraceParent>,
    stopped: Option<Kind>,
    is_settled: bool,
}

/// The part of a request from its claim on.
struct Claimed {
    at: Instant,
    attempt: u32,
    is_recorded: bool,
    /// When the handler has answered.
    ran: Option<Instant>,
    disposition: Option<Disposition>,
    reply_size: Option<u64>,
    is_oversized: bool,
}

impl Watch {
    pub(crate) fn start(store: &impl Store, operation: Operation) -> Self {
        let (callers_span, span) = (Span::current(), log::span(operation));
        Self(Box::new(Request {
            observer: store.observer().cloned(),
            runs: store.runs().clone(),
            operation,
            source: store.source(),
            began: Instant::now(),
            span,
            callers_span,
            #[cfg(feature = "axum")]
            traceparent: None,
            claimed: None,
            replay_size: None,
            first_traceparent: None,
            stopped: None,
            is_settled: false,
        }))
    }

    /// The request's span. The one who waits for the run enters it.
    pub(crate) fn span(&self) -> Span {
        self.0.span.clone()
    }

    /// The span of the handler: its caller's, if there is one. A handler may record fields on the current span, which
    /// must be the one that its caller has opened for it.
    pub(crate) fn handler_span(&self) -> Span {
        let Request { span, callers_span, .. } = &*self.0;
        if callers_span.is_none() { span.clone() } else { callers_span.clone() }
    }

    /// The request is part of this trace.
    #[cfg(feature = "axum")]
    pub(crate) fn trace(&mut self, traceparent: Option<TraceParent>) {
        self.0.traceparent = traceparent;
    }

    #[cfg(feature = "axum")]
    pub(crate) fn traceparent(&self) -> Option<TraceParent> {
        self.0.traceparent
    }

    /// The run that is replayed was part of this trace.
    #[cfg(feature = "axum")]
    pub(crate) fn first_trace(&mut self, first: Option<TraceParent>) {
        self.0.first_traceparent = first;
    }

    /// Notes what gave the answer to the claim.
    pub(crate) fn answered<T>(&mut self, claimed: Result<(T, Source), Error>) -> Result<T, Error> {
        claimed.map(|(claimed, source)| {
            self.0.source = source;
            claimed
        })
    }

    /// The handler begins.
    pub(crate) fn claimed(&mut self, attempt: u32, is_recorded: bool) {
        self.0.claimed = Some(Claimed {
            at: Instant::now(),
            attempt,
            is_recorded,
            ran: None,
            disposition: None,
            reply_size: None,
            is_oversized: false,
        });
        if let Some(observer) = &self.0.observer {
            tell_to(observer, &Event::RunBegan { operation: self.0.operation.as_str(), attempt });
        }
    }

    /// The handler has answered.
    pub(crate) fn ran(&mut self, disposition: Disposition, outcome: Option<&record::Outcome>) {
        let Some(claimed) = &mut self.0.claimed else { return };
        claimed.ran = Some(Instant::now());
        claimed.disposition = Some(disposition);
        match outcome {
            Some(record::Outcome::Reply(reply)) => claimed.reply_size = Some(size(reply)),
            Some(record::Outcome::Oversized) => claimed.is_oversized = true,
            None => {}
        }
    }

    /// Notes the size of a stored reply, which is about to be read.
    pub(crate) fn size(&mut self, stored: &Reply) {
        self.0.replay_size = Some(size(stored));
    }

    /// The run is released, and this error has stopped it, if there was one. The handler may have swallowed it.
    pub(crate) fn released(&mut self, stopped: Option<Kind>) {
        self.ran(Disposition::Release, None);
        self.0.stopped = stopped;
    }

    /// The request gets a stored reply.
    pub(crate) fn replayed(mut self, age: Option<Duration>) {
        self.0.runs.outages().answered();
        let settled = Settled {
            age,
            first_traceparent: self.0.first_traceparent,
            reply_size: self.0.replay_size,
            ..self.settled(Outcome::Replay, None)
        };
        self.tell(&settled);
    }

    /// The request has ended by an error.
    pub(crate) fn failed(mut self, error: &Error) {
        self.0.runs.outages().failed(error);
        let kind = error.kind();
        let outcome = if self.0.claimed.is_some() { Outcome::Failed } else { Outcome::of_refusal(kind) };
        self.tell(&self.settled(outcome, Some(kind)));
    }

    /// The run has ended as its disposition says. The handler may have passed on an error of the library.
    pub(crate) fn ended(mut self, passed_on: Option<Kind>) {
        let Some(claimed) = &self.0.claimed else { return };
        let outcome = match claimed.disposition {
            _ if self.0.stopped.is_some() => Outcome::Failed,
            _ if !claimed.is_recorded => Outcome::Unrecorded,
            Some(Disposition::Commit) => Outcome::Run,
            Some(Disposition::Reject) => Outcome::Rejected,
            Some(Disposition::Release) | None => Outcome::Released,
        };
        let passed_on = self.0.stopped.or(passed_on);
        match passed_on {
            Some(kind) => self.0.runs.outages().failed(&Error::new(kind)),
            None if outcome != Outcome::Released => self.0.runs.outages().answered(),
            None => {}
        }
        self.tell(&self.settled(outcome, passed_on));
    }

    fn settled(&self, outcome: Outcome, kind: Option<Kind>) -> Settled {
        let (now, claimed) = (Instant::now(), self.0.claimed.as_ref());
        let ran = claimed.and_then(|claimed| claimed.ran);
        Settled {
            operation: self.0.operation.as_str(),
            outcome,
            kind,
            disposition: claimed.and_then(|claimed| claimed.disposition),
            attempt: claimed.map(|claimed| claimed.attempt),
            source: self.0.source,
            claim: claimed.map_or(now, |claimed| claimed.at).duration_since(self.0.began),
            run: claimed.map(|claimed| ran.unwrap_or(now).duration_since(claimed.at)),
            commit: ran.map(|ran| now.duration_since(ran)),
            age: None,
            first_traceparent: None,
            reply_size: claimed.and_then(|claimed| claimed.reply_size),
            is_oversized: claimed.is_some_and(|claimed| claimed.is_oversized),
        }
    }

    fn tell(&mut self, settled: &Settled) {
        self.0.is_settled = true;
        let Request { span, observer, .. } = &*self.0;
        log::complete(span, settled);
        // In the span, so that an observer can add to it.
        span.in_scope(|| {
            log::settled(settled);
            if let Some(observer) = observer {
                tell_to(observer, &Event::Settled(*settled));
            }
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.0.is_settled {
            self.tell(&self.settled(Outcome::Dropped, None));
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("operation", &self.0.operation.as_str()).finish_non_exhaustive()
    }
}

fn size(reply: &Reply) -> u64 {
    (reply.headers.len() + reply.body.len()) as u64
}
