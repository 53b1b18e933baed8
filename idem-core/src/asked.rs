//! What the attribute's expressions say about one request.

use crate::error::Error;
use crate::identity::Scope;
use crate::record::Input;

/// What the attribute's expressions said about one request, or one call of a plain function.
#[derive(Debug)]
pub struct Asked<K, F> {
    /// Who owns the key.
    pub scope: Result<Scope, Error>,
    /// The key, or where it comes from.
    pub key: K,
    /// What must be equal on a retry.
    pub fingerprint: F,
    /// What is recorded for a process that resumes the run.
    pub input: Option<Result<Input, Error>>,
}
