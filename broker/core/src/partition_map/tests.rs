//! The map against the standard one, and what it costs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn tp(topic: u32, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(TopicPartition, u16),
    Remove(TopicPartition),
    Add(TopicPartition),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Both ends of a page, and the highest partition there can be.
    let partitions = prop_oneof![0..4_u32, 62..67_u32, Just(u32::MAX)];
    let partitions = (1..3_u32, partitions).prop_map(|(topic, partition)| tp(topic, partition));
    let step = (partitions, any::<u16>(), 0..3).prop_map(|(tp, value, kind)| match kind {
        0 => Step::Insert(tp, value),
        1 => Step::Remove(tp),
        _ => Step::Add(tp),
    });
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn it_does_what_the_standard_map_does(steps in steps()) {
        let mut map = PartitionMap::default();
        let mut standard = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(tp, value) => {
                    prop_assert_eq!(map.insert(tp, value), standard.insert(tp, value));
                }
                Step::Remove(tp) => prop_assert_eq!(map.remove(tp), standard.remove(&tp)),
                Step::Add(tp) => {
                    let value = map.get_or_insert_with(tp, || 7);
                    *value = value.wrapping_add(1);
                    let value = standard.entry(tp).or_insert(7);
                    *value = value.wrapping_add(1);
                }
            }
            prop_assert_eq!(map.len(), standard.len());
            prop_assert_eq!(map.is_empty(), standard.is_empty());
            let mut all: Vec<_> = map.iter().map(|(tp, value)| (tp, *value)).collect();
            all.sort_unstable();
            let expected: Vec<_> = standard.iter().map(|(tp, value)| (*tp, *value)).collect();
            prop_assert_eq!(all, expected);
            for (tp, value) in &mut standard {
                prop_assert_eq!(map.get(*tp), Some(&*value));
                prop_assert_eq!(map.get_mut(*tp), Some(value));
            }
        }
    }
}

#[test]
fn a_partition_without_a_value_has_none_whatever_its_neighbours_have() {
    let mut map = PartitionMap::default();
    map.insert(tp(1, 5), 'a');
    for absent in [tp(1, 4), tp(1, 6), tp(1, 5 + PAGE_PARTITIONS), tp(2, 5)] {
        assert_eq!(map.get(absent), None);
        assert!(!map.contains(absent));
        assert_eq!(map.remove(absent), None);
    }
}

#[test]
fn what_is_removed_frees_its_page() {
    let mut map = PartitionMap::default();
    for partition in 0..PAGE_PARTITIONS {
        map.insert(tp(1, partition), 0_u64);
    }
    let full = map.bytes();
    for partition in 0..PAGE_PARTITIONS {
        map.remove(tp(1, partition));
    }
    assert_eq!(map.pages.len(), 0);
    assert!(map.bytes() < full);
}

#[test]
fn a_value_costs_little_in_large_topics_and_in_small_ones() {
    let mut one_large = PartitionMap::default();
    let mut many_small = PartitionMap::default();
    for number in 0..10_000_u32 {
        one_large.insert(tp(1, number), number);
        many_small.insert(tp(number, 0), number);
    }
    assert!(one_large.bytes() <= 10_000 * 12, "{}", one_large.bytes());
    assert!(many_small.bytes() <= 10_000 * 160, "{}", many_small.bytes());
}
