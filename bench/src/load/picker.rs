//! Which partition a record goes to, for each key mode. Pure.

use crate::args::KeyMode;
use crate::limits::LANES_MAX;
use crate::workload::Workload;

/// The partitions of one producer's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picker {
    /// Always this one.
    Fixed(u32),
    /// All of them in turn.
    InTurn { next: u32, partitions: u32 },
    /// By the hash of a random key.
    ByKey { partitions: u32 },
}

impl Picker {
    /// The picker of producer `producer`. Producers start at different partitions.
    pub(crate) fn new(workload: &Workload, producer: u32, partitions: u32) -> Self {
        assert!(partitions > 0, "a topic has a partition");
        let own = producer % partitions;
        match (workload.spread, workload.keys) {
            (Some(_), _) | (None, KeyMode::RoundRobinPartitions) => Self::InTurn {
                next: own,
                partitions,
            },
            (None, KeyMode::None) => Self::Fixed(own),
            (None, KeyMode::RandomKeys) => Self::ByKey { partitions },
        }
    }

    /// The next partition, unless the record's key decides.
    pub(crate) fn next(&mut self) -> Option<u32> {
        match self {
            Self::Fixed(partition) => Some(*partition),
            Self::InTurn { next, partitions } => {
                let partition = *next;
                *next = (partition + 1) % *partitions;
                Some(partition)
            }
            Self::ByKey { .. } => None,
        }
    }

    /// In how many lanes the calls of a producer complete independently. A call with records
    /// for many partitions completes with the last of them, so such calls share one lane.
    pub(crate) fn lanes(workload: &Workload, partitions: u32) -> usize {
        let independent = workload.spread.is_none()
            && match workload.keys {
                KeyMode::None => false,
                KeyMode::RoundRobinPartitions => true,
                KeyMode::RandomKeys => workload.batch_records == 1,
            };
        let lanes = if independent {
            partitions.min(LANES_MAX)
        } else {
            1
        };
        usize::try_from(lanes).expect("a few dozen")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::plain;

    fn keyed(keys: KeyMode) -> Workload {
        Workload { keys, ..plain() }
    }

    fn spread(partitions: u32) -> Workload {
        Workload {
            spread: Some(partitions),
            ..plain()
        }
    }

    #[test]
    fn without_keys_a_producer_keeps_to_its_partition() {
        let mut picker = Picker::new(&plain(), 5, 4);
        assert_eq!([picker.next(), picker.next()], [Some(1), Some(1)]);
        assert_eq!(Picker::lanes(&plain(), 4), 1);
    }

    #[test]
    fn in_turn_means_every_partition_once() {
        let workload = keyed(KeyMode::RoundRobinPartitions);
        let mut picker = Picker::new(&workload, 2, 3);
        let partitions: Vec<_> = (0..4).filter_map(|_| picker.next()).collect();
        assert_eq!(partitions, [2, 0, 1, 2]);
        assert_eq!(Picker::lanes(&workload, 3), 3);
        assert_eq!(Picker::lanes(&workload, 100_000), 64);
    }

    #[test]
    fn a_spread_call_completes_as_one() {
        let workload = spread(2);
        let mut picker = Picker::new(&workload, 0, 3);
        let partitions: Vec<_> = (0..4).filter_map(|_| picker.next()).collect();
        assert_eq!(partitions, [0, 1, 2, 0]);
        assert_eq!(Picker::lanes(&workload, 3), 1);
    }

    #[test]
    fn a_random_key_decides_by_itself() {
        let workload = keyed(KeyMode::RandomKeys);
        assert_eq!(Picker::new(&workload, 0, 3).next(), None);
        assert_eq!(Picker::lanes(&workload, 8), 8);
    }
}
