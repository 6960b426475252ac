//! Which partition a record goes to, for each key mode. Pure.

use crate::args::{KeyMode, ShapeArgs};
use crate::limits::LANES_MAX;

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
    pub(crate) fn new(shape: &ShapeArgs, producer: u32, partitions: u32) -> Self {
        assert!(partitions > 0, "a topic has a partition");
        let own = producer % partitions;
        match (shape.spread, shape.key_mode) {
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
    pub(crate) fn lanes(shape: &ShapeArgs, partitions: u32) -> usize {
        let independent = shape.spread.is_none()
            && match shape.key_mode {
                KeyMode::None => false,
                KeyMode::RoundRobinPartitions => true,
                KeyMode::RandomKeys => shape.batch_records == 1,
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
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn shape(options: &str) -> ShapeArgs {
        let line = format!("catena-bench produce --max {options}");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("well formed");
        let Command::Produce(args) = cli.command else {
            panic!("a produce command")
        };
        args.shape
    }

    #[test]
    fn without_keys_a_producer_keeps_to_its_partition() {
        let mut picker = Picker::new(&shape(""), 5, 4);
        assert_eq!([picker.next(), picker.next()], [Some(1), Some(1)]);
        assert_eq!(Picker::lanes(&shape(""), 4), 1);
    }

    #[test]
    fn in_turn_means_every_partition_once() {
        let shape = shape("--key-mode round-robin-partitions");
        let mut picker = Picker::new(&shape, 2, 3);
        let partitions: Vec<_> = (0..4).filter_map(|_| picker.next()).collect();
        assert_eq!(partitions, [2, 0, 1, 2]);
        assert_eq!(Picker::lanes(&shape, 3), 3);
        assert_eq!(Picker::lanes(&shape, 100_000), 64);
    }

    #[test]
    fn a_spread_call_completes_as_one() {
        let shape = shape("--spread 2");
        let mut picker = Picker::new(&shape, 0, 3);
        let partitions: Vec<_> = (0..4).filter_map(|_| picker.next()).collect();
        assert_eq!(partitions, [0, 1, 2, 0]);
        assert_eq!(Picker::lanes(&shape, 3), 1);
    }

    #[test]
    fn a_random_key_decides_by_itself() {
        let shape = shape("--key-mode random-keys");
        assert_eq!(Picker::new(&shape, 0, 3).next(), None);
        assert_eq!(Picker::lanes(&shape, 8), 8);
    }
}
