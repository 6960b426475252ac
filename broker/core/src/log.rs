//! The log of one shard: its chains, their partitions, and what happens to a batch between its
//! arrival and its commit.
//!
//! A batch is *admitted* (checked, given its offset), its frame is *stamped* (given its LSN) and
//! *placed* (its crc links the next frame), and once that is flushed it is *committed*: the high
//! watermark rises. What is admitted but not committed is an overlay: checkpoints do not see it
//! and [`ShardLog::drop_uncommitted`] forgets it.
//!
//! Invariant: the committed state of a chain is a function of its frames up to its commit LSN.
//! [`ShardLog::fold`] computes the same from the frames alone. A refused event changes nothing.
//! Owned by one shard; nothing here waits or reads a clock.

mod admit;
mod chain;
mod commit;
mod control;
mod fold;
mod moved;
mod partition;
mod section;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use thiserror::Error;

use crate::checkpoint::ChainSection;
use crate::compaction::CompactedPartition;
use crate::ids::Lsn;
use crate::limits::LOST_RANGES_MAX;
use crate::partition_map::PartitionMap;
use crate::slot::PartitionSlot;

pub use admit::{Admitted, ProduceRefusal};
pub use control::{ControlError, DroppedPartition};
pub use fold::{FoldError, Folded};
pub use partition::PartitionState;

use chain::ChainState;
use partition::Home;

/// All chains and partitions that a shard owns.
///
/// ```
/// use catena_core::checkpoint::ChainSection;
/// use catena_core::log::ShardLog;
/// use catena_protocol::batch::BatchHeader;
/// use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId, TopicPartition};
///
/// let tp = TopicPartition { topic: TopicId(7), partition: PartitionId(0) };
/// let mut log = ShardLog::default();
/// log.open_chain(ChainSection::fresh(ChainId(1)), ChainEpoch(1))?;
/// log.ensure_partition(tp, ChainId(1))?;
///
/// let header = BatchHeader { record_count: 3, last_offset_delta: 2, ..BatchHeader::default() };
/// let first = log.admit(tp, &header, 1_000)?;
/// let second = log.admit(tp, &header, 1_000)?;
/// assert_eq!((first.base_offset, second.base_offset), (Offset(0), Offset(3)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct ShardLog {
    homes: PartitionMap<Home>,
    partitions: Vec<PartitionState>,
    free: Vec<PartitionSlot>,
    /// In order of their ids. Chains are opened, never closed, so an index stays valid until the
    /// next chain is opened.
    chains: Vec<ChainState>,
    lost: BTreeMap<TopicPartition, Vec<Range<Offset>>>,
    compacted: BTreeMap<TopicPartition, CompactedPartition>,
}

/// Why a chain or partition could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenRefusal {
    /// The chain is open already.
    #[error("chain {chain} is open already")]
    ChainOpen {
        /// The chain.
        chain: ChainId,
    },
    /// No such chain is open.
    #[error("chain {chain} is not open on this shard")]
    UnknownChain {
        /// The chain.
        chain: ChainId,
    },
    /// The partition lives in another chain.
    #[error("partition {tp} lives in chain {current}, not in {wanted}")]
    OtherChain {
        /// The partition.
        tp: TopicPartition,
        /// The chain it lives in.
        current: ChainId,
        /// The chain that was named.
        wanted: ChainId,
    },
    /// The state ends with a frame of a later epoch than the one to open in.
    #[error("chain {chain} holds frames of epoch {found}, to be opened in {wanted}")]
    EpochBehind {
        /// The chain.
        chain: ChainId,
        /// The epoch of its last frame.
        found: ChainEpoch,
        /// The epoch to open it in.
        wanted: ChainEpoch,
    },
}

