//! What a handler's expressions say about one request, beside what the request says itself.

use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::identity::Key;

/// Where the key comes from.
#[derive(Debug)]
pub enum AskedKey {
    /// From a header of the request.
    Header(&'static str),
    /// From an expression over the parameters.
    Value(Result<Option<Key>, Error>),
}

/// What must be equal on a retry.
#[derive(Debug)]
pub enum AskedFingerprint {
    /// The whole request.
    Request,
    /// Nothing but the path.
    None,
    /// An expression over the parameters, and method, path and query beside it.
    Value(Result<Fingerprint, Error>),
}
