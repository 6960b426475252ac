//! Recovery gives what the live path had.

use std::collections::BTreeMap;

use catena_protocol::ids::{ChainId, Offset, TopicPartition};
use proptest::prelude::*;

use super::harness::{CHAINS, Harness, PARTITIONS, batch, log_from, sections, tp};
use crate::checkpoint::{ChainSection, ShardCheckpoint};
use crate::entry::FrameKind;
use crate::entry::control::{DropTopic, Trim};
use crate::ids::Lsn;
use crate::log::{FoldError, Folded, ProduceRefusal, ShardLog};
use crate::recover::FrameSummary;

#[derive(Debug, Clone)]
enum Op {
    Produce {
        partition: u32,
        producer: u64,
        step: Step,
        records: u16,
    },
    Place,
    Commit {
        frames: usize,
    },
    Checkpoint,
    Trim {
        partition: u32,
        records: u64,
        seen_first: bool,
    },
    Expire {
        chain: u32,
        rows_max: usize,
        first: bool,
    },
    DropTopic {
        partition: u32,
    },
    Wait {
        ms: i64,
    },
    LoseOverlay,
}

/// How a batch's sequence relates to the producer's last.
#[derive(Debug, Clone, Copy)]
enum Step {
    Next,
    Repeat,
    NewEpoch,
    Gap,
}

fn op() -> impl Strategy<Value = Op> {
    let step = prop_oneof![
        10 => Just(Step::Next),
        2 => Just(Step::Repeat),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::Gap),
    ];
    prop_oneof![
        30 => (0..PARTITIONS, 0..4u64, step, 1..6u16).prop_map(
            |(partition, producer, step, records)| Op::Produce {
                partition, producer, step, records
            }
        ),
        10 => Just(Op::Place),
        10 => (1..4usize).prop_map(|frames| Op::Commit { frames }),
        2 => Just(Op::Checkpoint),
        3 => (0..PARTITIONS, 0..20u64, any::<bool>()).prop_map(
            |(partition, records, seen_first)| Op::Trim { partition, records, seen_first }
        ),
        3 => (1..=CHAINS, 0..4usize, any::<bool>())
            .prop_map(|(chain, rows_max, first)| Op::Expire { chain, rows_max, first }),
        1 => (0..PARTITIONS).prop_map(|partition| Op::DropTopic { partition }),
        3 => (0..50_000_000i64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::LoseOverlay),
    ]
}

struct Run {
    harness: Harness,
    now_ms: i64,
    /// Epoch and next sequence of each producer in each partition.
    producers: BTreeMap<(TopicPartition, u64), (u16, u32)>,
    checkpoint: Vec<ChainSection>,
}

impl Run {
    fn new() -> Self {
        let harness = Harness::new();
        let checkpoint = harness.sections();
        Self {
            harness,
            now_ms: 1_000_000,
            producers: BTreeMap::new(),
            checkpoint,
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Produce {
                partition,
                producer,
                step,
                records,
            } => {
                self.produce(tp(partition), producer, step, records);
            }
            Op::Place => self.harness.place_all(),
            Op::Commit { frames } => self.harness.commit(frames),
            Op::Checkpoint => self.checkpoint = self.harness.sections(),
            Op::Trim {
                partition,
                records,
                seen_first,
            } => {
                self.trim(tp(partition), records, seen_first);
            }
            Op::Expire {
                chain,
                rows_max,
                first,
            } => {
                let chain = ChainId(chain);
                let bytes_max = rows_max * crate::producer::PRODUCER_ENTRY_BYTES;
                let expiry = self.harness.log.begin_expiry(chain, self.now_ms, bytes_max);
                if let Some(expiry) = expiry {
                    let queue = self.harness.queues.entry(chain).or_default();
                    let at = if first { 0 } else { queue.len() };
                    let control =
                        super::harness::Queued::Control(FrameKind::ProducerExpiry, expiry.encode());
                    queue.insert(at, control);
                }
            }
            Op::DropTopic { partition } => self.drop_topic(tp(partition)),
            Op::Wait { ms } => self.now_ms += ms,
            Op::LoseOverlay => self.lose_overlay(),
        }
    }

    fn produce(&mut self, tp: TopicPartition, producer: u64, step: Step, records: u16) {
        let known = self.producers.entry((tp, producer)).or_default();
        let (epoch, sequence) = match step {
            _ if producer == 0 => (0, 0),
            Step::Next => *known,
            Step::Repeat => (known.0, known.1.saturating_sub(u32::from(records))),
            Step::NewEpoch => (known.0 + 1, 0),
            Step::Gap => (known.0, known.1 + 1),
        };
        let header = batch(producer, epoch, sequence, records);
        match self.harness.produce(tp, &header, self.now_ms) {
            Ok(_) => *known = (epoch, sequence + u32::from(records)),
            Err(ProduceRefusal::UnknownProducer { .. }) => *known = (epoch + 1, 0),
            Err(_) => {}
        }
    }

