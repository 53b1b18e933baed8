//! Finding abandoned runs.

use std::future::Future;

use super::handle::Store;
use crate::error::Error;
use crate::record::Input;

/// A store that finds abandoned runs.
pub trait Recover: Store {
    /// A page of the leased runs of this operation that are not over, whose lease is, and whose input was recorded:
    /// those behind the place, in the order of their places. No run, no further page.
    ///
    /// # Errors
    /// The store could not be asked.
    fn abandoned(
        &self,
        operation: &str,
        after: Option<Place>,
    ) -> impl Future<Output = Result<Vec<Abandoned>, Error>> + Send;
}

/// An abandoned run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// Where it stands among the others.
    pub place: Place,
    /// What its first attempt recorded with `record_input`.
    pub input: Input,
}

/// Where a run stands among those of its operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its scope.
    pub scope: String,
    /// The SHA-256 of its key.
    pub key_hash: Vec<u8>,
}
