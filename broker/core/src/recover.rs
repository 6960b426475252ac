//! What recovery keeps of a frame once its block has been read: enough to fold the log's state
//! and to rebuild the index, a small part of the block.
//!
//! Pure; any thread.

mod moved;
mod unknown;

use catena_protocol::ids::{
    ChainEpoch, ChainId, Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition,
};

use crate::entry::{BatchRows, ENTRY_HEADER_BYTES, EntryView, FrameHeader, FrameKind};
use crate::ids::{BlockLocation, Lsn};
use crate::index::Extent;
use crate::layout::{to_u32, to_usize};

pub use moved::{MovedBatch, batches_in, moved_batches, only_moved};
pub use unknown::{UnknownLoss, presumed_offsets, spared};

/// What a scan of journals found.
#[derive(Debug, Default)]
pub struct ScannedFrames {
    /// The frames that count, in journal order; behind them those of damaged blocks that are known.
    pub frames: Vec<FrameSummary>,
    /// Acknowledged bytes of which nothing is known.
    pub unknown: Vec<UnknownLoss>,
    /// What the cleaner wrote anew, in journal order, of journals that have no checkpoint.
    pub moved: Vec<MovedBatch>,
}

/// A frame, without its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameSummary {
    /// Its chain.
    pub chain: ChainId,
    /// Its place in the chain.
    pub lsn: Lsn,
    /// The epoch it was stamped in.
    pub epoch: ChainEpoch,
    /// Its crc.
    pub crc: u32,
    /// The crc of the chain's frame before it.
    pub prev_frame_crc: u32,
    /// What it does.
    pub kind: FrameKind,
    /// The block it lies in.
    pub block: BlockLocation,
    /// The batches of a `Batches` frame, in order of partition and offset.
    pub batches: Vec<BatchSummary>,
    /// For each partition of a `Batches` frame, in order, where its batches lie.
    pub rows: Vec<(TopicPartition, Extent)>,
    /// The body of any other frame.
    pub body: Vec<u8>,
}

/// A batch, without its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSummary {
    /// Its partition.
    pub tp: TopicPartition,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record, relative to the first.
    pub last_offset_delta: u16,
    /// Its records.
    pub record_count: u16,
    /// When it was appended, in milliseconds since 1970.
    pub append_time_ms: i64,
    /// Its producer; zero when it is not idempotent.
    pub producer: ProducerId,
    /// The epoch of its producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of its first record.
    pub sequence: Sequence,
}

impl BatchSummary {
    /// The offset after its last record.
    pub const fn end_offset(&self) -> Offset {
        Offset(
            self.base_offset
                .0
                .saturating_add(self.last_offset_delta as u64 + 1),
        )
    }
}

impl FrameSummary {
    /// Sums up an entry of the block at `block`; `None` for what is not a chain frame.
    pub fn from_entry(entry: &EntryView<'_>, block: BlockLocation) -> Option<Self> {
        match entry {
            EntryView::Batches(header, rows) => Some(Self::of_batches(header, rows, block)),
            EntryView::Frame(header, body) => Some(Self {
                body: body.to_vec(),
                ..Self::without_body(header, block)
            }),
            EntryView::Record(..) | EntryView::Relocation(..) | EntryView::Unknown(..) => None,
        }
    }

    fn without_body(header: &FrameHeader, block: BlockLocation) -> Self {
        Self {
            chain: header.chain,
            lsn: header.lsn,
            epoch: header.epoch,
            crc: header.crc,
            prev_frame_crc: header.prev_frame_crc,
            kind: header.kind,
            block,
            batches: Vec::new(),
            rows: Vec::new(),
            body: Vec::new(),
        }
    }

    fn of_batches(header: &FrameHeader, rows: &BatchRows<'_>, block: BlockLocation) -> Self {
        let mut summary = Self::without_body(header, block);
        let body_offset = to_usize(header.offset_in_block) + ENTRY_HEADER_BYTES;
        for row in rows.iter() {
            let first = summary.batches.len();
            let mut max_timestamp_ms = i64::MIN;
            for batch in row.batches() {
                let header = &batch.header;
                max_timestamp_ms = max_timestamp_ms.max(header.max_timestamp_ms());
                summary.batches.push(BatchSummary {
                    tp: row.tp,
                    base_offset: header.base_offset,
                    last_offset_delta: header.last_offset_delta,
                    record_count: header.record_count,
                    append_time_ms: header.append_time_ms,
                    producer: header.producer_id,
                    producer_epoch: header.producer_epoch,
                    sequence: header.sequence,
                });
            }
            let (Some(first), Some(last)) = (summary.batches.get(first), summary.batches.last())
            else {
                continue;
            };
            let extent = Extent {
                base_offset: first.base_offset,
                end_offset: last.end_offset(),
                block,
                offset_in_block: to_u32(body_offset + to_usize(row.offset_in_body)),
                bytes: to_u32(row.bytes.len()),
                max_timestamp_ms,
            };
            summary.rows.push((row.tp, extent));
        }
        summary
    }
}

#[cfg(test)]
mod tests;
