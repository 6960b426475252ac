//! A chain's owner in miniature: it queues, frames and commits what the log admits, and keeps the
//! summary of every frame for recovery to fold.

use std::collections::{BTreeMap, VecDeque};

use catena_protocol::batch::BatchHeader;
use catena_protocol::ids::{
    ChainEpoch, ChainId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
    TopicPartition,
};

use crate::block::PlacedRow;
use crate::checkpoint::ChainSection;
use crate::entry::FrameKind;
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::index::Extent;
use crate::log::{Admitted, ProduceRefusal, ShardLog};
use crate::recover::{BatchSummary, FrameSummary};

pub(super) const CHAINS: u32 = 2;
pub(super) const PARTITIONS: u32 = 6;
pub(super) const EPOCH: ChainEpoch = ChainEpoch(4);

/// Two partitions to a topic, so that a topic lies in two chains.
pub(crate) fn tp(number: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(1 + number / 2),
        partition: PartitionId(number % 2),
    }
}

/// The header of a producer's batch.
pub(crate) fn batch(producer: u64, epoch: u16, sequence: u32, records: u16) -> BatchHeader {
    BatchHeader {
        length: 64,
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        sequence: Sequence(sequence),
        record_count: records,
        last_offset_delta: records.saturating_sub(1),
        first_timestamp_ms: i64::from(sequence),
        ..BatchHeader::default()
    }
}

pub(super) enum Queued {
    Batch(BatchSummary),
    Control(FrameKind, Vec<u8>),
}

pub(super) struct Harness {
    pub(super) log: ShardLog,
    pub(super) queues: BTreeMap<ChainId, Vec<Queued>>,
    pub(super) placed: VecDeque<FrameSummary>,
    pub(super) committed: Vec<FrameSummary>,
    /// What each partition's queued batches end at.
    queued_end: BTreeMap<TopicPartition, Offset>,
    crc: u32,
}

impl Harness {
    pub(super) fn new() -> Self {
        let mut log = ShardLog::default();
        for chain in 1..=CHAINS {
            log.open_chain(ChainSection::fresh(ChainId(chain)), EPOCH)
                .expect("new");
        }
        for number in 0..PARTITIONS {
            log.ensure_partition(tp(number), ChainId(1 + number % CHAINS))
                .expect("new");
        }
        Self {
            log,
            queues: BTreeMap::new(),
            placed: VecDeque::new(),
            committed: Vec::new(),
            queued_end: BTreeMap::new(),
            crc: 77,
        }
    }

    pub(super) fn chain_of(&self, tp: TopicPartition) -> ChainId {
        self.log.partition(tp).expect("it exists").chain
    }

    /// Admits a batch and queues it for the chain's next frame.
    pub(super) fn produce(
        &mut self,
        tp: TopicPartition,
        header: &BatchHeader,
        now_ms: i64,
    ) -> Result<Admitted, ProduceRefusal> {
        let admitted = self.log.admit(tp, header, now_ms)?;
        let summary = BatchSummary {
            tp,
            base_offset: admitted.base_offset,
            last_offset_delta: header.last_offset_delta,
            record_count: header.record_count,
            append_time_ms: admitted.append_time_ms,
            producer: header.producer_id,
            producer_epoch: header.producer_epoch,
            sequence: header.sequence,
        };
        self.queued_end.insert(tp, summary.end_offset());
        self.queues
            .entry(admitted.chain)
            .or_default()
            .push(Queued::Batch(summary));
        Ok(admitted)
    }

    /// Queues what was admitted behind the harness's back, as one anonymous batch per partition.
    pub(super) fn queue_admitted(&mut self) {
        let states: Vec<_> = self.log.partitions().cloned().collect();
        for state in states {
            let base_offset = self
                .queued_end
                .get(&state.tp)
                .copied()
                .unwrap_or(state.high_watermark);
            let records = state.log_end.get() - base_offset.get();
            if records > 0 {
                let records = u16::try_from(records).expect("small");
                self.queues
                    .entry(state.chain)
                    .or_default()
                    .push(Queued::Batch(BatchSummary {
                        tp: state.tp,
                        base_offset,
                        last_offset_delta: records - 1,
                        record_count: records,
                        append_time_ms: state.append_time_ms,
                        producer: ProducerId(0),
                        producer_epoch: ProducerEpoch(0),
                        sequence: Sequence(0),
                    }));
                self.queued_end.insert(state.tp, state.log_end);
            }
        }
    }

