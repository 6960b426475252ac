//! When the next group commit starts. One group is in flight at a time; an idle journal starts at
//! once; under many small requests groups are spaced, so that the device sees about 2,000 flushes
//! a second and each carries more.
//!
//! Invariant: light load never waits. Gathering needs two groups in a row that were full of
//! requests yet small in bytes, and one that was not ends it.

use crate::limits::{DSYNC_BYTES_MAX, GATHER_INTERVAL_US, GATHER_REQUESTS_MIN};

/// When to start the next group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At once.
    Now,
    /// At this time (microseconds, the same clock as `now_us`), or ask again when more arrives.
    At(u64),
    /// Not before something changes: nothing is pending, or a group is in flight.
    Wait,
}

/// Decides when groups start.
///
/// ```
/// use catena_core::group::{GroupPolicy, Start};
///
/// let mut policy = GroupPolicy::new();
/// assert_eq!(policy.decide(1_000, 1, 500, false), Start::Now);
/// policy.on_group_start(1_000, 1, 500);
/// assert_eq!(policy.decide(1_010, 3, 900, true), Start::Wait);
/// assert_eq!(policy.on_group_end(1_090), 90);
/// assert_eq!(policy.decide(1_090, 3, 900, false), Start::Now);
/// ```
#[derive(Clone, Debug, Default)]
pub struct GroupPolicy {
    /// Whether the last group, and the one before it, called for gathering.
    called: [bool; 2],
    /// When the group in flight, or the last one, began.
    started_us: u64,
    in_flight: bool,
}

impl GroupPolicy {
    /// A policy that has seen no group: the first starts at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a group of so many requests and bytes began.
    ///
    /// # Panics
    /// If another is in flight: two groups at once would let an ack overtake a flush.
    pub fn on_group_start(&mut self, now_us: u64, requests: u32, bytes: usize) {
        assert!(!self.in_flight, "one group is in flight per journal");
        let calls = requests >= GATHER_REQUESTS_MIN && bytes < DSYNC_BYTES_MAX;
        self.called = [calls, self.called[0]];
        self.started_us = now_us;
        self.in_flight = true;
    }

    /// Notes that the group is flushed and returns how long it took, in microseconds.
    ///
    /// # Panics
    /// If none is in flight.
    pub fn on_group_end(&mut self, now_us: u64) -> u64 {
        assert!(self.in_flight, "a group ends once");
        self.in_flight = false;
        now_us.saturating_sub(self.started_us)
    }

    /// Whether groups are being spaced.
    pub const fn gathering(&self) -> bool {
        self.called[0] && self.called[1]
    }

    /// Decides for what is pending now. `busy` says that the journal cannot take a group for
    /// another reason of the caller's, such as opening a segment.
    pub fn decide(
        &self,
        now_us: u64,
        pending_requests: u32,
        pending_bytes: usize,
        busy: bool,
    ) -> Start {
        let nothing = pending_requests == 0 && pending_bytes == 0;
        if nothing || busy || self.in_flight {
            return Start::Wait;
        }
        let earliest_us = self.started_us.saturating_add(GATHER_INTERVAL_US);
        if self.gathering() && now_us < earliest_us {
            return Start::At(earliest_us);
        }
        Start::Now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: usize = 10_000;

    /// When it starts, its requests, its bytes.
    type Group = (u64, u32, usize);

    /// Runs groups of (start, requests, bytes), each over before the next, and decides after them.
    fn decide_after(groups: &[Group], now_us: u64) -> Start {
        let mut policy = GroupPolicy::new();
        for &(start_us, requests, bytes) in groups {
            policy.on_group_start(start_us, requests, bytes);
            policy.on_group_end(start_us + 1);
        }
        policy.decide(now_us, 1, 100, false)
    }

    #[test]
    fn groups_are_spaced_only_after_two_small_busy_ones() {
        let table: &[(&[Group], u64, Start)] = &[
            (&[], 0, Start::Now),
            (&[(0, 16, SMALL)], 100, Start::Now),
            (&[(0, 16, SMALL), (100, 16, SMALL)], 200, Start::At(600)),
            (&[(0, 16, SMALL), (100, 16, SMALL)], 599, Start::At(600)),
            (&[(0, 16, SMALL), (100, 16, SMALL)], 600, Start::Now),
            (&[(0, 15, SMALL), (100, 16, SMALL)], 200, Start::Now),
            (&[(0, 16, SMALL), (100, 15, SMALL)], 200, Start::Now),
            (
                &[(0, 16, SMALL), (100, 16, DSYNC_BYTES_MAX)],
                200,
                Start::Now,
            ),
            (
                &[(0, 16, SMALL), (100, 16, DSYNC_BYTES_MAX - 1)],
                200,
                Start::At(600),
            ),
            (
                &[(0, 1, SMALL), (9, 99, SMALL), (100, 99, SMALL)],
                200,
                Start::At(600),
            ),
        ];
        for (groups, now_us, expected) in table {
            assert_eq!(
                decide_after(groups, *now_us),
                *expected,
                "{groups:?} at {now_us}"
            );
        }
    }

    #[test]
    fn nothing_starts_without_work_or_beside_a_group() {
        let mut policy = GroupPolicy::new();
        assert_eq!(policy.decide(0, 0, 0, false), Start::Wait);
        assert_eq!(policy.decide(0, 1, 8, true), Start::Wait);
        policy.on_group_start(0, 1, 8);
        assert_eq!(policy.decide(1, 9, 8, false), Start::Wait);
        assert_eq!(policy.on_group_end(80), 80);
        assert_eq!(policy.decide(80, 9, 8, false), Start::Now);
    }

    #[test]
    #[should_panic(expected = "one group is in flight per journal")]
    fn two_groups_at_once_are_a_bug() {
        let mut policy = GroupPolicy::new();
        policy.on_group_start(0, 1, 8);
        policy.on_group_start(1, 1, 8);
    }

    proptest! {
        #[test]
        fn under_any_load_a_group_waits_at_most_the_gather_interval(
            groups in proptest::collection::vec((1u64..2000, 0u32..64, 0usize..1 << 20), 0..20),
        ) {
            let mut policy = GroupPolicy::new();
            let mut now_us = 0;
            let mut last_start_us = None;
            for (work_us, requests, bytes) in groups {
                match policy.decide(now_us, 1, 1, false) {
                    Start::Now => {}
                    Start::At(at_us) => {
                        let began_us: u64 = last_start_us.expect("gathering follows a group");
                        prop_assert!(at_us > now_us);
                        prop_assert_eq!(at_us, began_us + GATHER_INTERVAL_US);
                        now_us = at_us;
                        prop_assert_eq!(policy.decide(now_us, 1, 1, false), Start::Now);
                    }
                    Start::Wait => prop_assert!(false, "work is pending and nothing in flight"),
                }
                policy.on_group_start(now_us, requests, bytes);
                last_start_us = Some(now_us);
                now_us += work_us;
                policy.on_group_end(now_us);
            }
        }
    }
}