    fn trim(&mut self, tp: TopicPartition, records: u64, seen_first: bool) {
        let Some(state) = self.harness.log.partition(tp) else {
            return;
        };
        let log_start = state
            .high_watermark
            .min(Offset(state.log_start.get() + records));
        let dropped_bytes = 100 * (log_start.get() - state.log_start.get());
        let first_timestamp_ms = if seen_first { 123 } else { i64::MIN };
        let trim = Trim {
            tp,
            log_start,
            dropped_bytes,
            first_timestamp_ms,
        };
        let chain = state.chain;
        self.harness
            .queue_control(chain, FrameKind::Trim, trim.encode().to_vec());
    }

    fn drop_topic(&mut self, tp: TopicPartition) {
        self.harness.log.close_topic(tp.topic);
        if self.harness.log.is_drained(tp.topic) {
            for chain in self.harness.log.chains_of_topic(tp.topic) {
                let body = DropTopic { topic: tp.topic }.encode().to_vec();
                self.harness
                    .queue_control(chain, FrameKind::DropTopic, body);
            }
        }
    }

    fn lose_overlay(&mut self) {
        self.harness.queues.clear();
        self.harness.placed.clear();
        for chain in 1..=CHAINS {
            self.harness.log.drop_uncommitted(ChainId(chain));
        }
        self.producers.clear();
    }
}

fn fold_all(log: &mut ShardLog, frames: &[FrameSummary]) {
    for frame in frames {
        let already = log
            .commit_lsn(frame.chain)
            .is_some_and(|lsn| frame.lsn <= lsn);
        match log
            .fold(frame)
            .expect("the frames of one log follow each other")
        {
            Folded::Already => assert!(already),
            Folded::Applied { lost, .. } => assert!(!already && lost.is_none()),
        }
    }
}

proptest! {
    #[test]
    fn a_checkpoint_and_the_frames_after_it_give_the_live_state(
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
        }
        let live = run.harness.sections();
        let hashes: Vec<u128> = live.iter().map(ChainSection::content_hash).collect();
        let checkpoint = ShardCheckpoint { chains: run.checkpoint, ..ShardCheckpoint::default() };
        let decoded = ShardCheckpoint::decode(&checkpoint.encode()).expect("just encoded");

        for start in [decoded.chains, Harness::new().sections()] {
            let mut recovered = log_from(&start);
            fold_all(&mut recovered, &run.harness.committed);
            prop_assert_eq!(&sections(&recovered), &live);
            let recovered_hashes: Vec<u128> =
                sections(&recovered).iter().map(ChainSection::content_hash).collect();
            prop_assert_eq!(recovered_hashes, hashes.clone());
        }
    }

    #[test]
    fn a_log_that_lost_its_overlay_goes_on_like_a_recovered_one(
        ops in prop::collection::vec(op(), 1..120),
        after in prop::collection::vec((0..PARTITIONS, 0..4u64, 0..3u16, 0..30u32, 1..6u16), 1..30),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
        }
        run.lose_overlay();
        let mut recovered = log_from(&Harness::new().sections());
        fold_all(&mut recovered, &run.harness.committed);
        for state in run.harness.log.partitions() {
            recovered.ensure_partition(state.tp, state.chain).expect("in its chain");
        }
        for (number, producer, epoch, sequence, records) in after {
            let header = batch(producer, epoch, sequence, records);
            let state = run.harness.log.partition(tp(number));
            let is_closed = state.is_none_or(|state| state.is_closed);
            if !is_closed {
                let live = run.harness.log.admit(tp(number), &header, 5);
                prop_assert_eq!(live, recovered.admit(tp(number), &header, 5));
            }
        }
        for chain in 1..=CHAINS {
            prop_assert_eq!(run.harness.log.stamp(ChainId(chain)), recovered.stamp(ChainId(chain)));
        }
    }
}

/// Five committed frames of one partition, ten records each.
fn five_frames() -> Harness {
    let mut harness = Harness::new();
    for round in 0..5 {
        harness
            .produce(tp(0), &batch(9, 0, round * 10, 10), 0)
            .expect("valid");
        harness.place_all();
    }
    harness.commit_all();
    harness
}

