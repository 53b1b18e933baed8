//! The runs of this process, by identity.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use idem_core::{Fingerprint, Kind, Request};

/// Answers duplicates without a connection and without the write lock. For the lock they would wait until the run that
/// they duplicate has ended.
///
/// This table only spares that wait. The primary key decides which request runs, as it must for other processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<Table>>);

type Table = HashMap<[u8; 32], Place>;

#[derive(Debug, Clone, Copy)]
struct Place {
    fingerprint: Fingerprint,
    /// Whether the primary key has let this request run. Until then another process may be running the key.
    won: bool,
}

impl Running {
    /// What the active run means for the request, if the primary key has confirmed that run.
    pub(super) fn find(&self, request: &Request) -> Option<Kind> {
        let place = self.table().get(&request.identity.digest()).copied()?;
        place.won.then(|| place.means(request))
    }

    /// Enters the request until the returned entry is dropped, or returns what the entered request means for it.
    pub(super) fn enter(&self, request: &Request) -> Result<Entry, Kind> {
        let identity = request.identity.digest();
        let mut table = self.table();
        if let Some(place) = table.get(&identity) {
            return Err(place.means(request));
        }
        table.insert(identity, Place { fingerprint: request.fingerprint, won: false });
        Ok(Entry { running: self.clone(), identity })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics half way through a change of the table.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn means(&self, request: &Request) -> Kind {
        // An entered request that has not won may be about to lose to a record with this request's own reply.
        if self.won && self.fingerprint != request.fingerprint { Kind::KeyReused } else { Kind::KeyInFlight }
    }
}

/// The run is active until the entry is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    running: Running,
    identity: [u8; 32],
}

impl Entry {
    /// Notes that the primary key has let this request run.
    pub(super) fn won(&self) {
        if let Some(place) = self.running.table().get_mut(&self.identity) {
            place.won = true;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.table().remove(&self.identity);
    }
}
