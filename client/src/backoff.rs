//! Jittered exponential back-off.
//!
//! Invariant: a pause lies in `[half, full]` of a step that doubles from `BACKOFF_MIN` to
//! `BACKOFF_MAX`, so that clients that failed together do not return together. Plain values with
//! a generator of their own (`SplitMix64`); any thread.

use std::time::Duration;

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};

/// Where a retry stands.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// `seed` decides the jitter; equal seeds give equal pauses.
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: seed,
        }
    }

    /// The pause before the next attempt, longer each time.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let step = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let half_us = u64::try_from(step.as_micros() / 2).unwrap_or(u64::MAX);
        Duration::from_micros(half_us + self.next_random() % half_us.max(1))
    }

    /// Failures since the last success.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    /// The next pause is the shortest again.
    pub(crate) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A seed that differs between clients and calls.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_start_over_after_success() {
        let mut backoff = Backoff::new(7);
        let pauses: Vec<_> = (0..20).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] >= BACKOFF_MIN / 2 && pauses[0] <= BACKOFF_MIN);
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF_MAX));
        assert!(pauses[19] >= BACKOFF_MAX / 2);
        assert_eq!(backoff.failures(), 20);
        backoff.succeeded();
        assert!(backoff.next_pause() <= BACKOFF_MIN);
    }

    #[test]
    fn one_seed_gives_one_series() {
        let (mut one, mut two) = (Backoff::new(1), Backoff::new(1));
        assert!((0..8).all(|_| one.next_pause() == two.next_pause()));
    }
}