impl ShardLog {
    /// Opens a chain with the state of a checkpoint (or [`ChainSection::fresh`]), to stamp frames
    /// in `epoch`.
    ///
    /// # Errors
    /// [`OpenRefusal`]; nothing changes.
    pub fn open_chain(
        &mut self,
        section: ChainSection,
        epoch: ChainEpoch,
    ) -> Result<(), OpenRefusal> {
        let chain = section.chain;
        let Err(index) = self.chain_index(chain) else {
            return Err(OpenRefusal::ChainOpen { chain });
        };
        if section.epoch() > epoch {
            let found = section.epoch();
            return Err(OpenRefusal::EpochBehind {
                chain,
                found,
                wanted: epoch,
            });
        }
        for row in &section.partitions {
            if let Some(current) = self.partition(row.tp).map(|state| state.chain) {
                return Err(OpenRefusal::OtherChain {
                    tp: row.tp,
                    current,
                    wanted: chain,
                });
            }
        }
        self.chains.insert(index, ChainState::new(&section, epoch));
        for home in self.homes.values_mut() {
            home.chain_index += u32::from(crate::codec::index_of(home.chain_index) >= index);
        }
        self.restore_section(index, section);
        Ok(())
    }

    /// Raises the epoch in which a chain's frames are stamped from now on. A lower one than the
    /// current is ignored.
    ///
    /// # Errors
    /// [`OpenRefusal::UnknownChain`].
    pub fn adopt_epoch(&mut self, chain: ChainId, epoch: ChainEpoch) -> Result<(), OpenRefusal> {
        let index = self
            .chain_index(chain)
            .map_err(|_| OpenRefusal::UnknownChain { chain })?;
        let state = &mut self.chains[index];
        state.epoch = state.epoch.max(epoch);
        Ok(())
    }

    /// Makes sure that a partition exists; an existing one stays as it is.
    ///
    /// # Errors
    /// [`OpenRefusal::UnknownChain`], or [`OpenRefusal::OtherChain`] when it exists elsewhere.
    pub fn ensure_partition(
        &mut self,
        tp: TopicPartition,
        chain: ChainId,
    ) -> Result<(), OpenRefusal> {
        let index = self
            .chain_index(chain)
            .map_err(|_| OpenRefusal::UnknownChain { chain })?;
        if let Some(state) = self.partition(tp) {
            let current = state.chain;
            return if current == chain {
                Ok(())
            } else {
                Err(OpenRefusal::OtherChain {
                    tp,
                    current,
                    wanted: chain,
                })
            };
        }
        self.add_partition(tp, index);
        Ok(())
    }

    /// The state of a partition.
    pub fn partition(&self, tp: TopicPartition) -> Option<&PartitionState> {
        let slot = self.slot(tp)?;
        Some(&self.partitions[slot.index()])
    }

