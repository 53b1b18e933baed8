//! What a store must provide.
//!
//! A store holds records; a context is one run in it. The framework calls the methods of a context in this order and no
//! other: [`claim`](Context::claim), the handler with `&mut` the context, then exactly one of
//! [`complete`](Context::complete), [`reject`](Context::reject) and [`release`](Context::release), or a drop. A request
//! that is not recorded goes through [`begin_unrecorded`](Context::begin_unrecorded) and
//! [`finish_unrecorded`](Context::finish_unrecorded) instead.
//!
//! # A store as a whole
//! The store in memory (`idem_core::memory`, feature `memory`) keeps all of it. Its rows show what each operation asks
//! before it changes something; `idem-testkit` in the repository tests a store against the same contract.
#![doc = concat!("~~~~ignore\n", include_str!("../memory/rows.rs"), "\n~~~~\nIts transaction, the context of a handler:\n")]
#![doc = concat!("~~~~ignore\n", include_str!("../memory/tx.rs"), "\n~~~~\nIts lease:\n")]
#![doc = concat!("~~~~ignore\n", include_str!("../memory/lease.rs"), "\n~~~~\nIts handle:\n")]
#![doc = concat!("~~~~ignore\n", include_str!("../memory/handle.rs"), "\n~~~~")]

mod context;
mod handle;
mod lease;
mod recover;
mod transaction;

pub use context::{Context, Rejected};
pub use handle::{Claimed, DEFAULT_DEADLINE, RELEASE_PATIENCE, Store};
pub use lease::{Attempt, Lease};
pub use recover::{Abandoned, Place, Recover};
pub use transaction::Transaction;

pub use crate::entry::{Entry, EntryKind};
pub use crate::policy::{Intent, LeaseTerms};
pub use crate::record::{Claim, Format, Input, Outcome, Record, Reply, State, Timestamp};
pub use crate::runs::{Run, Runs};
