//! Axum handlers: from a request to a run, and from a run to a response.
//!
//! The caller of an annotated handler sees these rules:
//!
//! # Rules
//! 1. The handler's extractors run first, in their order. A refusal by an extractor is sent as it is, and not stored.
//! 2. The body is read whole, up to Axum's `DefaultBodyLimit`. A longer body: 413 `body_too_large`.
//! 3. `GET`, `HEAD` and `OPTIONS` run in a plain transaction. Nothing is recorded. (On SQLite that transaction takes
//!    the write lock like every other: annotate only handlers that write.) With a key by expression (`axum, key = …`),
//!    they are recorded like any other method. `HEAD` then counts as `GET`, so a link that a mail scanner has checked
//!    still opens: a handler must answer both alike.
//! 4. The key is read from its header as an RFC 8941 string item (`"abc"`, or bare `abc`) of 1 to 255 visible ASCII
//!    characters. No key: 400 `key_missing`. Anything else: 400 `key_invalid`.
//! 5. The key was used for another request of this caller and handler: 422 `key_reused`, also while that request runs.
//!    Another path always makes another request. With `fingerprint = EXPR`, so do another method and another query.
//! 6. The key was used for this request, and the reply is stored: the reply, with `Idempotent-Replayed: true`.
//! 7. The key was used for this request, and the request is running: 409 `key_in_flight` with `Retry-After`, or what
//!    the handler says with `in_flight`.
//! 8. Otherwise the request is claimed, and the handler runs. When the client hangs up or a timeout fires, a claimed
//!    run moves to a task of its own, and the retry gets its reply. The run's tracing span moves with it; task-locals
//!    do not, so a handler must not use them. Until then the request's own future polls the run: middleware that holds
//!    the future without polling it stops the run.
//!
//!    A request that is not claimed is dropped with its client, as Axum does: it does not keep waiting for a
//!    connection or for another run. A run in one transaction that is not recorded (rule 3, or `missing_key = run`) is
//!    dropped too, and rolled back. Unrecorded steps move to a task, since finished steps would stay. A waiting request
//!    does not hold its body; it does hold the values of its extractors.
//! 9. The response says what becomes of the run: [`Disposition`](crate::Disposition). The caller gets the response
//!    after the record is committed.
//!
//! # What is stored of a response
//! Status, headers in their order, and body, byte for byte. `Set-Cookie`, `Date`, the hop-by-hop headers (`Connection`
//! and each header that it names, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authorization`, `Proxy-Connection`, `TE`,
//! `Trailer`, `Transfer-Encoding`, `Upgrade`) and extensions are not stored. An `Idempotent-Replayed` that a handler
//! passes on from another server is removed: the header says that *this* server replays. So is the `Disposition`, once
//! it has been read. Not even the first caller gets trailers, since the body is read whole before it is sent.
//! A response over the store's limit is sent to its caller, and a retry gets 410 `reply_too_large`.
//!
//! # Errors
//! Each refusal is `application/problem+json` with `status`, `title`, `detail` and a stable `code`. Its extensions
//! carry a [`Refusal`], with which an application can restyle it.
//!
//! | code | status | |
//! |---|---|---|
//! | `key_missing`, `key_invalid`, `first_sent_invalid`, `body_unreadable` | 400 | correct the request |
//! | `body_too_large` | 413 | |
//! | `key_in_flight` | 409, or 202 | the same request is running: retry it after `Retry-After` |
//! | `key_reused` | 422 | a new request needs a new key |
//! | `reply_too_large` | 410 | it has run; its reply was not stored |
//! | `retry_too_late` | 410 | it has run; its reply is no longer kept |
//! | `first_sent_too_old` | 412 | with `first_sent = refuse`: it may have run, so long ago that its record would be gone |
//! | `given_up` | 410 | an operator has given it up; it does not run again |
//! | `deadline_exceeded` | 503 | the run took too long and was given up: retry it after `Retry-After` |
//! | `retry_later`, `store_unavailable` | 503 | it was not completed: retry it after `Retry-After` |
//! | `lease_lost`, `run_rejected` | 409 | another attempt resumes the run, or undoes it: retry it later |
//! | `nothing_to_resume` | 409 | there is no such run |
//! | `undo_failed` | 503 | rejected, and not all undone: the retry undoes the rest |
//! | `transaction_aborted`, `reply_failed`, `handler_panicked` | 500 | it was not completed: a retry runs |
//! | `data_refused` | 422 | the database refused its data: the same request is refused again |
//! | `deployment_broken`, `store_failed` | 500 | it was not completed: a retry runs once the cause is removed |
//! | `record_unreadable` | 500 | it has run, and its record cannot be read; it does not run again |
//! | `transaction_ended`, `outcome_unknown` | 500 | it may have taken effect: check before you send it again |
//! | `step_mismatch` | 500 | the steps differ from the earlier attempt's, or are invalid; finished steps stay |
//! | `attempts_exhausted` | 500 | crashes have used the attempts up: an operator has to reset them |
//! | `attempt_too_soon` | 503 | the run has failed: after `Retry-After` |
//! | `scope_invalid`, `ttl_invalid`, `fingerprint_failed` | 500 | an application mistake; the handler was not run |
//!
//! Nothing is kept of a run that was not completed, except for the finished steps of a leased run.
//!
//! # Limitations
//! - A JSON body is compared by meaning: the order of names and white space do not count, and a number is its exact
//!   decimal value (`1`, `1.0` and `1e0` are equal). The media type's parameters (`; charset=utf-8`) do not count.
//!   A body that names a member of an object twice, nests deeper than 128 levels or has 4 GiB is compared byte by byte.
//! - A digest takes at most 5.2 bytes of memory for each byte of the body, beside the body. A body over 16 KiB is
//!   digested on a thread for blocking work, and no more of them at once than there are processors.
//! - A `multipart/form-data` body is compared byte by byte, its boundary included. A client that makes a new boundary
//!   for a retry gets 422. Give such a handler a `fingerprint` of its own.
//! - An endless response (server-sent events) cannot be stored: it would hold its transaction open.

pub(crate) mod asked;
mod attempt;
pub mod bounds;
mod content;
mod detach;
pub(crate) mod extract;
mod first_sent;
pub(crate) mod key;
mod lifetime;
mod problem;
pub(crate) mod reply;
pub(crate) mod serve;
pub(crate) mod through_store;

pub use first_sent::first_sent;
pub use lifetime::Lifetime;
pub use problem::Refusal;
