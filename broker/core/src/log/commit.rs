//! From LSN to commit: stamping frames, linking them, raising high watermarks.
//!
//! Invariant: frames of a chain are stamped, placed and committed in LSN order, one at a time.
//! The order is the broker's own; a call out of order is a bug and panics.

use catena_protocol::ids::{ChainId, Offset, TopicPartition};

use super::ShardLog;
use super::chain::{PendingBatch, PendingFrame};
use super::partition::PartitionState;
use crate::block::{FrameStamp, PlacedRow};
use crate::entry::FrameKind;
use crate::ids::Lsn;

impl ShardLog {
    /// Gives the chain's next frame its LSN. The frame must be placed before the next is stamped.
    ///
    /// # Panics
    /// If the chain is not open, or its last stamped frame was not placed.
    pub fn stamp(&mut self, chain: ChainId) -> FrameStamp {
        let index = self.open_index(chain);
        let state = &mut self.chains[index];
        assert!(
            state.stamped.is_none(),
            "chain {chain}: the stamped frame is not placed yet"
        );
        let lsn = state.next_lsn;
        state.stamped = Some(lsn);
        state.next_lsn = lsn.next();
        FrameStamp {
            chain,
            epoch: state.epoch,
            lsn,
            prev_frame_crc: state.prev_frame_crc,
            commit_lsn_hint: state.commit_lsn,
        }
    }

    /// Tells that the stamped frame lies in a block with this crc, to which the next is linked.
    ///
    /// # Panics
    /// If `lsn` is not that of the stamped frame.
    pub fn placed(&mut self, chain: ChainId, lsn: Lsn, crc: u32, _kind: FrameKind) {
        let index = self.open_index(chain);
        let state = &mut self.chains[index];
        let stamped = state.stamped.take();
        assert_eq!(
            stamped,
            Some(lsn),
            "chain {chain}: another frame was stamped"
        );
        state.prev_frame_crc = crc;
        state.frames.push_back(PendingFrame {
            lsn,
            crc,
            epoch: state.epoch,
        });
    }

    /// Tells that a frame of batches is durable: the high watermark of each row's partition rises
    /// to the end of the row. A row of a partition that was dropped meanwhile is passed over.
    ///
    /// # Panics
    /// If `lsn` is not the chain's next to commit, or a row does not start at the high watermark.
    pub fn committed(&mut self, chain: ChainId, lsn: Lsn, rows: &[PlacedRow]) {
        let index = self.open_index(chain);
        self.pop_frame(index, lsn);
        for row in rows {
            let Some(slot) = self.slot(row.tp) else {
                continue;
            };
            let state = &mut self.partitions[slot.index()];
            assert_eq!(
                row.base_offset, state.high_watermark,
                "{}: the committed batches do not follow the high watermark",
                row.tp,
            );
            state.commit(row.end_offset, row.bytes, row.max_timestamp_ms);
        }
        let partitions = &self.partitions;
        let pending = &mut self.chains[index].pending;
        while pending
            .front()
            .is_some_and(|batch| is_committed(partitions, batch))
        {
            pending.pop_front();
        }
    }

    /// Forgets what is admitted but not committed on a chain: the end of the log is the high
    /// watermark again, the next LSN follows the commit LSN.
    ///
    /// # Panics
    /// If the chain is not open.
    pub fn drop_uncommitted(&mut self, chain: ChainId) {
        let index = self.open_index(chain);
        let chain = &mut self.chains[index];
        while let Some(batch) = chain.pending.pop_back() {
            let state = &mut self.partitions[batch.slot.index()];
            if is_committed_in(state, &batch) {
                continue;
            }
            state.log_end = state.high_watermark;
            state.append_time_ms = batch.append_time_before_ms;
            if let Some(key) = batch.producer_key() {
                chain.producers.restore(key, batch.row_before);
            }
        }
        chain.frames.clear();
        chain.expiring.clear();
        chain.stamped = None;
        chain.next_lsn = chain.commit_lsn.next();
        chain.prev_frame_crc = chain.commit_frame_crc;
    }

    /// Whether a duplicate that `admit` refused may be answered: everything its producer appended
    /// up to `commit_offset` is committed. False for a partition that is gone.
    pub fn is_committed(&self, tp: TopicPartition, commit_offset: Offset) -> bool {
        self.partition(tp)
            .is_some_and(|state| state.high_watermark >= commit_offset)
    }

    /// Takes the chain's oldest placed frame, which is committed now.
    pub(super) fn pop_frame(&mut self, chain_index: usize, lsn: Lsn) {
        let state = &mut self.chains[chain_index];
        let frame = state.frames.pop_front();
        let frame = frame.filter(|frame| frame.lsn == lsn).unwrap_or_else(|| {
            panic!(
                "chain {}: frame {lsn} is not the next to commit",
                state.chain
            )
        });
        state.advance(lsn, frame.crc, frame.epoch);
    }
}

pub(super) fn is_committed(partitions: &[PartitionState], batch: &PendingBatch) -> bool {
    is_committed_in(&partitions[batch.slot.index()], batch)
}

fn is_committed_in(state: &PartitionState, batch: &PendingBatch) -> bool {
    batch.end_offset <= state.high_watermark
}