#[test]
fn a_missing_frame_loses_exactly_its_offsets_and_nothing_else() {
    let harness = five_frames();
    let mut log = log_from(&Harness::new().sections());
    let mut frames = harness.committed.clone();
    frames.drain(1..3);
    let outcomes: Vec<Folded> = frames
        .iter()
        .map(|frame| log.fold(frame).expect("a gap is no error"))
        .collect();
    let applied = |lost| Folded::Applied {
        lost,
        dropped: Vec::new(),
    };
    assert_eq!(
        outcomes,
        [applied(None), applied(Some((Lsn(2), 2))), applied(None)]
    );
    assert_eq!(log.lost_ranges(tp(0)), [Offset(10)..Offset(30)]);
    let state = log.partition(tp(0)).expect("folded");
    assert_eq!(
        (state.log_start, state.high_watermark),
        (Offset(0), Offset(50))
    );
    assert_eq!(state.bytes, 3_000);
    let next = log
        .admit(tp(0), &batch(9, 0, 50, 1), 0)
        .expect("the producer goes on");
    assert_eq!(next.base_offset, Offset(50));

    let again = log_from(&sections(&log));
    assert_eq!(
        again.lost_ranges(tp(0)),
        log.lost_ranges(tp(0)),
        "checkpoints keep it"
    );
    let missing = log_from(&Harness::new().sections())
        .section(ChainId(1))
        .expect("open");
    assert_ne!(
        missing.content_hash(),
        again.section(ChainId(1)).expect("open").content_hash()
    );
}

#[test]
fn a_trim_forgets_lost_ranges_below_it() {
    let mut harness = five_frames();
    let mut log = log_from(&Harness::new().sections());
    let trim = Trim {
        tp: tp(0),
        log_start: Offset(30),
        dropped_bytes: 1_000,
        first_timestamp_ms: 30,
    };
    harness.queue_control(ChainId(1), FrameKind::Trim, trim.encode().to_vec());
    harness.place_all();
    harness.commit_all();
    let mut frames = harness.committed.clone();
    frames.drain(1..3);
    for frame in &frames {
        log.fold(frame).expect("a gap is no error");
    }
    assert!(log.lost_ranges(tp(0)).is_empty());
    let state = log.partition(tp(0)).expect("folded");
    assert_eq!((state.log_start, state.bytes), (Offset(30), 2_000));
}

#[test]
fn frames_that_do_not_follow_are_refused_and_change_nothing() {
    let harness = five_frames();
    let frames = &harness.committed;
    let mut log = log_from(&Harness::new().sections());
    fold_all(&mut log, &frames[..2]);
    let before = format!("{log:?}");
    let chain = ChainId(1);
    let third = &frames[2];

    let stale = FrameSummary {
        prev_frame_crc: 5,
        ..third.clone()
    };
    let expected = frames[1].crc;
    let broken = FoldError::BrokenLink {
        chain,
        lsn: Lsn(3),
        expected,
        found: 5,
    };
    assert_eq!(log.fold(&stale), Err(broken));

    let mut overlapping = third.clone();
    overlapping.batches[0].base_offset = Offset(15);
    let offsets = FoldError::Offsets {
        tp: tp(0),
        expected: Offset(20),
        found: Offset(15),
    };
    assert_eq!(log.fold(&overlapping), Err(offsets));

    let old = FrameSummary {
        epoch: catena_protocol::ids::ChainEpoch(3),
        ..third.clone()
    };
    assert!(matches!(log.fold(&old), Err(FoldError::EpochBack { .. })));

    let elsewhere = FrameSummary {
        chain: ChainId(2),
        lsn: Lsn(1),
        prev_frame_crc: 0,
        ..third.clone()
    };
    assert!(matches!(
        log.fold(&elsewhere),
        Err(FoldError::OtherChain { .. })
    ));
    let nowhere = FrameSummary {
        chain: ChainId(9),
        ..third.clone()
    };
    assert_eq!(
        log.fold(&nowhere),
        Err(FoldError::UnknownChain { chain: ChainId(9) })
    );

    let garbled = FrameSummary {
        kind: FrameKind::Trim,
        body: vec![1, 2, 3],
        ..third.clone()
    };
    assert!(matches!(log.fold(&garbled), Err(FoldError::Control(_))));

    let impossible = FrameSummary {
        lsn: Lsn(u64::MAX),
        ..third.clone()
    };
    assert!(matches!(log.fold(&impossible), Err(FoldError::Lsn { .. })));

    assert_eq!(format!("{log:?}"), before);
    assert_eq!(log.fold(&frames[0]), Ok(Folded::Already));
    fold_all(&mut log, &frames[2..]);
    assert_eq!(sections(&log), harness.sections());
}

#[test]
fn offsets_that_are_presumed_lost_are_never_given_out_and_outlast_a_checkpoint() {
    let harness = five_frames();
    let mut log = log_from(&Harness::new().sections());
    fold_all(&mut log, &harness.committed);
    let end = log.partition(tp(0)).expect("folded").high_watermark;
    let lost = log.presume_lost(tp(0), ChainId(1), 1_000);
    assert_eq!(lost, Ok(end..Offset(end.0 + 1_000)));
    assert!(log.presume_lost(tp(0), ChainId(9), 1_000).is_err());

    let log = log_from(&sections(&log));
    let state = log.partition(tp(0)).expect("in the checkpoint");
    assert_eq!(
        (state.high_watermark, state.log_end),
        (Offset(end.0 + 1_000), Offset(end.0 + 1_000))
    );
    let ranges = log.lost_ranges(tp(0));
    assert_eq!(ranges.last(), Some(&(end..Offset(end.0 + 1_000))));
}
