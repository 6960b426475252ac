//! The number of a partition on its shard. Pure; any thread.

use crate::codec::index_of;

/// The dense index of a partition on its shard; reused when the partition is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionSlot(pub u32);

impl PartitionSlot {
    pub(crate) fn index(self) -> usize {
        index_of(self.0)
    }

    pub(crate) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("a shard has fewer than 2^32 partitions"))
    }
}