    pub(super) fn queue_control(&mut self, chain: ChainId, kind: FrameKind, body: Vec<u8>) {
        self.queues
            .entry(chain)
            .or_default()
            .push(Queued::Control(kind, body));
    }

    /// Puts everything queued into frames: batches that stand together share one.
    pub(super) fn place_all(&mut self) {
        for (chain, queue) in std::mem::take(&mut self.queues) {
            let mut batches = Vec::new();
            for queued in queue {
                match queued {
                    Queued::Batch(batch) => batches.push(batch),
                    Queued::Control(kind, body) => {
                        self.place_batches(chain, std::mem::take(&mut batches));
                        self.place(chain, kind, Vec::new(), body);
                    }
                }
            }
            self.place_batches(chain, batches);
        }
    }

    fn place_batches(&mut self, chain: ChainId, mut batches: Vec<BatchSummary>) {
        if !batches.is_empty() {
            batches.sort_by_key(|batch| batch.tp);
            self.place(chain, FrameKind::Batches, batches, Vec::new());
        }
    }

    fn place(
        &mut self,
        chain: ChainId,
        kind: FrameKind,
        batches: Vec<BatchSummary>,
        body: Vec<u8>,
    ) {
        let stamp = self.log.stamp(chain);
        self.crc = self.crc.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        self.log.placed(chain, stamp.lsn, self.crc, kind);
        let block = BlockLocation {
            journal: JournalId(1),
            segment: SegmentSeq(1),
            offset: 4096,
            bytes: 4096,
        };
        let rows = batches
            .chunk_by(|one, two| one.tp == two.tp)
            .map(|row| row_of(row, block));
        self.placed.push_back(FrameSummary {
            chain,
            lsn: stamp.lsn,
            epoch: stamp.epoch,
            crc: self.crc,
            prev_frame_crc: stamp.prev_frame_crc,
            kind,
            block,
            rows: rows.collect(),
            batches,
            body,
        });
    }

    pub(super) fn commit_all(&mut self) {
        self.commit(usize::MAX);
    }

    /// Commits the oldest placed frames, at most `count`.
    pub(super) fn commit(&mut self, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.placed.pop_front() else {
                return;
            };
            if frame.kind == FrameKind::Batches {
                let rows: Vec<PlacedRow> = frame.rows.iter().map(placed_row).collect();
                self.log.committed(frame.chain, frame.lsn, &rows);
            } else {
                self.log
                    .committed_control(frame.chain, frame.lsn, frame.kind, &frame.body)
                    .expect("the body belongs to its kind");
            }
            self.committed.push(frame);
        }
    }

    /// The sections of all chains.
    pub(super) fn sections(&self) -> Vec<ChainSection> {
        sections(&self.log)
    }
}

pub(super) fn sections(log: &ShardLog) -> Vec<ChainSection> {
    log.chains()
        .map(|chain| log.section(chain).expect("open"))
        .collect()
}

/// A log that starts with these sections.
pub(super) fn log_from(sections: &[ChainSection]) -> ShardLog {
    let mut log = ShardLog::default();
    for section in sections {
        log.open_chain(section.clone(), EPOCH)
            .expect("sections of one log agree");
    }
    log
}

fn row_of(row: &[BatchSummary], block: BlockLocation) -> (TopicPartition, Extent) {
    let (first, last) = (row[0], row[row.len() - 1]);
    let newest = row
        .iter()
        .map(|batch| i64::from(batch.sequence.get()))
        .max();
    let records: u32 = row.iter().map(|batch| u32::from(batch.record_count)).sum();
    let extent = Extent {
        base_offset: first.base_offset,
        end_offset: last.end_offset(),
        block,
        offset_in_block: 128,
        bytes: 100 * records,
        max_timestamp_ms: newest.expect("a row is not empty"),
    };
    (first.tp, extent)
}

fn placed_row((tp, extent): &(TopicPartition, Extent)) -> PlacedRow {
    PlacedRow {
        tp: *tp,
        offset_in_block: extent.offset_in_block,
        bytes: extent.bytes,
        base_offset: extent.base_offset,
        end_offset: extent.end_offset,
        max_timestamp_ms: extent.max_timestamp_ms,
    }
}
