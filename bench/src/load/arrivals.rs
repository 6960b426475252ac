//! What the threads of a run tell each other: whether all that was acknowledged has arrived.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts of all threads.
#[derive(Debug)]
pub(crate) struct Arrivals {
    threads: usize,
    /// Ends of producing: one for each thread and phase.
    ends: AtomicUsize,
    acknowledged: AtomicU64,
    received: AtomicU64,
    /// Not awaited any more, since a whole drain was not enough for them.
    given_up: AtomicU64,
    /// Received again, by phase.
    replayed: Vec<AtomicU64>,
}

impl Arrivals {
    pub(crate) fn new(threads: usize, phases: usize) -> Self {
        Self {
            threads,
            ends: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            received: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            replayed: (0..phases).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A thread has had its last answer of a phase.
    pub(crate) fn produced(&self, acknowledged: u64) {
        self.acknowledged.fetch_add(acknowledged, Ordering::AcqRel);
        self.ends.fetch_add(1, Ordering::AcqRel);
    }

    /// Records were received for the first time.
    pub(crate) fn received(&self, records: u64) {
        self.received.fetch_add(records, Ordering::AcqRel);
    }

    /// Records were read again in the replay that is phase `phase`.
    pub(crate) fn replayed(&self, phase: usize, records: u64) {
        self.replayed[phase].fetch_add(records, Ordering::AcqRel);
    }

    /// What has not arrived by now is not awaited again: a record lost in one phase must not hold
    /// up the end of every later one.
    pub(crate) fn give_up(&self) {
        let missing = self
            .acknowledged
            .load(Ordering::Acquire)
            .saturating_sub(self.received.load(Ordering::Acquire));
        self.given_up.fetch_max(missing, Ordering::AcqRel);
    }

    /// Whether nothing more is to come in phase `phase`.
    pub(crate) fn are_complete(&self, phase: usize) -> bool {
        self.ends.load(Ordering::Acquire) >= self.threads * (phase + 1)
            && self.received.load(Ordering::Acquire) + self.given_up.load(Ordering::Acquire)
                >= self.acknowledged.load(Ordering::Acquire)
    }

    /// Whether the replay that is phase `phase` has read all that was acknowledged.
    pub(crate) fn are_replayed(&self, phase: usize) -> bool {
        self.replayed[phase].load(Ordering::Acquire) >= self.acknowledged.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_complete_when_all_threads_have_ended_and_everything_is_there() {
        let arrivals = Arrivals::new(2, 2);
        arrivals.produced(10);
        arrivals.received(15);
        assert!(!arrivals.are_complete(0), "one thread still produces");
        arrivals.produced(10);
        assert!(!arrivals.are_complete(0), "five records are on their way");
        arrivals.received(5);
        assert!(arrivals.are_complete(0));
        assert!(!arrivals.are_complete(1), "the next phase has not ended");
        arrivals.produced(10);
        arrivals.produced(0);
        arrivals.received(7);
        assert!(!arrivals.are_complete(1), "three records are missing");
        arrivals.give_up();
        assert!(arrivals.are_complete(1));
        assert!(!arrivals.are_replayed(1));
        arrivals.replayed(1, 30);
        assert!(arrivals.are_replayed(1));
    }
}
