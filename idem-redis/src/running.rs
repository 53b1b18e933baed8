//! The runs of this process, for an operator who asks where a run is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Digest = [u8; 32];

#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<Digest, u32>>>);

/// A run of this process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    running: Running,
    digest: Digest,
}

impl Running {
    pub(crate) fn enter(&self, digest: Digest) -> Entered {
        *self.lock().entry(digest).or_default() += 1;
        Entered { running: self.clone(), digest }
    }

    pub(crate) fn runs(&self, digest: &Digest) -> bool {
        self.lock().contains_key(digest)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, u32>> {
        // Nothing panics under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if let Some(count) = running.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.digest);
            }
        }
    }
}
