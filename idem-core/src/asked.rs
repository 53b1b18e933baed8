//! The values of the attribute's expressions.

use crate::error::Error;
use crate::identity::Scope;
use crate::record::Input;

/// The values of the attribute's expressions for one request, or for one call of a plain function.
#[derive(Debug)]
pub struct Asked<K, F> {
    /// The owner of the key.
    pub scope: Result<Scope, Error>,
    /// The key, or where it comes from.
    pub key: K,
    /// The values that must be equal on a retry.
    pub fingerprint: F,
    /// The input to record, for a process that resumes the run.
    pub input: Option<Result<Input, Error>>,
}
