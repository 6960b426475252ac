//! Where the batches of a partition lie: recent extents in memory, older ones in index runs.
//!
//! Invariant: the extents of a partition are in offset order and do not overlap; between two of
//! them an offset is missing only where a range was lost. Neighbours are never merged, so that one
//! extent always names bytes of exactly one block. Owned by one shard; not shared.

pub mod gaps;
pub mod merge;
mod recent;
pub mod run;

use std::ops::Range;

use catena_protocol::batch::BATCH_HEADER_BYTES;
use catena_protocol::ids::{Offset, TopicPartition};

use crate::ids::BlockLocation;
use crate::layout::to_usize;
use recent::Recent;

/// A run of batches of one partition inside one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end_offset: Offset,
    /// The block that holds the batches.
    pub block: BlockLocation,
    /// Where the first batch starts, in bytes from the start of the block.
    pub offset_in_block: u32,
    /// Bytes of all its batches together.
    pub bytes: u32,
    /// The latest record timestamp in it, in milliseconds since 1970.
    pub max_timestamp_ms: i64,
}

impl Extent {
    /// Its offsets.
    pub const fn offsets(&self) -> Range<Offset> {
        self.base_offset..self.end_offset
    }

    /// Where its batches lie, to the byte: a part of [`block`](Extent::block).
    pub const fn place(&self) -> BlockLocation {
        BlockLocation {
            offset: self.block.offset + self.offset_in_block,
            bytes: self.bytes,
            ..self.block
        }
    }

    /// Whether there is a record in it; compaction may leave a batch with none.
    fn holds_records(&self) -> bool {
        to_usize(self.bytes) > BATCH_HEADER_BYTES
    }

    /// Whether `next` goes on where this ends, in offsets and in the block.
    fn is_followed_by(&self, next: &Self) -> bool {
        self.block == next.block
            && self.end_offset == next.base_offset
            && self.offset_in_block + self.bytes == next.offset_in_block
    }
}

/// The extents that are in no index run yet.
///
/// Insertions go to the *active* part. [`MemIndex::freeze`] turns it into the *frozen* part, which
/// is written as a run while new insertions start another active part; both are searched until
/// [`MemIndex::thaw_done`] drops the frozen one.
///
/// ```
/// use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
/// use catena_core::index::{Extent, MemIndex};
/// use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};
///
/// let tp = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
/// let block =
///     BlockLocation { journal: JournalId(0), segment: SegmentSeq(1), offset: 4096, bytes: 4096 };
/// let mut index = MemIndex::default();
/// index.insert(
///     tp,
///     Extent {
///         base_offset: Offset(0),
///         end_offset: Offset(10),
///         block,
///         offset_in_block: 128,
///         bytes: 512,
///         max_timestamp_ms: 0,
///     },
/// );
/// assert_eq!(index.floor(tp, Offset(7), 10).len(), 1);
/// assert!(index.floor(tp, Offset(10), 10).is_empty());
/// ```
#[derive(Debug, Default)]
pub struct MemIndex {
    active: Recent,
    frozen: Option<Recent>,
}

impl MemIndex {
    /// Adds the newest extent of a partition.
    ///
    /// # Panics
    /// If the extent is empty or starts before the end of the newest one: the log hands out
    /// offsets in order, so that would be a bug.
    pub fn insert(&mut self, tp: TopicPartition, extent: Extent) {
        assert!(
            extent.base_offset < extent.end_offset,
            "{tp}: an empty extent {extent:?}"
        );
        self.active.insert(tp, extent);
    }

    /// Up to `max` extents, in offset order, from the one that contains `offset` or the first above
    /// it. Empty when none reaches above `offset`.
    pub fn floor(&self, tp: TopicPartition, offset: Offset, max: usize) -> Vec<Extent> {
        let mut found = self
            .frozen_part()
            .map_or_else(Vec::new, |frozen| frozen.floor(tp, offset, max));
        if found.len() < max {
            found.extend(self.active.floor(tp, offset, max - found.len()));
        }
        found
    }

    /// The first extent that holds a record with a timestamp of at least `timestamp_ms`. Looks at
    /// every extent of the partition.
    pub fn floor_time(&self, tp: TopicPartition, timestamp_ms: i64) -> Option<Extent> {
        self.frozen_part()
            .and_then(|frozen| frozen.floor_time(tp, timestamp_ms))
            .or_else(|| self.active.floor_time(tp, timestamp_ms))
    }

    /// Gives every extent, in no order.
    pub fn for_each(&self, mut each: impl FnMut(&Extent)) {
        for part in self.frozen_part().into_iter().chain([&self.active]) {
            let extents = part.all_of(&part.partitions());
            extents.iter().flatten().for_each(&mut each);
        }
    }

    /// Memory held, in bytes, counted by capacity.
    pub fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen_part().map_or(0, Recent::bytes)
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.frozen_part().is_none_or(Recent::is_empty)
    }

    /// The active part becomes the frozen part, whatever its size, at once.
    ///
    /// # Panics
    /// If there is a frozen part already: one run is written at a time.
    pub fn freeze(&mut self) {
        let before = self.frozen.replace(std::mem::take(&mut self.active));
        assert!(
            before.is_none(),
            "the previous frozen part is not in a run yet"
        );
    }

    /// Drops the frozen part: its run is durable.
    pub fn thaw_done(&mut self) {
        self.frozen = None;
    }

    /// The partitions that have frozen extents, in order. Lets a long run be written in slices:
    /// take the list once, then [`MemIndex::frozen_of`] each.
    pub fn frozen_partitions(&self) -> Vec<TopicPartition> {
        self.frozen_part().map_or_else(Vec::new, Recent::partitions)
    }

    /// The frozen extents of some partitions, each in offset order. Faster for some dozens of
    /// partitions at once than for one after the other.
    pub fn frozen_of(&self, partitions: &[TopicPartition]) -> Vec<Vec<Extent>> {
        self.frozen_part()
            .map_or_else(Vec::new, |frozen| frozen.all_of(partitions))
    }

    /// Drops the extents of a partition that end at or below `log_start`.
    pub fn trim(&mut self, tp: TopicPartition, log_start: Offset) {
        for part in self.frozen.iter_mut().chain([&mut self.active]) {
            part.trim(tp, log_start);
        }
    }

    /// Drops a partition.
    pub fn forget(&mut self, tp: TopicPartition) {
        for part in self.frozen.iter_mut().chain([&mut self.active]) {
            part.forget(tp);
        }
    }

    fn frozen_part(&self) -> Option<&Recent> {
        self.frozen.as_ref()
    }
}

#[cfg(test)]
mod tests;
