//! A store that finds abandoned runs.

use std::fmt;
use std::future::Future;

use super::handle::Store;
use crate::error::Error;
use crate::identity::Identity;
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

    /// The place at which the run of this identity is stored.
    fn place(&self, identity: &Identity) -> Place;
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
    /// The hash of the run's key, as it is stored.
    pub key_hash: Vec<u8>,
}

impl Place {
    /// The place of an identity as it is stored.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self { scope: identity.scope.as_str().to_owned(), key_hash: identity.key.hash().to_vec() }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, key) = (Redacted(self.scope.len()), Beginning(&self.key_hash));
        f.debug_struct("Place").field("scope", &scope).field("key_hash", &key).finish()
    }
}
