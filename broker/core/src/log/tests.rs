//! Admission, commit and the chains' links: what each event changes, and that a refusal does not.

use catena_protocol::batch::{BatchError, BatchHeader};
use catena_protocol::ids::{
    ChainEpoch, ChainId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
    TopicPartition,
};

use super::*;
use crate::block::PlacedRow;
use crate::checkpoint::ChainSection;
use crate::entry::FrameKind;
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::index::{Extent, MemIndex};
use harness::{Harness, batch, tp};

mod harness;
mod lost;
mod replay;

#[test]
fn offsets_are_given_at_admission_and_seen_at_commit() {
    let mut harness = Harness::new();
    let log = &mut harness.log;
    for base in [0, 3, 6] {
        let admitted = log.admit(tp(0), &batch(0, 0, 0, 3), 50).expect("valid");
        assert_eq!(admitted.base_offset, Offset(base));
    }
    let state = log.partition(tp(0)).expect("it exists");
    assert_eq!(
        (state.high_watermark, state.log_end),
        (Offset(0), Offset(9))
    );
    harness.queue_admitted();
    harness.place_all();
    harness.commit_all();
    let state = harness.log.partition(tp(0)).expect("it exists");
    assert_eq!(
        (state.high_watermark, state.log_end),
        (Offset(9), Offset(9))
    );
    assert!(!state.has_uncommitted());
}

#[test]
fn append_times_never_decrease() {
    let mut harness = Harness::new();
    let times: Vec<i64> = [100, 90, 110, 5]
        .map(|now| {
            harness
                .log
                .admit(tp(0), &batch(0, 0, 0, 1), now)
                .expect("valid")
                .append_time_ms
        })
        .to_vec();
    assert_eq!(times, [100, 100, 110, 110]);
    let elsewhere = harness
        .log
        .admit(tp(1), &batch(0, 0, 0, 1), 5)
        .expect("valid");
    assert_eq!(elsewhere.append_time_ms, 5);
}

#[test]
fn each_refusal_names_what_disagrees_and_changes_nothing() {
    let mut harness = Harness::new();
    let log = &mut harness.log;
    log.admit(tp(0), &batch(9, 3, 0, 10), 50).expect("valid");
    let nowhere = TopicPartition {
        topic: TopicId(99),
        partition: PartitionId(0),
    };
    let empty = BatchHeader {
        record_count: 0,
        ..batch(0, 0, 0, 1)
    };
    let sparse = BatchHeader {
        record_count: 2,
        last_offset_delta: 4,
        ..batch(0, 0, 0, 1)
    };
    let counts = |record_count, last_offset_delta| {
        ProduceRefusal::InvalidBatch(BatchError::Counts {
            record_count,
            last_offset_delta,
        })
    };
    let producer = ProducerId(9);
    let cases = [
        (
            nowhere,
            batch(0, 0, 0, 1),
            ProduceRefusal::UnknownPartition { tp: nowhere },
        ),
        (tp(0), empty, counts(0, 0)),
        (tp(0), sparse, counts(2, 4)),
        (
            tp(0),
            batch(9, 3, 0, 10),
            ProduceRefusal::Duplicate {
                base_offset: Some(Offset(0)),
                commit_offset: Offset(10),
            },
        ),
        (
            tp(0),
            batch(9, 3, 11, 1),
            ProduceRefusal::OutOfOrder {
                expected: Sequence(10),
                found: Sequence(11),
            },
        ),
        (
            tp(0),
            batch(9, 2, 10, 1),
            ProduceRefusal::Fenced {
                current: ProducerEpoch(3),
                found: ProducerEpoch(2),
            },
        ),
        (
            tp(1),
            batch(9, 3, 10, 1),
            ProduceRefusal::UnknownProducer {
                producer,
                found: Sequence(10),
            },
        ),
    ];
    let before = format!("{log:?}");
    for (tp, header, refusal) in cases {
        assert_eq!(log.admit(tp, &header, 90), Err(refusal));
        assert_eq!(format!("{log:?}"), before);
    }
}

#[test]
fn a_duplicate_is_answered_only_when_the_original_is_committed() {
    let mut harness = Harness::new();
    harness
        .log
        .admit(tp(0), &batch(9, 0, 0, 10), 50)
        .expect("valid");
    harness.queue_admitted();
    let again = harness.log.admit(tp(0), &batch(9, 0, 0, 10), 60);
    let Err(ProduceRefusal::Duplicate {
        base_offset,
        commit_offset,
    }) = again
    else {
        panic!("not seen as a duplicate: {again:?}");
    };
    assert_eq!(base_offset, Some(Offset(0)));
    assert!(!harness.log.is_committed(tp(0), commit_offset));
    harness.place_all();
    assert!(!harness.log.is_committed(tp(0), commit_offset));
    harness.commit_all();
    assert!(harness.log.is_committed(tp(0), commit_offset));
}

