//! Pauses between two tries: at a claim that lost a race, or at a poisoning or a look-up that failed.

use std::time::Duration;

/// Short at first, because the other claimant is usually about to give the key up. Random, so that two claimants that
/// met once do not meet again. About a tenth of a second in all; after that, a claim is refused as in flight.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    const MILLISECONDS: [u64; 8] = [1, 2, 4, 8, 12, 16, 24, 32];
    MILLISECONDS.into_iter().map(|pause| Duration::from_millis(pause).mul_f64(0.5 + jitter()))
}

/// The same pauses, and then a tenth of a second again and again: for what a deadline ends.
pub(crate) fn pauses_without_end() -> impl Iterator<Item = Duration> {
    pauses().chain(std::iter::repeat(Duration::from_millis(100)))
}

/// Between 0 and 1. Randomness of low quality is enough, and the standard library has it: it gives every hasher a new
/// seed.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
