//! The state of one chain: LSNs, links, epochs, its producers, and what is not committed yet.
//!
//! Invariant: `commit_lsn < next_lsn`, and `frames` holds exactly the placed frames between them,
//! in order. `pending` undoes the effects of what is admitted but not committed, oldest first; an
//! entry is dropped only when it is committed.

use std::collections::VecDeque;

use catena_protocol::ids::{ChainEpoch, ChainId, Offset, ProducerId};

use crate::checkpoint::ChainSection;
use crate::ids::Lsn;
use crate::limits::EPOCH_HISTORY_MAX;
use crate::producer::{ProducerKey, ProducerRow, ProducerTable};
use crate::slot::PartitionSlot;

#[derive(Debug)]
pub(super) struct ChainState {
    pub(super) chain: ChainId,
    /// Frames are stamped in this epoch.
    pub(super) epoch: ChainEpoch,
    pub(super) next_lsn: Lsn,
    /// A frame that has its LSN but not its crc.
    pub(super) stamped: Option<Lsn>,
    pub(super) prev_frame_crc: u32,
    pub(super) commit_lsn: Lsn,
    pub(super) commit_frame_crc: u32,
    /// Each epoch of a committed frame with the first such frame.
    pub(super) epoch_history: Vec<(ChainEpoch, Lsn)>,
    pub(super) frames: VecDeque<PendingFrame>,
    pub(super) pending: VecDeque<PendingBatch>,
    /// Rows of an expiry frame that is not committed, sorted. Their producers wait.
    pub(super) expiring: Vec<ProducerKey>,
    pub(super) producers: ProducerTable,
    /// Its partitions, in no order.
    pub(super) slots: Vec<PartitionSlot>,
}

/// A frame that is placed but not committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingFrame {
    pub(super) lsn: Lsn,
    pub(super) crc: u32,
    pub(super) epoch: ChainEpoch,
}

/// How to undo the admission of a batch. It is committed when its partition's high watermark has
/// reached `end_offset`: a partition's batches commit in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingBatch {
    pub(super) slot: PartitionSlot,
    pub(super) end_offset: Offset,
    pub(super) append_time_before_ms: i64,
    /// Zero for a batch that is not idempotent.
    pub(super) producer: ProducerId,
    pub(super) row_before: Option<ProducerRow>,
}

impl PendingBatch {
    pub(super) fn producer_key(&self) -> Option<ProducerKey> {
        let ProducerId(number) = self.producer;
        (number != 0).then_some(ProducerKey {
            slot: self.slot,
            producer: self.producer,
        })
    }
}

impl ChainState {
    pub(super) fn new(section: &ChainSection, epoch: ChainEpoch) -> Self {
        Self {
            chain: section.chain,
            epoch,
            next_lsn: section.lsn.next(),
            stamped: None,
            prev_frame_crc: section.last_frame_crc,
            commit_lsn: section.lsn,
            commit_frame_crc: section.last_frame_crc,
            epoch_history: section.epoch_history.clone(),
            frames: VecDeque::new(),
            pending: VecDeque::new(),
            expiring: Vec::new(),
            producers: ProducerTable::default(),
            slots: Vec::new(),
        }
    }

    /// The epoch of the last committed frame, 0 before the first.
    pub(super) fn committed_epoch(&self) -> ChainEpoch {
        self.epoch_history
            .last()
            .map_or(ChainEpoch(0), |(epoch, _)| *epoch)
    }

    /// Notes a committed frame; its effects are applied by the caller.
    pub(super) fn advance(&mut self, lsn: Lsn, crc: u32, epoch: ChainEpoch) {
        self.commit_lsn = lsn;
        self.commit_frame_crc = crc;
        if epoch > self.committed_epoch() {
            if self.epoch_history.len() == EPOCH_HISTORY_MAX {
                self.epoch_history.remove(0);
            }
            self.epoch_history.push((epoch, lsn));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.producers.bytes()
            + self.slots.capacity() * size_of::<PartitionSlot>()
            + self.pending.capacity() * size_of::<PendingBatch>()
            + self.frames.capacity() * size_of::<PendingFrame>()
            + self.epoch_history.capacity() * size_of::<(ChainEpoch, Lsn)>()
    }
}
