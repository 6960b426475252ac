//! The index in memory finds what a plain list of extents finds, frozen or not.

use std::collections::BTreeMap;

use catena_protocol::ids::{PartitionId, TopicId};
use proptest::prelude::*;

use super::*;
use crate::ids::{JournalId, SegmentSeq};

pub(super) fn partition(number: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(1 + number / 3),
        partition: PartitionId(number % 3),
    }
}

pub(super) fn extent(base: u64, end: u64, place: u32) -> Extent {
    let offset = place * 4096;
    let (journal, segment) = (JournalId(3), SegmentSeq(1 + place / 50));
    Extent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        block: BlockLocation {
            journal,
            segment,
            offset,
            bytes: 8192,
        },
        offset_in_block: 128,
        bytes: 1024 + place,
        max_timestamp_ms: 1_000 + i64::from(place),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert {
        partition: u32,
        gap: u64,
        records: u64,
    },
    Freeze,
    Thaw,
    Trim {
        partition: u32,
        offset: u64,
    },
    Forget {
        partition: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..6u32, prop_oneof![9 => Just(0), 1 => 1..5u64], 1..9u64)
            .prop_map(|(partition, gap, records)| Op::Insert { partition, gap, records }),
        1 => Just(Op::Freeze),
        1 => Just(Op::Thaw),
        1 => (0..6u32, 0..60u64).prop_map(|(partition, offset)| Op::Trim { partition, offset }),
        1 => (0..6u32).prop_map(|partition| Op::Forget { partition }),
    ]
}

/// All extents with whether they are frozen, in plain vectors.
#[derive(Default)]
struct Model {
    extents: BTreeMap<TopicPartition, Vec<(Extent, bool)>>,
    has_frozen: bool,
}

impl Model {
    fn apply(&mut self, index: &mut MemIndex, op: &Op, ends: &mut BTreeMap<u32, u64>, place: u32) {
        match *op {
            Op::Insert {
                partition: number,
                gap,
                records,
            } => {
                let end = ends.entry(number).or_default();
                let added = extent(*end + gap, *end + gap + records, place);
                *end += gap + records;
                self.extents
                    .entry(partition(number))
                    .or_default()
                    .push((added, false));
                index.insert(partition(number), added);
            }
            Op::Freeze if !self.has_frozen => {
                self.has_frozen = true;
                self.extents
                    .values_mut()
                    .flatten()
                    .for_each(|entry| entry.1 = true);
                index.freeze();
            }
            Op::Thaw if self.has_frozen => {
                self.has_frozen = false;
                self.extents
                    .values_mut()
                    .for_each(|extents| extents.retain(|entry| !entry.1));
                index.thaw_done();
            }
            Op::Trim {
                partition: number,
                offset,
            } => {
                index.trim(partition(number), Offset(offset));
                let extents = self.extents.entry(partition(number)).or_default();
                extents.retain(|entry| entry.0.end_offset > Offset(offset));
            }
            Op::Forget { partition: number } => {
                index.forget(partition(number));
                self.extents.remove(&partition(number));
            }
            Op::Freeze | Op::Thaw => {}
        }
        self.extents.retain(|_, extents| !extents.is_empty());
    }

    fn floor(&self, tp: TopicPartition, offset: u64) -> Vec<Extent> {
        let extents = self.extents.get(&tp).into_iter().flatten();
        extents
            .map(|entry| entry.0)
            .filter(|e| e.end_offset > Offset(offset))
            .collect()
    }

    fn frozen(&self) -> Vec<(TopicPartition, Vec<Extent>)> {
        let frozen_of = |extents: &Vec<(Extent, bool)>| {
            extents
                .iter()
                .filter(|e| e.1)
                .map(|e| e.0)
                .collect::<Vec<_>>()
        };
        let all = self
            .extents
            .iter()
            .map(|(tp, extents)| (*tp, frozen_of(extents)));
        all.filter(|(_, extents)| !extents.is_empty()).collect()
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_a_plain_list_finds(
        ops in prop::collection::vec(op(), 1..120),
        probes in prop::collection::vec((0..6u32, 0..80u64, 1..9usize), 20),
    ) {
        let (mut index, mut model) = (MemIndex::default(), Model::default());
        let mut ends = BTreeMap::new();
        for (place, op) in (0u32..).zip(&ops) {
            model.apply(&mut index, op, &mut ends, place);
            let partitions = index.frozen_partitions();
            let frozen = index.frozen_of(&partitions);
            let frozen: Vec<_> = partitions.into_iter().zip(frozen).collect();
            prop_assert_eq!(frozen, model.frozen());
        }
        for (number, offset, max) in probes {
            let tp = partition(number);
            let expected = model.floor(tp, offset);
            prop_assert_eq!(index.floor(tp, Offset(offset), usize::MAX), &expected[..]);
            let first = &expected[..max.min(expected.len())];
            prop_assert_eq!(index.floor(tp, Offset(offset), max), first);
            let time = 1_000 + i64::try_from(offset).expect("small");
            let by_time = model.floor(tp, 0).into_iter().find(|e| e.max_timestamp_ms >= time);
            prop_assert_eq!(index.floor_time(tp, time), by_time);
        }
        prop_assert_eq!(index.is_empty(), model.extents.is_empty());
    }
}

#[test]
fn a_long_partition_is_found_at_every_distance() {
    let mut index = MemIndex::default();
    let count = 10_000_u32;
    for number in 0..count {
        let base = u64::from(number) * 3;
        index.insert(partition(0), extent(base, base + 3, number));
        index.insert(partition(1), extent(base, base + 1, number));
    }
    index.trim(partition(0), Offset(1_500));
    for number in (0..count).step_by(7) {
        let offset = u64::from(number) * 3 + 1;
        let found = index.floor(partition(0), Offset(offset), 5);
        let first = number.max(500);
        let places: Vec<u32> = (first..count.min(first + 5)).collect();
        let found: Vec<u32> = found.iter().map(|extent| extent.bytes - 1024).collect();
        assert_eq!(found, places, "from offset {offset}");
    }
}

#[test]
fn a_thawed_index_gives_its_memory_back() {
    let mut index = MemIndex::default();
    for number in 0..10_000 {
        index.insert(partition(number), extent(0, 1, 1));
    }
    let full = index.bytes();
    index.freeze();
    assert_eq!(index.bytes(), full, "freezing moves nothing");
    index.thaw_done();
    assert!(index.is_empty());
    assert!(
        index.bytes() < full / 20,
        "{} of {full} bytes are left",
        index.bytes()
    );
}

#[test]
#[should_panic(expected = "inserted behind the end")]
fn an_extent_behind_the_end_is_a_bug() {
    let mut index = MemIndex::default();
    index.insert(partition(0), extent(0, 10, 1));
    index.insert(partition(0), extent(9, 12, 2));
}
