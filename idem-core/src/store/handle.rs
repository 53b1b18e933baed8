//! A store, and what it says to a request.

use crate::error::Kind;
use crate::record::Reply;
use crate::runs::Runs;

/// Where records are kept. A cheap handle: clones share everything.
pub trait Store: Clone + Send + Sync + 'static {
    /// The longest reply that is stored, in bytes of its headers and body. A longer one leaves a tombstone.
    fn reply_limit(&self) -> usize;

    /// The runs that are going on, so that a shutdown can wait for them.
    fn runs(&self) -> &Runs;
}

/// What a store says to a request.
#[derive(Debug)]
pub enum Claimed<T> {
    /// The identity is claimed: run the handler with this.
    Run(T),
    /// It ran: answer with this.
    Replay(Reply),
    /// It must not run now, and there is no reply to give. [`Kind::KeyInFlight`] may be asked again.
    Refuse(Kind),
}
