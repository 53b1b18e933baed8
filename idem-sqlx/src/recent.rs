//! The identities whose runs this process has finished, or replayed, a short while ago.

use std::sync::atomic::{AtomicU64, Ordering};

/// A guess at whether a request is a retry. It is right often enough to choose which statement to send first, and it
/// decides nothing else. A wrong guess costs one look-up.
///
/// Each identity has one slot. A later identity with the same slot overwrites it.
pub(crate) struct RecentlyFinished(Box<[AtomicU64]>);

impl RecentlyFinished {
    /// 32 KiB: some thousands of requests, which covers a client's first retries.
    const SLOTS: usize = 4096;

    pub(crate) fn new() -> Self {
        Self((0..Self::SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn insert(&self, digest: &[u8; 32]) {
        let (slot, mark) = self.slot(digest);
        slot.store(mark, Ordering::Relaxed);
    }

    pub(crate) fn contains(&self, digest: &[u8; 32]) -> bool {
        let (slot, mark) = self.slot(digest);
        slot.load(Ordering::Relaxed) == mark
    }

    fn slot(&self, digest: &[u8; 32]) -> (&AtomicU64, u64) {
        let mark = word(digest);
        (&self.0[mark as usize % Self::SLOTS], mark)
    }
}

/// The first eight bytes of a digest.
pub(crate) fn word(digest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_identity_is_remembered_until_another_takes_its_slot() {
        let recent = RecentlyFinished::new();
        let (one, mut other) = ([7; 32], [7; 32]);
        other[0] = 8;
        assert!(!recent.contains(&one));
        recent.insert(&one);
        assert!(recent.contains(&one));
        assert!(!recent.contains(&other));
        recent.insert(&other);
        assert!(recent.contains(&other) && !recent.contains(&one), "both have the slot of their low bits");
    }
}
