//! What an end-to-end run acknowledged and received, record by record. Pure.

use super::marks::Marks;
use super::stamp::Stamp;
use crate::report::Delivery;

/// The stamped records one consumer received.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    run: u64,
    /// By producing thread.
    received: Vec<Marks>,
    repeated: u64,
    unique: u64,
}

impl Receipts {
    /// Nothing received yet of run `run` with `threads` producing threads.
    pub(crate) fn new(run: u64, threads: usize) -> Self {
        Self {
            run,
            received: vec![Marks::default(); threads],
            repeated: 0,
            unique: 0,
        }
    }

    /// Notes a record; its intended send time if it is of this run.
    pub(crate) fn note(&mut self, value: &[u8]) -> Option<u64> {
        let stamp = Stamp::read(value, self.run)?;
        let thread = usize::try_from(stamp.thread).ok()?;
        if self.received.get_mut(thread)?.add(stamp.number) {
            self.unique += 1;
        } else {
            self.repeated += 1;
        }
        Some(stamp.intended_ns)
    }

    /// Records received, each counted once.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// Adds what another consumer received; what both did is repeated.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.repeated += other.repeated;
        for (mine, theirs) in self.received.iter_mut().zip(&other.received) {
            self.repeated += mine.merge(theirs);
        }
        self.unique = self.received.iter().map(Marks::count).sum();
    }

    /// Compares with what was acknowledged, by producing thread.
    pub(crate) fn against(&self, acknowledged: &[Marks]) -> Delivery {
        let missing = acknowledged
            .iter()
            .zip(&self.received)
            .map(|(acknowledged, received)| acknowledged.count_missing_from(received));
        Delivery {
            acknowledged: acknowledged.iter().map(Marks::count).sum(),
            received: self.unique,
            missing: missing.sum(),
            repeated: self.repeated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stamp::STAMP_BYTES;
    use super::*;

    fn value(run: u64, thread: u32, number: u64) -> [u8; STAMP_BYTES] {
        let mut value = [0; STAMP_BYTES];
        Stamp {
            run,
            intended_ns: 10 * number,
            number,
            thread,
        }
        .write(&mut value);
        value
    }

    fn marks(numbers: &[u64]) -> Marks {
        let mut marks = Marks::default();
        for number in numbers {
            marks.add(*number);
        }
        marks
    }

    #[test]
    fn acknowledged_records_must_arrive_once() {
        let mut receipts = Receipts::new(1, 2);
        for (thread, number) in [(0, 0), (0, 1), (1, 0), (1, 0)] {
            assert_eq!(receipts.note(&value(1, thread, number)), Some(10 * number));
        }
        let delivery = receipts.against(&[marks(&[0, 1, 2]), marks(&[0])]);
        let expected = Delivery {
            acknowledged: 4,
            received: 3,
            missing: 1,
            repeated: 1,
        };
        assert_eq!(delivery, expected);
    }

    #[test]
    fn records_of_other_runs_and_unknown_threads_are_passed_over() {
        let mut receipts = Receipts::new(1, 1);
        assert_eq!(receipts.note(&value(2, 0, 0)), None);
        assert_eq!(receipts.note(&value(1, 9, 0)), None);
        assert_eq!(receipts.note(b"short"), None);
        assert_eq!(receipts.unique(), 0);
    }

    #[test]
    fn what_two_consumers_received_counts_once_and_as_repeated() {
        let (mut left, mut right) = (Receipts::new(1, 1), Receipts::new(1, 1));
        left.note(&value(1, 0, 0));
        right.note(&value(1, 0, 0));
        right.note(&value(1, 0, 1));
        left.merge(&right);
        let delivery = left.against(&[marks(&[0, 1])]);
        let expected = Delivery {
            acknowledged: 2,
            received: 2,
            missing: 0,
            repeated: 1,
        };
        assert_eq!(delivery, expected);
    }

    #[test]
    fn an_unacknowledged_record_that_arrives_does_not_hide_a_missing_one() {
        let mut receipts = Receipts::new(1, 1);
        receipts.note(&value(1, 0, 5));
        assert_eq!(receipts.against(&[marks(&[4])]).missing, 1);
    }
}
