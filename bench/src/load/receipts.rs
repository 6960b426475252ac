//! What a run acknowledged and received, record by record. Pure.

use std::collections::HashMap;

use super::marks::Marks;
use super::stamp::Stamp;
use crate::report::Delivery;

/// The stamped records that one pass over the topic received.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    run: u64,
    /// By producer.
    received: Vec<Marks>,
    /// The number that a producer's next record in a partition must have at least, by partition
    /// and producer.
    next: HashMap<(u32, u32), u64>,
    repeated: u64,
    out_of_order: u64,
    unique: u64,
}

impl Receipts {
    /// Nothing received yet of run `run` with `producers` producers.
    pub(crate) fn new(run: u64, producers: u32) -> Self {
        let producers = usize::try_from(producers).expect("u32 fits usize");
        Self {
            run,
            received: vec![Marks::default(); producers],
            next: HashMap::new(),
            repeated: 0,
            out_of_order: 0,
            unique: 0,
        }
    }

    /// Notes a record of `partition`; its intended send time if it is of this run.
    pub(crate) fn note(&mut self, partition: u32, value: &[u8]) -> Option<u64> {
        let stamp = Stamp::read(value, self.run)?;
        let producer = usize::try_from(stamp.producer).ok()?;
        if !self.received.get_mut(producer)?.add(stamp.number) {
            self.repeated += 1;
            return Some(stamp.intended_ns);
        }
        self.unique += 1;
        let next = self.next.entry((partition, stamp.producer)).or_default();
        if stamp.number < *next {
            self.out_of_order += 1;
        } else {
            *next = stamp.number + 1;
        }
        Some(stamp.intended_ns)
    }

    /// Records received, each counted once.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// Adds what another consumer received of other partitions; what both did is repeated.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        for (mine, theirs) in self.received.iter_mut().zip(&other.received) {
            self.repeated += mine.merge(theirs);
        }
        self.unique = self.received.iter().map(Marks::count).sum();
    }

    /// Compares with what was acknowledged, by producer.
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
            out_of_order: self.out_of_order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STAMP_BYTES;

    fn value(run: u64, producer: u32, number: u64) -> [u8; STAMP_BYTES] {
        let mut value = [0; STAMP_BYTES];
        Stamp {
            run,
            intended_ns: 10 * number,
            number,
            producer,
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
        for (producer, number) in [(0, 0), (0, 1), (1, 0), (1, 0)] {
            let value = value(1, producer, number);
            assert_eq!(receipts.note(0, &value), Some(10 * number));
        }
        let delivery = receipts.against(&[marks(&[0, 1, 2]), marks(&[0])]);
        let expected = Delivery {
            acknowledged: 4,
            received: 3,
            missing: 1,
            repeated: 1,
            out_of_order: 0,
        };
        assert_eq!(delivery, expected);
    }

    #[test]
    fn a_producers_records_must_arrive_in_order_within_a_partition() {
        let mut receipts = Receipts::new(1, 2);
        for (partition, producer, number) in [
            (0, 0, 0),
            (0, 0, 2),
            (1, 0, 1),
            (0, 1, 1),
            (1, 1, 0),
            (0, 0, 3),
        ] {
            receipts.note(partition, &value(1, producer, number));
        }
        assert_eq!(receipts.against(&[]).out_of_order, 0);
        receipts.note(1, &value(1, 0, 9));
        receipts.note(1, &value(1, 0, 8));
        assert_eq!(receipts.against(&[]).out_of_order, 1);
        receipts.note(1, &value(1, 0, 9));
        let delivery = receipts.against(&[]);
        assert_eq!((delivery.out_of_order, delivery.repeated), (1, 1));
    }

    #[test]
    fn records_of_other_runs_and_unknown_producers_are_passed_over() {
        let mut receipts = Receipts::new(1, 1);
        assert_eq!(receipts.note(0, &value(2, 0, 0)), None);
        assert_eq!(receipts.note(0, &value(1, 9, 0)), None);
        assert_eq!(receipts.note(0, b"short"), None);
        assert_eq!(receipts.unique(), 0);
    }

    #[test]
    fn what_two_consumers_received_counts_once_and_as_repeated() {
        let (mut left, mut right) = (Receipts::new(1, 1), Receipts::new(1, 1));
        left.note(0, &value(1, 0, 0));
        right.note(0, &value(1, 0, 0));
        right.note(0, &value(1, 0, 1));
        left.merge(&right);
        let delivery = left.against(&[marks(&[0, 1])]);
        let expected = Delivery {
            acknowledged: 2,
            received: 2,
            missing: 0,
            repeated: 1,
            out_of_order: 0,
        };
        assert_eq!(delivery, expected);
    }

    #[test]
    fn an_unacknowledged_record_that_arrives_does_not_hide_a_missing_one() {
        let mut receipts = Receipts::new(1, 1);
        receipts.note(0, &value(1, 0, 5));
        assert_eq!(receipts.against(&[marks(&[4])]).missing, 1);
    }
}
