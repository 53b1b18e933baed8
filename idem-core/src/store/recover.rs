//! A store that finds abandoned runs.

use std::fmt;
use std::future::Future;

use super::handle::Store;
use crate::error::Error;
use crate::record::Input;
use crate::redacted::{Beginning, Redacted};

/// A store that finds abandoned leased runs.
pub trait Recover: Store {
    /// A page of the abandoned runs of this operation: leased runs that are not over, whose lease has ended, and whose
    /// input was recorded. The page starts after the given place and is ordered by place. An empty page is the last.
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
    /// The place of the run among those of its operation.
    pub place: Place,
    /// The input that the first attempt recorded with `record_input`.
    pub input: Input,
}

/// The place of a run among those of its operation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The scope of the run.
    pub scope: String,
    /// The SHA-256 of the run's key.
    pub key_hash: Vec<u8>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, key) = (Redacted(self.scope.len()), Beginning(&self.key_hash));
        f.debug_struct("Place").field("scope", &scope).field("key_hash", &key).finish()
    }
}
