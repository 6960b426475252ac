//! Recovery: the committed state of a chain from its frames.
//!
//! Invariant: folding the frames above a section's LSN onto that section gives what the live path
//! had when it committed them. A refused frame changes nothing. A missing frame is not an error:
//! the offsets it held are noted as lost, and the log goes on behind them.

use std::ops::Range;

use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use thiserror::Error;

use super::control::{Control, ControlError, DroppedPartition};
use super::{OpenRefusal, PartitionState, ShardLog};
use crate::entry::FrameKind;
use crate::ids::Lsn;
use crate::limits::OFFSET_MAX;
use crate::producer::ProducerBatch;
use crate::recover::{BatchSummary, FrameSummary};

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folded {
    /// It is in the state already; only its extents are news to the index.
    Already,
    /// It is applied.
    Applied {
        /// Frames that are missing before it: `[first, first + count)`.
        lost: Option<(Lsn, u64)>,
        /// Partitions that it dropped, in order.
        dropped: Vec<DroppedPartition>,
    },
}

/// Why a frame does not belong behind the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FoldError {
    /// The chain is not open on this shard.
    #[error("chain {chain} is not open on this shard")]
    UnknownChain {
        /// The chain.
        chain: ChainId,
    },
    /// It is linked to another frame than the one before it: a stale frame.
    #[error("frame {lsn} of chain {chain} follows crc {found:#010x}, not {expected:#010x}")]
    BrokenLink {
        /// The chain.
        chain: ChainId,
        /// The frame.
        lsn: Lsn,
        /// The crc of the frame before it.
        expected: u32,
        /// The crc that it names.
        found: u32,
    },
    /// Its number is above any that was ever given out.
    #[error("frame {lsn} of chain {chain} has an impossible number")]
    Lsn {
        /// The chain.
        chain: ChainId,
        /// The frame.
        lsn: Lsn,
    },
    /// Epochs never go back along a chain.
    #[error("frame {lsn} of chain {chain} is of epoch {found}, after {current}")]
    EpochBack {
        /// The chain.
        chain: ChainId,
        /// The frame.
        lsn: Lsn,
        /// The epoch of the frame before it.
        current: ChainEpoch,
        /// Its epoch.
        found: ChainEpoch,
    },
    /// Its batches do not tile their partition.
    #[error("{tp}: a batch at {found} where {expected} or more belongs")]
    Offsets {
        /// The partition.
        tp: TopicPartition,
        /// The end of what is before.
        expected: Offset,
        /// The base offset found.
        found: Offset,
    },
    /// Its partition lives in another chain.
    #[error("partition {tp} lives in chain {current}; a frame of chain {found} writes to it")]
    OtherChain {
        /// The partition.
        tp: TopicPartition,
        /// Its chain.
        current: ChainId,
        /// The frame's chain.
        found: ChainId,
    },
    /// Its control body cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl ShardLog {
    /// Folds a recovered frame. Frames of one chain come in the order of their LSNs, before
    /// anything is admitted to the chain; those up to its commit LSN are passed over.
    ///
    /// On a chain with one replica every frame that recovery keeps is committed.
    ///
    /// # Errors
    /// [`FoldError`]; nothing changes.
    ///
    /// # Panics
    /// If batches or frames of the chain wait for their commit: recovery is over by then.
    pub fn fold(&mut self, frame: &FrameSummary) -> Result<Folded, FoldError> {
        let chain = frame.chain;
        let index = self
            .chain_index(chain)
            .map_err(|_| FoldError::UnknownChain { chain })?;
        let state = &self.chains[index];
        let idle = state.pending.is_empty() && state.frames.is_empty() && state.stamped.is_none();
        assert!(idle, "chain {chain} is in use; its recovery is over");
        if frame.lsn <= state.commit_lsn {
            return Ok(Folded::Already);
        }
        if frame.lsn.get() > OFFSET_MAX {
            let lsn = frame.lsn;
            return Err(FoldError::Lsn { chain, lsn });
        }
        let expected = state.commit_lsn.next();
        if frame.lsn == expected && frame.prev_frame_crc != state.commit_frame_crc {
            return Err(FoldError::BrokenLink {
                chain,
                lsn: frame.lsn,
                expected: state.commit_frame_crc,
                found: frame.prev_frame_crc,
            });
        }
        let current = state.committed_epoch();
        if frame.epoch < current {
            return Err(FoldError::EpochBack {
                chain,
                lsn: frame.lsn,
                current,
                found: frame.epoch,
            });
        }
        let mut dropped = Vec::new();
        if frame.kind == FrameKind::Batches {
            self.check_batches(frame)?;
            self.fold_batches(index, frame);
        } else {
            let control = Control::decode(frame.kind, &frame.body)?;
            dropped = self.apply_control(index, &control);
        }
        self.fold_advance(index, frame);
        let missing = frame.lsn.get() - expected.get();
        let lost = (missing > 0).then_some((expected, missing));
        Ok(Folded::Applied { lost, dropped })
    }

    /// Takes `count` offsets behind the end of a partition for lost: records may have been there,
    /// and nothing tells how many. Gives the range; the next record comes behind it.
    ///
    /// # Errors
    /// [`OpenRefusal`] if the partition cannot live in this chain; nothing changes.
    ///
    /// # Panics
    /// If batches of the partition wait for their commit: recovery is over by then.
    pub fn presume_lost(
        &mut self,
        tp: TopicPartition,
        chain: ChainId,
        count: u64,
    ) -> Result<Range<Offset>, OpenRefusal> {
        let state = self.recovering(tp, chain)?;
        let start = state.high_watermark;
        let end = Offset(start.get().saturating_add(count).min(OFFSET_MAX));
        (state.high_watermark, state.log_end) = (end, end);
        if start < end {
            self.note_lost(tp, start..end);
        }
        Ok(start..end)
    }

    /// The state of a partition that is recovered, which begins here if it is new.
    pub(super) fn recovering(
        &mut self,
        tp: TopicPartition,
        chain: ChainId,
    ) -> Result<&mut PartitionState, OpenRefusal> {
        self.ensure_partition(tp, chain)?;
        let slot = self.slot(tp).expect("the partition was just ensured");
        let state = &mut self.partitions[slot.index()];
        assert!(
            !state.has_uncommitted(),
            "{tp} is in use; its recovery is over"
        );
        Ok(state)
    }

    fn check_batches(&self, frame: &FrameSummary) -> Result<(), FoldError> {
        let mut previous: Option<(TopicPartition, Offset)> = None;
        for batch in &frame.batches {
            let BatchSummary {
                tp, base_offset, ..
            } = *batch;
            let expected = match previous {
                Some((previous_tp, end)) if previous_tp == tp => end,
                _ => self
                    .partition(tp)
                    .map_or(Offset(0), |state| state.high_watermark),
            };
            let continues = previous.is_some_and(|(previous_tp, _)| previous_tp == tp);
            let in_order = previous.is_none_or(|(previous_tp, _)| previous_tp <= tp);
            let tiles = if continues {
                base_offset == expected
            } else {
                base_offset >= expected
            };
            if !in_order || !tiles || batch.end_offset().get() > OFFSET_MAX {
                return Err(FoldError::Offsets {
                    tp,
                    expected,
                    found: base_offset,
                });
            }
            if let Some(state) = self.partition(tp)
                && state.chain != frame.chain
            {
                let (current, found) = (state.chain, frame.chain);
                return Err(FoldError::OtherChain { tp, current, found });
            }
            previous = Some((tp, batch.end_offset()));
        }
        Ok(())
    }

    fn fold_batches(&mut self, chain_index: usize, frame: &FrameSummary) {
        for (tp, extent) in &frame.rows {
            let slot = match self.slot(*tp) {
                Some(slot) => slot,
                None => self.add_partition(*tp, chain_index),
            };
            let end = self.partitions[slot.index()].high_watermark;
            if end < extent.base_offset {
                self.note_lost(*tp, end..extent.base_offset);
            }
            let state = &mut self.partitions[slot.index()];
            state.commit(extent.end_offset, extent.bytes, extent.max_timestamp_ms);
            state.log_end = extent.end_offset;
        }
        let producers = &mut self.chains[chain_index].producers;
        for batch in &frame.batches {
            let home = self.homes.get(batch.tp);
            let slot = home.expect("each batch belongs to a row").slot;
            let state = &mut self.partitions[slot.index()];
            state.append_time_ms = state.append_time_ms.max(batch.append_time_ms);
            if batch.producer.get() != 0 {
                let producer_batch = ProducerBatch {
                    producer: batch.producer,
                    epoch: batch.producer_epoch,
                    sequence: batch.sequence,
                    record_count: batch.record_count,
                };
                let (base_offset, time_ms) = (batch.base_offset, batch.append_time_ms);
                producers.record(slot, &producer_batch, base_offset, time_ms);
            }
        }
    }

    fn fold_advance(&mut self, chain_index: usize, frame: &FrameSummary) {
        let state = &mut self.chains[chain_index];
        state.advance(frame.lsn, frame.crc, frame.epoch);
        state.epoch = state.epoch.max(frame.epoch);
        state.next_lsn = frame.lsn.next();
        state.prev_frame_crc = frame.crc;
    }
}
