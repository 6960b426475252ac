//! What a shard keeps in memory of each partition.
//!
//! Invariant: `log_start <= high_watermark <= log_end`. Only the part of the log that owns the
//! event changes a field.

use catena_protocol::ids::{ChainId, Offset, TopicPartition};

use crate::slot::PartitionSlot;

/// Where a partition is: everything that its next batch will need can be fetched with this at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home {
    pub(super) slot: PartitionSlot,
    /// The place of its chain among the shard's.
    pub(super) chain_index: u32,
}

/// The state of a partition, in a cache line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
pub struct PartitionState {
    /// The partition.
    pub tp: TopicPartition,
    /// The chain it lives in.
    pub chain: ChainId,
    /// The first offset that can be read; what is below was trimmed.
    pub log_start: Offset,
    /// The offset that the next admitted record gets.
    pub log_end: Offset,
    /// Everything below is committed; readers stop here.
    pub high_watermark: Offset,
    /// Bytes of the committed batches from the log start on.
    pub bytes: u64,
    /// A lower bound of the latest record timestamp in the first retained extent, in milliseconds
    /// since 1970: nothing can be too old before this is. Meaningless while nothing is retained.
    pub first_timestamp_ms: i64,
    /// Append time of the last admitted batch; it never decreases.
    pub append_time_ms: i64,
    /// Whether the topic is being dropped: nothing is admitted any more.
    pub(super) is_closed: bool,
}

impl PartitionState {
    pub(super) fn empty(tp: TopicPartition, chain: ChainId) -> Self {
        Self {
            tp,
            chain,
            log_start: Offset(0),
            log_end: Offset(0),
            high_watermark: Offset(0),
            bytes: 0,
            first_timestamp_ms: 0,
            append_time_ms: i64::MIN,
            is_closed: false,
        }
    }

    /// Whether no committed record is retained.
    pub fn is_empty(&self) -> bool {
        self.log_start == self.high_watermark
    }

    /// Whether admitted batches wait for their commit.
    pub fn has_uncommitted(&self) -> bool {
        self.high_watermark < self.log_end
    }

    /// Leaves the slot to a later partition; a scan over all slots must not take it for one.
    pub(super) fn vacate(&mut self) {
        *self = Self::empty(TopicPartition::default(), ChainId(0));
    }

    /// Commits a run of batches that ends at `end_offset`.
    pub(super) fn commit(&mut self, end_offset: Offset, bytes: u32, max_timestamp_ms: i64) {
        if self.is_empty() {
            self.first_timestamp_ms = max_timestamp_ms;
        }
        self.high_watermark = end_offset;
        self.bytes += u64::from(bytes);
    }
}

const _: () = assert!(size_of::<PartitionState>() == 64);
