//! The attribute's expressions about one request, in addition to the request itself.

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

/// The parts of a request that must be equal on a retry.
#[derive(Debug)]
pub enum AskedFingerprint {
    /// The whole request.
    Request,
    /// Only the path.
    None,
    /// An expression over the parameters, together with method, path and query.
    Value(Result<Fingerprint, Error>),
}