#[test]
fn frames_are_dense_linked_and_carry_the_commit_lsn() {
    let mut harness = Harness::new();
    let chain = ChainId(1);
    let mut link = 0;
    for lsn in 1..=3 {
        let stamp = harness.log.stamp(chain);
        assert_eq!((stamp.lsn, stamp.prev_frame_crc), (Lsn(lsn), link));
        assert_eq!(
            (stamp.epoch, stamp.commit_lsn_hint),
            (ChainEpoch(4), Lsn(lsn - 1))
        );
        link = 1_000 + u32::try_from(lsn).expect("small");
        harness
            .log
            .placed(chain, stamp.lsn, link, FrameKind::Batches);
        harness.log.committed(chain, stamp.lsn, &[]);
    }
    assert_eq!(harness.log.commit_lsn(chain), Some(Lsn(3)));
    assert_eq!(
        harness.log.stamp(ChainId(2)).lsn,
        Lsn(1),
        "each chain counts for itself"
    );
}

#[test]
#[should_panic(expected = "not the next to commit")]
fn a_frame_that_is_committed_out_of_order_is_a_bug() {
    let mut harness = Harness::new();
    let chain = ChainId(1);
    for _ in 0..2 {
        let stamp = harness.log.stamp(chain);
        harness.log.placed(chain, stamp.lsn, 1, FrameKind::Batches);
    }
    harness.log.committed(chain, Lsn(2), &[]);
}

#[test]
fn partitions_open_once_and_in_one_chain() {
    let mut log = ShardLog::default();
    let unknown = OpenRefusal::UnknownChain { chain: ChainId(1) };
    assert_eq!(log.ensure_partition(tp(0), ChainId(1)), Err(unknown));
    for chain in [5, 1, 3] {
        log.open_chain(ChainSection::fresh(ChainId(chain)), ChainEpoch(1))
            .expect("new");
        log.ensure_partition(tp(chain), ChainId(chain))
            .expect("new");
    }
    for chain in [5, 1, 3] {
        log.ensure_partition(tp(chain), ChainId(chain))
            .expect("it stays as it is");
        let admitted = log.admit(tp(chain), &batch(0, 0, 0, 1), 0).expect("valid");
        assert_eq!(
            admitted.chain,
            ChainId(chain),
            "opening chains moves no partition"
        );
    }
    let again = log.open_chain(ChainSection::fresh(ChainId(3)), ChainEpoch(1));
    assert_eq!(again, Err(OpenRefusal::ChainOpen { chain: ChainId(3) }));
    let (current, wanted) = (ChainId(3), ChainId(5));
    let other = OpenRefusal::OtherChain {
        tp: tp(3),
        current,
        wanted,
    };
    assert_eq!(log.ensure_partition(tp(3), ChainId(5)), Err(other));
    let order: Vec<TopicPartition> = log.partitions().map(|state| state.tp).collect();
    assert_eq!(order, [tp(1), tp(3), tp(5)]);
}

#[test]
fn a_dropped_topic_takes_its_state_along_and_its_slots_are_used_again() {
    let mut harness = Harness::new();
    harness
        .log
        .admit(tp(0), &batch(9, 0, 0, 5), 0)
        .expect("valid");
    harness.queue_admitted();
    let topic = tp(0).topic;
    harness.log.close_topic(topic);
    let refused = harness.log.admit(tp(0), &batch(9, 0, 5, 5), 0);
    assert_eq!(refused, Err(ProduceRefusal::UnknownPartition { tp: tp(0) }));
    assert!(!harness.log.is_drained(topic));
    harness.place_all();
    harness.commit_all();
    assert!(harness.log.is_drained(topic));
    let count = harness.log.partition_count();
    let chains = harness.log.chains_of_topic(topic);
    let dropped = harness.log.drop_topic(topic);
    assert_eq!(
        dropped.iter().map(|state| state.tp).collect::<Vec<_>>(),
        [tp(0), tp(1)]
    );
    assert_eq!(
        chains,
        dropped.iter().map(|state| state.chain).collect::<Vec<_>>()
    );
    assert_eq!(
        (dropped[0].high_watermark, dropped[0].bytes),
        (Offset(5), 500)
    );
    assert!(harness.log.chains_of_topic(topic).is_empty());
    assert_eq!(harness.log.producer_rows(), (0, 0));

    let slots = harness.log.partitions.len();
    for number in 0..2 {
        let tp = TopicPartition {
            topic: TopicId(50),
            partition: PartitionId(number),
        };
        harness.log.ensure_partition(tp, ChainId(1)).expect("new");
    }
    assert_eq!(
        (harness.log.partitions.len(), harness.log.partition_count()),
        (slots, count)
    );
    assert!(harness.log.drop_topic(topic).is_empty());
}

