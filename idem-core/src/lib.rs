//! Idempotent handlers: claim, effects and reply in one commit.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod disposition;
mod error;
mod fingerprint;
#[cfg(feature = "axum")]
pub mod http;
mod identity;
mod json;
pub mod machine;
mod policy;
mod record;
#[cfg(feature = "axum")]
mod run;
mod runs;
pub mod store;

pub use disposition::Disposition;
pub use error::{Error, Kind};
pub use fingerprint::Fingerprint;
pub use idem_macros::idempotent;
pub use identity::{Identity, Key, Operation, Scope, ToKey, ToScope};
pub use policy::{InFlight, MissingKey, Policy};
pub use record::{Claim, Format, Outcome, Record, Reply, Request, State, Timestamp};
pub use runs::{Run, Runs};
pub use store::{Begun, Context, Rejected, Store};
