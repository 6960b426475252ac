//! Retention drops whole extents: never more than the policy allows, never what is uncommitted.

use catena_protocol::ids::{ChainId, PartitionId, TopicId};
use proptest::prelude::*;

use super::*;
use crate::checkpoint::{ChainSection, PartitionRow};
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::log::ShardLog;

const NOW_MS: i64 = 10_000;

fn tp() -> TopicPartition {
    TopicPartition {
        topic: TopicId(1),
        partition: PartitionId(0),
    }
}

/// A partition of these (bytes, timestamp) extents, ten records each, the first at `base`.
fn partition(base: u64, parts: &[(u32, i64)], committed: usize) -> (PartitionState, Vec<Extent>) {
    let mut extents = Vec::new();
    for (index, (bytes, max_timestamp_ms)) in (0u64..).zip(parts) {
        extents.push(Extent {
            base_offset: Offset(base + index * 10),
            end_offset: Offset(base + index * 10 + 10),
            block: BlockLocation {
                journal: JournalId(1),
                segment: SegmentSeq(1),
                offset: 4096,
                bytes: 4096,
            },
            offset_in_block: 128,
            bytes: *bytes,
            max_timestamp_ms: *max_timestamp_ms,
        });
    }
    let kept = &extents[..committed];
    let row = PartitionRow {
        tp: tp(),
        log_start: Offset(base),
        log_end: kept.last().map_or(Offset(base), |extent| extent.end_offset),
        bytes: kept.iter().map(|extent| u64::from(extent.bytes)).sum(),
        first_timestamp_ms: kept.first().map_or(0, |extent| extent.max_timestamp_ms),
        append_time_ms: 0,
    };
    let mut log = ShardLog::default();
    let section = ChainSection {
        partitions: vec![row],
        ..ChainSection::fresh(ChainId(1))
    };
    log.open_chain(section, catena_protocol::ids::ChainEpoch(1))
        .expect("a fresh log");
    (log.partition(tp()).expect("just opened").clone(), extents)
}

#[test]
fn size_keeps_at_least_its_limit_and_age_all_that_is_young() {
    let parts = [(100, 1_000), (100, 2_000), (100, 1_500), (100, 9_000)];
    let (state, extents) = partition(50, &parts, 4);
    let cases = [
        (
            Policy {
                bytes: None,
                age_ms: None,
            },
            None,
        ),
        (
            Policy {
                bytes: Some(400),
                age_ms: None,
            },
            None,
        ),
        (
            Policy {
                bytes: Some(301),
                age_ms: None,
            },
            None,
        ),
        (
            Policy {
                bytes: Some(300),
                age_ms: None,
            },
            Some((60, 100, 2_000)),
        ),
        (
            Policy {
                bytes: Some(150),
                age_ms: None,
            },
            Some((70, 200, 1_500)),
        ),
        (
            Policy {
                bytes: Some(0),
                age_ms: None,
            },
            Some((90, 400, i64::MIN)),
        ),
        (
            Policy {
                bytes: None,
                age_ms: Some(9_000),
            },
            None,
        ),
        (
            Policy {
                bytes: None,
                age_ms: Some(8_999),
            },
            Some((60, 100, 2_000)),
        ),
        (
            Policy {
                bytes: None,
                age_ms: Some(7_000),
            },
            Some((80, 300, 9_000)),
        ),
        (
            Policy {
                bytes: Some(300),
                age_ms: Some(7_000),
            },
            Some((80, 300, 9_000)),
        ),
        (
            Policy {
                bytes: None,
                age_ms: Some(u64::MAX),
            },
            None,
        ),
    ];
    for (policy, expected) in cases {
        let found = trim_to(policy, NOW_MS, &state, &extents);
        let expected = expected.map(|(log_start, dropped_bytes, first_timestamp_ms)| TrimPoint {
            log_start: Offset(log_start),
            dropped_bytes,
            first_timestamp_ms,
        });
        assert_eq!(found, expected, "{policy:?}");
        assert!(
            policy.may_trim(NOW_MS, &state) || expected.is_none(),
            "{policy:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_stays_is_enough_and_what_goes_was_allowed_to(
        parts in prop::collection::vec((1..1_000u32, 0..12_000i64), 0..20),
        uncommitted in 0..3usize,
        bytes in prop::option::of(0..5_000u64),
        age_ms in prop::option::of(0..12_000u64),
    ) {
        let committed = parts.len().saturating_sub(uncommitted);
        let (state, extents) = partition(7, &parts, committed);
        let policy = Policy { bytes, age_ms };
        let point = trim_to(policy, NOW_MS, &state, &extents);
        let log_start = point.map_or(state.log_start, |point| point.log_start);
        prop_assert!(log_start <= state.high_watermark);

        let split = extents.partition_point(|extent| extent.end_offset <= log_start);
        let (gone, stay) = extents.split_at(split);
        prop_assert!(stay.first().is_none_or(|extent| extent.base_offset == log_start));
        let sum = |list: &[Extent]| list.iter().map(|e| u64::from(e.bytes)).sum::<u64>();
        prop_assert_eq!(point.map_or(0, |point| point.dropped_bytes), sum(gone));
        let oldest_ms = age_ms.map(|age| i128::from(NOW_MS) - i128::from(age));
        let old = |extent: &Extent| {
            oldest_ms.is_some_and(|oldest| i128::from(extent.max_timestamp_ms) < oldest)
        };
        for (index, extent) in gone.iter().enumerate() {
            let left = sum(&extents[index + 1..committed]);
            prop_assert!(old(extent) || bytes.is_some_and(|limit| left >= limit));
        }
        if let Some(extent) = stay.first() && extent.end_offset <= state.high_watermark {
            let left = sum(&extents[split + 1..committed]);
            prop_assert!(!old(extent) && bytes.is_none_or(|limit| left < limit));
        }
    }
}