    /// All partitions, in order. Sorts: not for every batch.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionState> {
        let slots = self.homes.iter().map(|(_, home)| home.slot);
        let mut in_order: Vec<PartitionSlot> = slots.collect();
        in_order.sort_unstable_by_key(|slot| self.partitions[slot.index()].tp);
        in_order
            .into_iter()
            .map(|slot| &self.partitions[slot.index()])
    }

    /// All partitions, in an order of their own: for a look at each that is not paid with a sort.
    pub fn partitions_unsorted(&self) -> impl Iterator<Item = &PartitionState> {
        // A vacated slot is of the metadata chain, which has no partitions.
        let in_use = |state: &&PartitionState| state.chain != ChainId(0);
        self.partitions.iter().filter(in_use)
    }

    /// The partitions of one chain, in order. Sorts: not for every batch.
    pub fn partitions_of(&self, chain: ChainId) -> impl Iterator<Item = &PartitionState> {
        let slots = self
            .chain_index(chain)
            .map(|index| self.chains[index].slots.as_slice());
        let mut in_order = slots.unwrap_or_default().to_vec();
        in_order.sort_unstable_by_key(|slot| self.partitions[slot.index()].tp);
        in_order
            .into_iter()
            .map(|slot| &self.partitions[slot.index()])
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.homes.len()
    }

    /// The open chains, in order.
    pub fn chains(&self) -> impl Iterator<Item = ChainId> {
        self.chains.iter().map(|state| state.chain)
    }

    /// The last committed frame of a chain.
    pub fn commit_lsn(&self, chain: ChainId) -> Option<Lsn> {
        let index = self.chain_index(chain).ok()?;
        Some(self.chains[index].commit_lsn)
    }

    /// The epoch in which a chain's frames are stamped.
    pub fn epoch(&self, chain: ChainId) -> Option<ChainEpoch> {
        let index = self.chain_index(chain).ok()?;
        Some(self.chains[index].epoch)
    }

    /// What is known of the compaction of a partition, once it was compacted.
    pub fn compacted(&self, tp: TopicPartition) -> Option<&CompactedPartition> {
        self.compacted.get(&tp)
    }

    /// Bytes of a partition's batches that are there: what the log counts, less what compaction
    /// saved.
    pub fn stored_bytes(&self, state: &PartitionState) -> u64 {
        let compacted = self.compacted.get(&state.tp);
        compacted.map_or(state.bytes, |known| known.stored_bytes(state.bytes))
    }

    /// The state of a partition with the bytes that are there in the place of those counted.
    pub fn as_stored<'a>(&self, state: &'a PartitionState) -> Cow<'a, PartitionState> {
        let bytes = self.stored_bytes(state);
        if bytes == state.bytes {
            return Cow::Borrowed(state);
        }
        Cow::Owned(PartitionState {
            bytes,
            ..state.clone()
        })
    }

    /// Notes what is known of the compaction of a partition; of one that is gone, nothing.
    pub fn note_compacted(&mut self, tp: TopicPartition, compacted: CompactedPartition) {
        if self.homes.contains(tp) {
            self.compacted.insert(tp, compacted);
        }
    }

    /// The offsets of a partition whose records were lost, in order: recovery found the frames
    /// before and after, not those between.
    pub fn lost_ranges(&self, tp: TopicPartition) -> &[Range<Offset>] {
        self.lost.get(&tp).map_or(&[], Vec::as_slice)
    }

    /// Memory held, in bytes, counted by capacity.
    pub fn bytes(&self) -> usize {
        let chains: usize = self.chains.iter().map(ChainState::bytes).sum();
        self.homes.bytes()
            + self.partitions.capacity() * size_of::<PartitionState>()
            + self.free.capacity() * size_of::<PartitionSlot>()
            + chains
    }

    fn slot(&self, tp: TopicPartition) -> Option<PartitionSlot> {
        self.homes.get(tp).map(|home| home.slot)
    }

    /// The chain's place in `chains`, or where it belongs.
    fn chain_index(&self, chain: ChainId) -> Result<usize, usize> {
        self.chains
            .binary_search_by_key(&chain, |state| state.chain)
    }

    /// The chain's place.
    ///
    /// # Panics
    /// If it is not open: callers name chains that gave them a partition.
    fn open_index(&self, chain: ChainId) -> usize {
        self.chain_index(chain)
            .unwrap_or_else(|_| panic!("chain {chain} is not open here"))
    }

    fn add_partition(&mut self, tp: TopicPartition, chain_index: usize) -> PartitionSlot {
        let chain = &mut self.chains[chain_index];
        let state = PartitionState::empty(tp, chain.chain);
        let slot = if let Some(slot) = self.free.pop() {
            self.partitions[slot.index()] = state;
            slot
        } else {
            self.partitions.push(state);
            PartitionSlot::from_index(self.partitions.len() - 1)
        };
        chain.slots.push(slot);
        let chain_index = u32::try_from(chain_index).expect("a shard has few chains");
        self.homes.insert(tp, Home { slot, chain_index });
        slot
    }

    fn note_lost(&mut self, tp: TopicPartition, range: Range<Offset>) {
        let ranges = self.lost.entry(tp).or_default();
        let is_full = ranges.len() >= LOST_RANGES_MAX;
        match ranges.last_mut() {
            Some(last) if is_full || last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
}

#[cfg(test)]
mod tests;
