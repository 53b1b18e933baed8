//! Axum handlers: from a request to a run, from a run to a response.
//!
//! What an annotated handler's caller sees:
//!
//! # Rules
//! 1. The handler's extractors run first, in their order. What they refuse is refused as they say, and not stored.
//! 2. The body is read whole, up to Axum's `DefaultBodyLimit`; over it: 413 `body_too_large`.
//! 3. `GET`, `HEAD` and `OPTIONS` run in a plain transaction. Nothing is recorded. (On SQLite it takes the write lock
//!    like every other: annotate what writes.)
//! 4. The key is read from its header as an RFC 8941 string item (`"abc"`, or bare `abc`): one of 1 to 255 visible
//!    ASCII characters. None: 400 `key_missing`. Anything else: 400 `key_invalid`.
//! 5. The key was used for another request of this caller and handler: 422 `key_reused`, also while that runs. Whatever
//!    the handler compares, another path is another request. With `fingerprint = EXPR`, so are another method and
//!    another query.
//! 6. It was used for this request, and its reply is stored: the reply, with `Idempotent-Replayed: true`.
//! 7. It was used for this request, which is running: 409 `key_in_flight` with `Retry-After`, or what the handler
//!    says with `in_flight`.
//! 8. Otherwise the request is claimed, and the handler runs. When the client hangs up or a timeout fires, a claimed run
//!    moves to a task of its own, and the retry gets its reply. Its tracing span moves with it; task-locals do not, so a
//!    handler must not use them. Until then the request's own future polls the run: middleware that holds the future without
//!    polling it stops the run.
//!
//!    A request that is not claimed is dropped with its client, as Axum does: nobody waits for a connection, or for
//!    another run, on behalf of a client that has left. So is a run in one transaction of which nothing is recorded (3, or
//!    `missing_key = run`): it is rolled back. Unrecorded steps move to a task, since finished ones would stay. While a
//!    request waits, it does not hold its body; what the extractors have made of it, it does.
//! 9. Its response says what becomes of the run: [`Disposition`](crate::Disposition). The caller gets it once its
//!    record is committed.
//!
//! # What is stored of a response
//! Status, headers in their order, and body, byte for byte. Not `Set-Cookie` and `Date`, not the hop-by-hop headers
//! (`Connection`, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authorization`, `TE`, `Trailer`, `Transfer-Encoding`,
//! `Upgrade`), not extensions. Trailers reach not even the first caller: the body is read whole before it goes out. A
//! response over the store's limit goes to its caller, and a retry gets 410 `reply_too_large`.
//!
//! # Errors
//! Each refusal is `application/problem+json` with `status`, `title`, `detail` and a stable `code`, and carries a
//! [`Refusal`] in its extensions, by which an application can restyle it.
//!
//! | code | status | |
//! |---|---|---|
//! | `key_missing`, `key_invalid`, `body_unreadable` | 400 | send it otherwise |
//! | `body_too_large` | 413 | |
//! | `key_in_flight` | 409, or 202 | the same request is running: retry it after `Retry-After` |
//! | `key_reused` | 422 | a new request needs a new key |
//! | `reply_too_large` | 410 | it ran; its reply was not kept |
//! | `retry_later`, `store_unavailable` | 503 | it was not completed: retry it after `Retry-After` |
//! | `lease_lost`, `run_rejected` | 409 | another attempt resumes it, or undoes it: retry it later |
//! | `nothing_to_resume` | 409 | there is no such run |
//! | `undo_failed` | 503 | rejected, and not all undone: the retry goes on with that |
//! | `transaction_aborted`, `reply_failed`, `handler_panicked` | 500 | it was not completed: a retry runs |
//! | `store_failed` | 500 | it was not completed: a retry runs once the cause is mended |
//! | `record_unreadable` | 500 | it ran; its record cannot be read. It does not run again |
//! | `transaction_ended`, `outcome_unknown` | 500 | it may have taken effect: look before you send it again |
//! | `step_mismatch` | 500 | the steps are not those of the earlier attempt, or are put together wrongly; what was done stays |
//! | `attempts_exhausted` | 500 | it has failed as often as it may; an operator releases it |
//! | `scope_invalid`, `ttl_invalid`, `fingerprint_failed` | 500 | the application's mistake; the handler was not run |
//!
//! Of what was not completed nothing is kept, but for the finished steps of a leased run.
//!
//! # Limitations
//! - A JSON body is compared by meaning: the order of names and white space do not count, and a number is its exact decimal
//!   value (`1`, `1.0` and `1e0` are one). The media type's parameters (`; charset=utf-8`) do not count.
//! - A `multipart/form-data` body is compared byte by byte, its boundary included. A client that makes a new boundary
//!   for a retry gets 422; give such a handler a `fingerprint` of its own.
//! - An endless response (server-sent events) would hold its transaction open: it is no reply to be stored.

pub(crate) mod asked;
pub mod bounds;
mod detach;
pub(crate) mod extract;
pub(crate) mod key;
mod problem;
mod reply;
pub(crate) mod serve;
pub(crate) mod through_store;

pub use problem::Refusal;
