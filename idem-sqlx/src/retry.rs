//! Pauses between two tries at a claim whose answer changed while it was given.

use std::time::Duration;

/// Short at first, for the usual case: somebody was just about to let go. Uneven, so that two who met once do not
/// meet again. About a tenth of a second in all; then the answer is that somebody is running.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    const MILLISECONDS: [u64; 8] = [1, 2, 4, 8, 12, 16, 24, 32];
    MILLISECONDS.into_iter().map(|pause| Duration::from_millis(pause).mul_f64(0.5 + jitter()))
}

/// Between 0 and 1. Randomness of low quality is enough, and this one is at hand: the standard library seeds every
/// hasher anew.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
