//! The disposition: what becomes of a run.

/// What becomes of a handler's writes and its reply.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::http::StatusCode;
/// use axum::response::IntoResponse;
/// use idem_core::Disposition;
///
/// // Declined for good: no rows are kept, and a retry gets this answer without a second try.
/// let declined = (StatusCode::PAYMENT_REQUIRED, Disposition::Reject, "card declined").into_response();
/// # assert_eq!(declined.extensions().get(), Some(&Disposition::Reject));
/// # }
/// ```
///
/// | disposition | the handler's writes | the reply | a retry |
/// |---|---|---|---|
/// | `Commit` | kept | stored | replays |
/// | `Reject` | rolled back | stored | replays |
/// | `Release` | rolled back | not stored | runs again at once |
///
/// In a leased run the steps are committed one by one. `Reject` undoes the finished steps by their registered undos
/// ([`Steps::undo`](crate::Steps::undo)), and `Release` keeps them: the retry resumes after them.
///
/// Over HTTP the default is `Commit` for a status below 400 and `Release` otherwise. A handler overrides the default by
/// a `Disposition` among its response's parts; the last one counts. "Kept but not stored" does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The writes are committed and the reply is stored.
    Commit,
    /// The writes are rolled back and the reply is stored.
    Reject,
    /// The writes are rolled back and the reply is not stored: the key is free again.
    Release,
}