#[test]
fn a_producer_that_is_being_dropped_waits_until_it_is_gone() {
    let mut harness = Harness::new();
    let chain = harness.chain_of(tp(0));
    harness
        .log
        .admit(tp(0), &batch(9, 0, 0, 5), 0)
        .expect("valid");
    let day_ms = 24 * 3_600_000;
    let later = 3 * day_ms;
    assert_eq!(
        harness.log.begin_expiry(chain, later, usize::MAX),
        None,
        "it is not committed"
    );
    harness.queue_admitted();
    harness.place_all();
    harness.commit_all();
    let expiry = harness
        .log
        .begin_expiry(chain, later, usize::MAX)
        .expect("idle for days");
    assert_eq!(expiry.rows, [(tp(0), ProducerId(9))]);
    assert_eq!(
        harness.log.begin_expiry(chain, later, usize::MAX),
        None,
        "one at a time"
    );
    let waits = ProduceRefusal::ProducerExpiring {
        producer: ProducerId(9),
    };
    assert_eq!(
        harness.log.admit(tp(0), &batch(9, 0, 5, 5), later),
        Err(waits)
    );
    harness.queue_control(chain, FrameKind::ProducerExpiry, expiry.encode());
    harness.place_all();
    harness.commit_all();
    let unknown = ProduceRefusal::UnknownProducer {
        producer: ProducerId(9),
        found: Sequence(5),
    };
    assert_eq!(
        harness.log.admit(tp(0), &batch(9, 0, 5, 5), later),
        Err(unknown)
    );
    harness
        .log
        .admit(tp(0), &batch(9, 1, 0, 5), later)
        .expect("a new epoch starts");
}

#[test]
fn epochs_are_remembered_with_their_first_frame() {
    let mut harness = Harness::new();
    let chain = ChainId(1);
    for epoch in [4, 4, 6, 6, 7] {
        harness
            .log
            .adopt_epoch(chain, ChainEpoch(epoch))
            .expect("open");
        let stamp = harness.log.stamp(chain);
        harness
            .log
            .placed(chain, stamp.lsn, epoch, FrameKind::Batches);
        harness.log.committed(chain, stamp.lsn, &[]);
    }
    let section = harness.log.section(chain).expect("open");
    let history = [(4, 1), (6, 3), (7, 5)].map(|(epoch, lsn)| (ChainEpoch(epoch), Lsn(lsn)));
    assert_eq!(section.epoch_history, history);
    let (found, wanted) = (ChainEpoch(7), ChainEpoch(6));
    let behind = ShardLog::default().open_chain(section, wanted);
    assert_eq!(
        behind,
        Err(OpenRefusal::EpochBehind {
            chain,
            found,
            wanted
        })
    );
}

#[test]
fn ten_thousand_partitions_cost_less_than_a_kilobyte_each() {
    const PARTITIONS: u32 = 10_000;
    let (mut log, mut index) = (ShardLog::default(), MemIndex::default());
    for chain in 1..=64 {
        log.open_chain(ChainSection::fresh(ChainId(chain)), ChainEpoch(1))
            .expect("new");
    }
    let block = BlockLocation {
        journal: JournalId(1),
        segment: SegmentSeq(1),
        offset: 4096,
        bytes: 4096,
    };
    for number in 0..PARTITIONS {
        let tp = TopicPartition {
            topic: TopicId(1),
            partition: PartitionId(number),
        };
        let chain = ChainId(1 + number % 64);
        log.ensure_partition(tp, chain).expect("new");
        for sequence in 0..4 {
            let header = batch(1 + u64::from(number), 0, sequence, 1);
            let base_offset = log.admit(tp, &header, 0).expect("valid").base_offset;
            let end_offset = Offset(base_offset.get() + 1);
            let (offset_in_block, bytes, max_timestamp_ms) = (128, 64, 0);
            let lsn = log.stamp(chain).lsn;
            log.placed(chain, lsn, 1, FrameKind::Batches);
            let row = PlacedRow {
                tp,
                offset_in_block,
                bytes,
                base_offset,
                end_offset,
                max_timestamp_ms,
            };
            log.committed(chain, lsn, &[row]);
            let extent = Extent {
                base_offset,
                end_offset,
                block,
                offset_in_block,
                bytes,
                max_timestamp_ms,
            };
            index.insert(tp, extent);
        }
    }
    assert_eq!(log.producer_rows().0, 10_000, "one producer each");
    let each = (log.bytes() + index.bytes()) / 10_000;
    assert!(each <= 1024, "{each} bytes per partition");
}
