//! The runs of this process, by identity.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use idem_core::{Fingerprint, Kind, Request};

/// Answers duplicates without the write lock, for which they would queue behind the run that they duplicate.
///
/// It only spares the queue. Who runs is decided by the primary key, as it must be for other processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<[u8; 32], Fingerprint>>>);

impl Running {
    /// Enters the request until the answer is dropped, or says what the one that is running means for it.
    pub(super) fn enter(&self, request: &Request) -> Result<Entry, Kind> {
        let identity = request.identity.digest();
        let mut table = self.table();
        match table.get(&identity) {
            Some(running) if *running == request.fingerprint => Err(Kind::KeyInFlight),
            Some(_) => Err(Kind::KeyReused),
            None => {
                table.insert(identity, request.fingerprint);
                Ok(Entry { running: self.clone(), identity })
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], Fingerprint>> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that is going on, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    running: Running,
    identity: [u8; 32],
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.table().remove(&self.identity);
    }
}
