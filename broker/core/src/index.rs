//! Where the batches of a partition lie: recent extents in memory, older ones in index runs.
//!
//! Invariant: the extents of a partition are in offset order and do not overlap; between two of
//! them an offset is missing only where a range was lost. Neighbours are never merged, so that one
//! extent always names bytes of exactly one block. Owned by one shard; not shared.

pub mod merge;
pub mod run;

use catena_protocol::ids::{Offset, TopicPartition};
use rustc_hash::FxHashMap;

use crate::ids::BlockLocation;

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

/// The extents of one partition that are in memory: first the frozen ones, then the active.
#[derive(Debug, Default)]
struct Recent {
    extents: Vec<Extent>,
    frozen: u32,
    generation: u32,
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
/// assert_eq!(index.floor(tp, Offset(7)).len(), 1);
/// assert!(index.floor(tp, Offset(10)).is_empty());
/// ```
#[derive(Debug, Default)]
pub struct MemIndex {
    partitions: FxHashMap<TopicPartition, Recent>,
    generation: u32,
    has_frozen: bool,
    extent_capacity: usize,
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
        let generation = self.generation;
        let recent = self.partitions.entry(tp).or_default();
        if let Some(newest) = recent.extents.last() {
            assert!(
                newest.end_offset <= extent.base_offset,
                "{tp}: extent at {} inserted behind the end {}",
                extent.base_offset,
                newest.end_offset,
            );
        }
        if recent.generation != generation {
            recent.generation = generation;
            recent.frozen = crate::codec::length_u32(recent.extents.len());
        }
        let before = recent.extents.capacity();
        recent.extents.push(extent);
        self.extent_capacity += recent.extents.capacity() - before;
    }

    /// The extents from the one that contains `offset`, or the first above it, to the newest.
    /// Empty when none reaches above `offset`.
    pub fn floor(&self, tp: TopicPartition, offset: Offset) -> &[Extent] {
        let extents = self.extents(tp);
        &extents[extents.partition_point(|extent| extent.end_offset <= offset)..]
    }

    /// The first extent that holds a record with a timestamp of at least `timestamp_ms`.
    pub fn floor_time(&self, tp: TopicPartition, timestamp_ms: i64) -> Option<&Extent> {
        self.extents(tp)
            .iter()
            .find(|extent| extent.max_timestamp_ms >= timestamp_ms)
    }

    /// All extents of a partition that are in memory, in offset order.
    pub fn extents(&self, tp: TopicPartition) -> &[Extent] {
        self.partitions
            .get(&tp)
            .map_or(&[], |recent| &recent.extents)
    }

    /// Memory held, in bytes, counted by capacity.
    pub fn bytes(&self) -> usize {
        self.partitions.capacity() * PARTITION_BYTES + self.extent_capacity * size_of::<Extent>()
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Whether a frozen part waits for [`MemIndex::thaw_done`].
    pub const fn has_frozen(&self) -> bool {
        self.has_frozen
    }

    /// The active part becomes the frozen part, whatever its size, at once.
    ///
    /// # Panics
    /// If there is a frozen part already: one run is written at a time.
    pub fn freeze(&mut self) {
        assert!(
            !self.has_frozen,
            "the previous frozen part is not in a run yet"
        );
        self.generation = self.generation.wrapping_add(1);
        self.has_frozen = true;
    }

    /// Drops the frozen part: its run is durable.
    pub fn thaw_done(&mut self) {
        let generation = self.generation;
        self.has_frozen = false;
        let mut extent_capacity = 0;
        self.partitions.retain(|_, recent| {
            if recent.generation != generation {
                return false;
            }
            recent
                .extents
                .drain(..crate::codec::index_of(recent.frozen));
            recent.frozen = 0;
            // A partition that had a burst must not keep its memory for ever; one that is busy
            // would only allocate again.
            if recent.extents.capacity() > 4 * recent.extents.len().max(4) {
                recent.extents.shrink_to(2 * recent.extents.len());
            }
            extent_capacity += recent.extents.capacity();
            !recent.extents.is_empty()
        });
        self.extent_capacity = extent_capacity;
        if self.partitions.capacity() > 8 * self.partitions.len().max(128) {
            self.partitions.shrink_to(2 * self.partitions.len());
        }
    }

    /// The frozen extents, in order of partition and offset.
    pub fn frozen_sorted(&self) -> impl Iterator<Item = (TopicPartition, &[Extent])> {
        self.frozen_partitions()
            .into_iter()
            .map(|tp| (tp, self.frozen_of(tp)))
    }

    /// The partitions that have frozen extents, in order. Lets a long run be written in slices:
    /// take the list once, then [`MemIndex::frozen_of`] each.
    pub fn frozen_partitions(&self) -> Vec<TopicPartition> {
        let mut partitions: Vec<TopicPartition> = self
            .partitions
            .iter()
            .filter(|(_, recent)| self.frozen_len(recent) > 0)
            .map(|(tp, _)| *tp)
            .collect();
        partitions.sort_unstable();
        partitions
    }

    /// The frozen extents of one partition, in offset order.
    pub fn frozen_of(&self, tp: TopicPartition) -> &[Extent] {
        match self.partitions.get(&tp) {
            Some(recent) => &recent.extents[..self.frozen_len(recent)],
            None => &[],
        }
    }

    /// Drops the extents of a partition that end at or below `log_start` and returns them, in
    /// offset order.
    pub fn trim(&mut self, tp: TopicPartition, log_start: Offset) -> Vec<Extent> {
        let Some(recent) = self.partitions.get_mut(&tp) else {
            return Vec::new();
        };
        let dead = recent
            .extents
            .partition_point(|extent| extent.end_offset <= log_start);
        if dead == recent.extents.len() {
            return self.forget(tp);
        }
        recent.frozen = recent.frozen.saturating_sub(crate::codec::length_u32(dead));
        recent.extents.drain(..dead).collect()
    }

    /// Drops a partition and returns its extents, in offset order.
    pub fn forget(&mut self, tp: TopicPartition) -> Vec<Extent> {
        let Some(recent) = self.partitions.remove(&tp) else {
            return Vec::new();
        };
        self.extent_capacity -= recent.extents.capacity();
        recent.extents
    }

    fn frozen_len(&self, recent: &Recent) -> usize {
        if !self.has_frozen {
            0
        } else if recent.generation == self.generation {
            crate::codec::index_of(recent.frozen)
        } else {
            recent.extents.len()
        }
    }
}

/// One slot of the map: key, value and the table's control byte.
const PARTITION_BYTES: usize = size_of::<(TopicPartition, Recent)>() + 1;

#[cfg(test)]
mod tests;
